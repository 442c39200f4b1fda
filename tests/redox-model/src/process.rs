//! A process of the machine: the driver's view of the kernel, call by call.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvme_driver::redox::System;
use syscall::error::{
    EACCES, EBADF, EEXIST, EINVAL, EISDIR, ENODEV, ENOENT, ENOMEM, EOPNOTSUPP, Error, Result,
};
use syscall::flag::MapFlags;

use crate::calls::{Operation, What};
use crate::kernel::{ClockUse, Kernel, MemoryUse, Object, State};
use crate::pages::{MAX_CONTIGUOUS_BYTES, PAGE_BYTES};

/// Descriptors are the machine's, and so is memory; what is a process's own is whether it may still open paths.
pub(crate) struct Process {
    kernel: Arc<Kernel>,
    left_namespace: AtomicBool,
}

impl Process {
    pub fn new(kernel: &Arc<Kernel>) -> Self {
        Self {
            kernel: Arc::clone(kernel),
            left_namespace: AtomicBool::new(false),
        }
    }

    fn check_namespace(&self) -> Result<()> {
        if self.left_namespace.load(Ordering::Acquire) {
            return Err(Error::new(ENOENT));
        }
        Ok(())
    }
}

/// `/scheme/NAME/rest` as `NAME` and `rest`.
pub(crate) fn split_path(path: &str) -> Result<(&str, &str)> {
    let path = path.strip_prefix("/scheme/").ok_or(Error::new(ENOENT))?;
    Ok(path.split_once('/').unwrap_or((path, "")))
}

fn what_of_scheme(scheme: &str) -> What {
    match scheme {
        "event" => What::Event,
        "irq" => What::Irq,
        "memory" => What::Memory,
        "pipe" => What::Pipe,
        "sys" => What::Sys,
        "time" => What::Time,
        _ => What::Other,
    }
}

impl State {
    fn open(&mut self, path: &str, flags: usize, cpus: u32) -> Result<usize> {
        let (scheme, rest) = split_path(path)?;
        self.calls.note(Operation::Open, what_of_scheme(scheme));
        match scheme {
            "event" => {
                let description = self.next_id();
                self.events.open(description);
                Ok(self.insert_as(description, Object::EventQueue, flags, path))
            }
            "pipe" if rest.trim_matches('/').is_empty() => Ok(self.open_pipe(flags, path).1),
            "irq" => self.open_irq(rest, flags),
            "memory" => self.open_memory(rest, flags, path),
            "sys" if rest == "cpu" => {
                // What comes after the first line is the vendor and what it is proud of.
                let text =
                    format!("CPUs: {cpus}\nVendor: GenuineIntel\nModel: 1 CPU of a model of CPUs: 64\n");
                Ok(self.insert(Object::Text(text.into_bytes().into()), flags, path))
            }
            "time" => self.open_clock(rest, flags, path),
            // A driver does not open its own schemes, nor another's.
            _ if self.schemes.contains_key(scheme) => Err(Error::new(ENODEV)),
            _ => Err(Error::new(ENOENT)),
        }
    }

    fn open_clock(&mut self, rest: &str, flags: usize, path: &str) -> Result<usize> {
        let (clock, kind) = rest.split_once('/').unwrap_or((rest, ""));
        let clock = match (clock, kind) {
            ("1" | "4", "") => ClockUse::Both,
            ("1" | "4", "gettime") => ClockUse::Reading,
            ("1" | "4", "getres") => ClockUse::Resolution,
            ("1" | "4", "timer") => ClockUse::Timer,
            _ => return Err(Error::new(ENOENT)),
        };
        Ok(self.insert(Object::Clock(clock), flags, path))
    }

    fn open_memory(&mut self, rest: &str, flags: usize, path: &str) -> Result<usize> {
        let rest = rest.trim_start_matches('/');
        let (kind, attributes) = rest.split_once('@').unwrap_or((rest, ""));
        let (cache, options) = attributes.split_once('?').unwrap_or((attributes, ""));
        let contiguous = match options {
            "" => false,
            "phys_contiguous" => true,
            _ => return Err(Error::new(ENOENT)),
        };
        if !matches!(cache, "" | "wb" | "wc" | "uc" | "dev") {
            return Err(Error::new(ENOENT));
        }
        let object = match kind {
            "" | "zeroed" if contiguous => Object::Memory(MemoryUse::ZeroedContiguous),
            "" | "zeroed" => Object::Memory(MemoryUse::Zeroed),
            "physical" => Object::Memory(MemoryUse::Physical),
            "translation" => Object::Translation,
            "scheme-root" => Object::MemoryRoot,
            _ => return Err(Error::new(ENOENT)),
        };
        Ok(self.insert(object, flags, path))
    }

