//! As much of a kernel as the tests here need, to be bent by hand: a channel of pcid whose answers are written out,
//! interrupts, and memory. The model of the whole kernel is a package of its own.

use std::alloc::{Layout, alloc_zeroed};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use syscall::error::{EBADF, EEXIST, EINVAL, ENOENT, ENOMEM, ENOSYS, Error, Result};
use syscall::flag::{MapFlags, O_CREAT};

use crate::redox::{Descriptor, System};

/// What a descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum File {
    Channel,
    Irq(String),
    Bsp,
    MemoryRoot,
    Zeroed,
    Translation,
    /// What a waiter opens.
    Other,
}

type Answerer = Box<dyn FnMut(&[u8]) -> Result<Vec<u8>> + Send>;

#[derive(Default)]
pub struct State {
    pub files: BTreeMap<usize, File>,
    next: usize,
    answerer: Option<Answerer>,
    answer: VecDeque<u8>,
    /// Bytes that one read of the channel gives at most.
    pub chunk: usize,
    pub requests: Vec<Vec<u8>>,
    /// By directory.
    pub free_irqs: BTreeMap<String, BTreeSet<u8>>,
    /// Numbers that somebody else takes between the listing and the opening.
    pub raced: BTreeSet<u8>,
    /// Interrupts that were opened, in order.
    pub opened_irqs: Vec<String>,
    pub translations: usize,
    /// Pages as the device sees them, by their address here.
    pub physical: HashMap<usize, u64>,
    next_physical: u64,
    /// What is said to be the CPU that the system was started on.
    pub boot_cpu: u32,
    /// Whether memory that ought to be in one piece is not.
    pub scattered: bool,
    pub mapped: BTreeMap<usize, usize>,
    pub maps: Vec<(File, u64, usize, MapFlags)>,
    pub left: bool,
    pub pinned: Vec<u32>,
}

/// The kernel.
pub struct Fake(Mutex<State>);

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            next: 100,
            chunk: usize::MAX,
            next_physical: 0x1000_0000,
            ..State::default()
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn system(self: &Arc<Self>) -> Arc<dyn System> {
        Arc::clone(self) as Arc<dyn System>
    }

    /// A channel whose answers, with their lengths, are `answerer`'s.
    pub fn channel(
        self: &Arc<Self>,
        answerer: impl FnMut(&[u8]) -> Result<Vec<u8>> + Send + 'static,
    ) -> Descriptor {
        let mut state = self.lock();
        state.answerer = Some(Box::new(answerer));
        let number = state.insert(File::Channel);
        drop(state);
        Descriptor::new(&self.system(), number)
    }
}

impl State {
    fn insert(&mut self, file: File) -> usize {
        self.next += 1;
        self.files.insert(self.next, file);
        self.next
    }
}

// SAFETY: mappings are allocations that are never given back, each of its own.
unsafe impl System for Fake {
    fn open(&self, path: &str, flags: usize) -> Result<usize> {
        let mut state = self.lock();
        if state.left {
            return Err(Error::new(ENOENT));
        }
        let file = match path {
            "/scheme/event" | "/scheme/pipe" | "/scheme/time/4" => File::Other,
            "/scheme/irq/bsp" => File::Bsp,
            "/scheme/memory/scheme-root" => File::MemoryRoot,
            path => {
                let (directory, number) = path.rsplit_once('/').ok_or(Error::new(ENOENT))?;
                let is_line = directory == "/scheme/irq";
                if !is_line {
                    if flags & O_CREAT == 0 {
                        return Err(Error::new(EINVAL));
                    }
                    let irq = number.parse().map_err(|_| Error::new(ENOENT))?;
                    let raced = state.raced.contains(&irq);
                    let free = state.free_irqs.get_mut(directory).ok_or(Error::new(ENOENT))?;
                    if raced || !free.remove(&irq) {
                        return Err(Error::new(EEXIST));
                    }
                }
                state.opened_irqs.push(path.to_owned());
                File::Irq(path.to_owned())
            }
        };
        Ok(state.insert(file))
    }

    fn openat(&self, directory: usize, path: &str, _flags: usize) -> Result<usize> {
        let mut state = self.lock();
        if state.files.get(&directory) != Some(&File::MemoryRoot) {
            return Err(Error::new(EBADF));
        }
        match path {
            "zeroed@wb?phys_contiguous" => Ok(state.insert(File::Zeroed)),
            "translation" => Ok(state.insert(File::Translation)),
            _ => Err(Error::new(ENOENT)),
        }
    }

    fn dup(&self, _descriptor: usize, _name: &[u8]) -> Result<usize> {
        Ok(self.lock().insert(File::Other))
    }

    fn close(&self, descriptor: usize) {
        let file = self.lock().files.remove(&descriptor);
        assert!(file.is_some(), "{descriptor} is not open");
    }

    fn set_close_on_exec(&self, _descriptor: usize) -> Result<()> {
        Ok(())
    }

    fn read(&self, descriptor: usize, into: &mut [u8]) -> Result<usize> {
        let mut state = self.lock();
        match state.files.get(&descriptor) {
            Some(File::Channel) => {
                let len = into.len().min(state.chunk).min(state.answer.len());
                for (to, byte) in into.iter_mut().zip(state.answer.drain(..len)) {
                    *to = byte;
                }
                Ok(len)
            }
            // The kernel writes four bytes, and says eight.
            Some(File::Bsp) => {
                into[..4].copy_from_slice(&state.boot_cpu.to_ne_bytes());
                Ok(8)
            }
            _ => Err(Error::new(EBADF)),
        }
    }

    fn write(&self, descriptor: usize, from: &[u8]) -> Result<usize> {
        let mut state = self.lock();
        match state.files.get(&descriptor) {
            Some(File::Channel) => {
                state.requests.push(from.to_vec());
                let mut answerer = state.answerer.take().unwrap();
                let answer = answerer(from);
                state.answerer = Some(answerer);
                state.answer = answer?.into();
                Ok(from.len())
            }
            Some(File::Other) => Ok(from.len()),
            _ => Err(Error::new(EBADF)),
        }
    }

    fn call(&self, descriptor: usize, payload: &mut [u8], _metadata: &[u64]) -> Result<usize> {
        let mut state = self.lock();
        if state.files.get(&descriptor) != Some(&File::Translation) {
            return Err(Error::new(ENOSYS));
        }
        state.translations += 1;
        let address = usize::from_ne_bytes(payload.try_into().unwrap());
        let physical = *state.physical.get(&(address & !4095)).ok_or(Error::new(ENOENT))?;
        // As the kernel does: without the offset within the page.
        payload.copy_from_slice(&physical.to_ne_bytes());
        Ok(0)
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let state = self.lock();
        if path == "/scheme/irq" {
            let cpus = state.free_irqs.keys().filter_map(|path| path.rsplit_once('/'));
            return Ok(cpus
                .map(|(_, cpu)| cpu.to_owned())
                .chain(["bsp".to_owned()])
                .collect());
        }
        let free = state.free_irqs.get(path).ok_or(Error::new(ENOENT))?;
        Ok(free.iter().map(u8::to_string).collect())
    }

    fn map(&self, descriptor: usize, offset: u64, len_bytes: usize, flags: MapFlags) -> Result<NonNull<u8>> {
        let mut state = self.lock();
        let file = state.files.get(&descriptor).cloned().ok_or(Error::new(EBADF))?;
        if file != File::Channel && file != File::Zeroed {
            return Err(Error::new(EINVAL));
        }
        state.maps.push((file.clone(), offset, len_bytes, flags));
        if file == File::Zeroed && len_bytes > 4 << 20 {
            return Err(Error::new(ENOMEM));
        }
        let layout = Layout::from_size_align(len_bytes, 4096).unwrap();
        // SAFETY: not empty; nobody asks for a mapping of nothing.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
        for page in 0..len_bytes.div_ceil(4096) {
            let physical = state.next_physical;
            state.next_physical += if state.scattered { 8192 } else { 4096 };
            state
                .physical
                .insert(start.as_ptr() as usize + page * 4096, physical);
        }
        // What comes next does not follow.
        state.next_physical += 1 << 20;
        state.mapped.insert(start.as_ptr() as usize, len_bytes);
        Ok(start)
    }

    unsafe fn unmap(&self, start: NonNull<u8>, len_bytes: usize) {
        let mapped = self.lock().mapped.remove(&(start.as_ptr() as usize));
        assert_eq!(mapped, Some(len_bytes));
    }

    fn create_scheme(&self) -> Result<usize> {
        Err(Error::new(ENOSYS))
    }

    fn register_scheme(&self, _socket: usize, _name: &str, _root: usize) -> Result<()> {
        Err(Error::new(ENOSYS))
    }

    fn leave_namespace(&self) -> Result<()> {
        self.lock().left = true;
        Ok(())
    }

    fn pin_thread(&self, cpu: u32) -> Result<()> {
        self.lock().pinned.push(cpu);
        Ok(())
    }
}