    /// The last descriptor of `object` is gone.
    pub fn close_object(&mut self, description: u64, object: &Object) {
        self.events.close(description);
        match object {
            Object::PipeReader(pipe) => self.close_pipe(*pipe, false),
            Object::PipeWriter(pipe) => self.close_pipe(*pipe, true),
            Object::Irq(_) => self.irqs.close(description),
            Object::Socket(socket) => self.close_socket(*socket),
            Object::Channel(controller) => controller.close_channel(),
            _ => {}
        }
    }

    fn read_text(&mut self, description: u64, text: &[u8], into: &mut [u8]) -> Result<usize> {
        let open = self.description(description).ok_or(Error::new(EBADF))?;
        let rest = text.get(open.position..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        open.position += count;
        Ok(count)
    }
}

// SAFETY: mappings are made by the system that this runs on, where nothing is mapped, and stay until `unmap`.
unsafe impl System for Process {
    fn open(&self, path: &str, flags: usize) -> Result<usize> {
        self.check_namespace()
            .inspect_err(|_| self.kernel.lock().calls.note(Operation::Open, What::Other))?;
        self.kernel.lock().open(path, flags, self.kernel.cpus)
    }

    fn openat(&self, directory: usize, path: &str, flags: usize) -> Result<usize> {
        let mut state = self.kernel.lock();
        match state.find_for(Operation::OpenAt, directory)?.1 {
            Object::MemoryRoot => {
                let whole = format!("/scheme/memory/{path}");
                state.open_memory(path, flags, &whole)
            }
            // The other way to say `dup` with "write".
            Object::PipeReader(_) if path == "write" => Err(Error::new(EINVAL)),
            Object::PipeReader(pipe) => state.open_pipe_writer(pipe, flags),
            Object::PipeWriter(_) => Err(Error::new(EBADF)),
            Object::Socket(_) | Object::Channel(_) | Object::Text(_) => Err(Error::new(EOPNOTSUPP)),
            _ => Err(Error::new(EACCES)),
        }
    }

    fn dup(&self, descriptor: usize, name: &[u8]) -> Result<usize> {
        let mut state = self.kernel.lock();
        let (description, object) = state.find_for(Operation::Dup, descriptor)?;
        if name.is_empty() {
            return Ok(state.insert_again(description));
        }
        drop(state);
        match object {
            Object::PipeReader(pipe) => self.kernel.dup_pipe(description, pipe, name),
            Object::PipeWriter(_) => Err(Error::new(EBADF)),
            _ => Err(Error::new(EOPNOTSUPP)),
        }
    }

    fn close(&self, descriptor: usize) {
        let mut state = self.kernel.lock();
        if let Ok(Some((description, object))) = state.remove(descriptor) {
            state.close_object(description, &object);
        }
    }

    fn set_close_on_exec(&self, descriptor: usize) -> Result<()> {
        self.kernel.lock().set_close_on_exec(descriptor)
    }

    fn read(&self, descriptor: usize, into: &mut [u8]) -> Result<usize> {
        let mut state = self.kernel.lock();
        let (description, object) = state.find_for(Operation::Read, descriptor)?;
        if let Object::Text(text) = &object {
            return state.read_text(description, text, into);
        }
        drop(state);
        match object {
            Object::EventQueue => self.kernel.read_events(description, into),
            Object::PipeReader(pipe) => self.kernel.read_pipe(description, pipe, into),
            Object::Clock(clock) => self.kernel.read_clock(clock, into),
            Object::Irq(irq) => self.kernel.read_irq(description, irq, into),
            Object::IrqBsp => self.kernel.read_bsp(into),
            Object::Directory => Err(Error::new(EISDIR)),
            Object::Socket(socket) => self.kernel.read_socket(description, socket, into),
            Object::Channel(controller) => controller.read_channel(into),
            Object::PipeWriter(_)
            | Object::MemoryRoot
            | Object::Memory(_)
            | Object::Translation
            | Object::Text(_) => Err(Error::new(EBADF)),
        }
    }

    fn write(&self, descriptor: usize, from: &[u8]) -> Result<usize> {
        let (description, object) = self.kernel.lock().find_for(Operation::Write, descriptor)?;
        match object {
            Object::EventQueue => self.kernel.write_events(description, from),
            Object::PipeWriter(pipe) => self.kernel.write_pipe(description, pipe, from),
            Object::Clock(clock) => self.kernel.write_clock(description, clock, from),
            Object::Irq(irq) => self.kernel.write_irq(description, irq, from),
            Object::Socket(socket) => self.kernel.write_socket(socket, from),
            Object::Channel(controller) => controller.write_channel(from),
            _ => Err(Error::new(EBADF)),
        }
    }

    fn call(&self, descriptor: usize, payload: &mut [u8], _metadata: &[u64]) -> Result<usize> {
        let (_, object) = self.kernel.lock().find_for(Operation::Call, descriptor)?;
        match object {
            Object::Translation => {
                let word = payload.first_chunk_mut().ok_or(Error::new(EINVAL))?;
                let page = self.kernel.pages.translate(usize::from_ne_bytes(*word));
                *word = (page.ok_or(Error::new(ENOENT))? as usize).to_ne_bytes();
                Ok(0)
            }
            _ => Err(Error::new(EOPNOTSUPP)),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let mut state = self.kernel.lock();
        let path = path.trim_end_matches('/');
        if path == "/scheme" {
            state.calls.note(Operation::List, What::Other);
            self.check_namespace()?;
            let own = ["event", "irq", "memory", "pipe", "sys", "time"].map(str::to_owned);
            return Ok(own.into_iter().chain(state.schemes.keys().cloned()).collect());
        }
        let (scheme, rest) = split_path(path)?;
        state.calls.note(Operation::List, what_of_scheme(scheme));
        self.check_namespace()?;
        match scheme {
            "irq" => state.list_irqs(rest),
            _ => Err(Error::new(ENOENT)),
        }
    }

    fn map(&self, descriptor: usize, offset: u64, len_bytes: usize, flags: MapFlags) -> Result<NonNull<u8>> {
        let (_, object) = self.kernel.lock().find_for(Operation::Map, descriptor)?;
        let is_whole = len_bytes > 0 && len_bytes.is_multiple_of(PAGE_BYTES);
        match object {
            Object::Memory(MemoryUse::Physical) => Err(Error::new(EACCES)),
            Object::Memory(kind) => {
                let contiguous = matches!(kind, MemoryUse::ZeroedContiguous);
                if !is_whole {
                    return Err(Error::new(EINVAL));
                }
                if contiguous && flags.contains(MapFlags::MAP_SHARED) {
                    return Err(Error::new(EOPNOTSUPP));
                }
                if contiguous && len_bytes > MAX_CONTIGUOUS_BYTES {
                    return Err(Error::new(ENOMEM));
                }
                let used_bytes = self.kernel.pages.own_bytes();
                if used_bytes + len_bytes > self.kernel.quirks.memory_bytes {
                    return Err(Error::new(ENOMEM));
                }
                let writable = flags.contains(MapFlags::PROT_WRITE);
                self.kernel.pages.map_own(len_bytes, contiguous, writable)
            }
            Object::Channel(controller) if len_bytes > 0 => controller.map_bar(offset, len_bytes, flags),
            Object::Channel(_) => Err(Error::new(EINVAL)),
            _ => Err(Error::new(EOPNOTSUPP)),
        }
    }

    unsafe fn unmap(&self, start: NonNull<u8>, len_bytes: usize) {
        let mut state = self.kernel.lock();
        state.calls.note(Operation::Unmap, What::Memory);
        drop(state);
        self.kernel.pages.unmap(start, len_bytes);
    }

    fn create_scheme(&self) -> Result<usize> {
        let mut state = self.kernel.lock();
        state.calls.note(Operation::CreateScheme, What::Socket);
        self.check_namespace()?;
        Ok(state.create_socket())
    }

    fn register_scheme(&self, socket: usize, name: &str, root: usize) -> Result<()> {
        let mut state = self.kernel.lock();
        let (_, object) = state.find_for(Operation::RegisterScheme, socket)?;
        self.check_namespace()?;
        let is_kernels = what_of_scheme(name) != What::Other;
        match object {
            _ if is_kernels => Err(Error::new(EEXIST)),
            Object::Socket(socket) => state.register_scheme(socket, name, root),
            _ => Err(Error::new(EBADF)),
        }
    }

    fn leave_namespace(&self) -> Result<()> {
        let mut state = self.kernel.lock();
        state.calls.note(Operation::LeaveNamespace, What::Other);
        self.left_namespace.store(true, Ordering::Release);
        Ok(())
    }

    fn pin_thread(&self, cpu: u32) -> Result<()> {
        let mut state = self.kernel.lock();
        state.calls.note(Operation::PinThread, What::Other);
        if cpu >= self.kernel.cpus {
            return Err(Error::new(EINVAL));
        }
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        state.affinity.push((thread, cpu));
        Ok(())
    }
}
