//! A function's BAR, mapped through its channel.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use syscall::flag::MapFlags;

use super::ConnectError;
use super::pcid::{Bar, Function};
use crate::backend::{BackendError, Doorbell};
use crate::redox::{Descriptor, Failure};

const PAGE_BYTES: u64 = 4096;
/// More than this is not mapped. The registers and doorbells of any number of queues that this driver makes are within,
/// while a BAR may hold gigabytes of other things besides.
const MAX_MAPPED_BYTES: u64 = 2 << 20;
/// Where the number of the BAR is in the offset of a mapping, and where the type of memory.
const BAR_SHIFT: u32 = 61;
const TYPE_SHIFT: u32 = 59;
/// Neither cached nor combined: a register is read and written as often as the program says.
const UNCACHEABLE: u64 = 1;

/// A mapped BAR.
pub struct MappedBar {
    channel: Arc<Descriptor>,
    start: NonNull<u8>,
    len: usize,
    /// Whether it has been said that somebody reached beyond it.
    has_warned: AtomicBool,
}

// SAFETY: an address; what is behind it is accessed by volatile reads and writes and by atomic stores only, which a device
// takes from any thread.
unsafe impl Send for MappedBar {}
// SAFETY: as above.
unsafe impl Sync for MappedBar {}

impl MappedBar {
    /// Maps BAR `number` of `function`, from its start and at least `needed_bytes` of it.
    ///
    /// # Errors
    /// There is no such BAR, it is shorter, or the kernel does not map it.
    pub fn map(
        channel: &Arc<Descriptor>,
        function: &Function,
        number: u8,
        needed_bytes: u64,
    ) -> Result<Arc<Self>, ConnectError> {
        let wrong = |what: String| ConnectError::Bar { number, what };
        let bar = function.bars.get(usize::from(number)).copied();
        let bar_bytes = match bar.unwrap_or(Bar::None) {
            Bar::Memory { len_bytes, .. } => len_bytes,
            Bar::Port(port) => return Err(wrong(format!("it is the I/O port {port:#x}, not memory"))),
            Bar::None => return Err(wrong("the function does not have it".to_owned())),
        };
        if bar_bytes < needed_bytes {
            return Err(wrong(format!(
                "it has {bar_bytes} bytes, and what is to be in it needs {needed_bytes}"
            )));
        }
        // A BAR's length is a power of two; if it is less than a page, the bus has given it the rest of that page too.
        let len_bytes = bar_bytes
            .min(MAX_MAPPED_BYTES.max(needed_bytes))
            .checked_next_multiple_of(PAGE_BYTES)
            .and_then(|len_bytes| usize::try_from(len_bytes).ok());
        let Some(len) = len_bytes.filter(|len| *len > 0) else {
            return Err(wrong(format!("{bar_bytes} bytes cannot be mapped")));
        };
        let offset = (u64::from(number) << BAR_SHIFT) | (UNCACHEABLE << TYPE_SHIFT);
        let flags = MapFlags::PROT_READ | MapFlags::PROT_WRITE | MapFlags::MAP_SHARED;
        let start = channel
            .system()
            .map(channel.number(), offset, len, flags)
            .map_err(Failure::of(format!(
                "mapping {len} bytes of BAR {number} through pcid's channel"
            )))?;
        Ok(Arc::new(Self {
            channel: Arc::clone(channel),
            start,
            len,
            has_warned: AtomicBool::new(false),
        }))
    }

    /// Bytes that are mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The 32 bits at `offset`, if they are inside and aligned.
    fn register(&self, offset: usize) -> Option<NonNull<u32>> {
        if !offset.is_multiple_of(4) || offset.checked_add(4)? > self.len {
            return None;
        }
        // SAFETY: inside the mapping, as checked.
        Some(unsafe { self.start.add(offset) }.cast())
    }

    fn warn(&self, offset: usize) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            let len = self.len;
            log::error!(
                "a register at {offset:#x} is not within the {len} bytes of the BAR that are mapped; it reads as all ones, \
                 and what is written there is lost"
            );
        }
    }

    /// Reads 32 bits. All ones beyond the end, as the bus has it.
    pub fn read32(&self, offset: usize) -> u32 {
        let Some(register) = self.register(offset) else {
            self.warn(offset);
            return u32::MAX;
        };
        // SAFETY: mapped and aligned, as `register` says.
        let value = unsafe { register.as_ptr().read_volatile() };
        // What the device wrote to memory before it changed the register is seen after it.
        fence(Ordering::Acquire);
        value
    }

    /// Writes 32 bits. Beyond the end nothing happens.
    pub fn write32(&self, offset: usize, value: u32) {
        let Some(register) = self.register(offset) else {
            return self.warn(offset);
        };
        // What was written to memory before is seen by a device that acts on this.
        fence(Ordering::Release);
        // SAFETY: mapped and aligned, as `register` says.
        unsafe { register.as_ptr().write_volatile(value) };
    }

    /// The doorbell at `offset`.
    ///
    /// # Errors
    /// It is not inside.
    pub fn doorbell(self: &Arc<Self>, offset: usize) -> Result<Doorbell, BackendError> {
        let register = self.register(offset).ok_or(BackendError::BeyondBar {
            offset,
            len_bytes: self.len,
        })?;
        let mapping = Arc::clone(self) as Arc<dyn Any + Send + Sync>;
        // SAFETY: aligned and inside the mapping, which is taken away with the last `Arc` of it.
        Ok(unsafe { Doorbell::mapped(register.as_ptr(), mapping) })
    }
}

impl Drop for MappedBar {
    fn drop(&mut self) {
        // SAFETY: what `map` was given, as a whole; whoever uses it holds the `Arc` that has just gone.
        unsafe { self.channel.system().unmap(self.start, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::redox::fake::{Fake, File};
    use crate::backend::redox::tests::function;

    fn mapped(len_bytes: u64) -> (Arc<Fake>, Arc<MappedBar>) {
        let fake = Fake::new();
        let channel = Arc::new(fake.channel(|_| Ok(vec![])));
        let mut function = function();
        function.bars[0] = Bar::Memory {
            address: 0xFE00_0000,
            len_bytes,
        };
        let bar = MappedBar::map(&channel, &function, 0, 0x1008).unwrap();
        (fake, bar)
    }

    #[test]
    fn it_is_mapped_shared_and_uncacheable_through_the_channel_and_unmapped_with_its_last_doorbell() {
        let (fake, bar) = mapped(0x4000);
        let flags = MapFlags::PROT_READ | MapFlags::PROT_WRITE | MapFlags::MAP_SHARED;
        assert_eq!(fake.lock().maps, [(File::Channel, 1 << 59, 0x4000, flags)]);
        let doorbell = bar.doorbell(0x1000).unwrap();
        drop(bar);
        assert_eq!(fake.lock().mapped.len(), 1);
        doorbell.ring(1);
        drop(doorbell);
        assert!(fake.lock().mapped.is_empty() && fake.lock().files.is_empty());
    }

    #[test]
    fn another_bar_has_its_number_in_the_offset() {
        let fake = Fake::new();
        let channel = Arc::new(fake.channel(|_| Ok(vec![])));
        let mut function = function();
        function.bars[4] = function.bars[0];
        drop(MappedBar::map(&channel, &function, 4, 4096).unwrap());
        assert_eq!(fake.lock().maps[0].1, (4 << 61) | (1 << 59));
    }

    #[test]
    fn registers_are_where_they_are_said_to_be() {
        let (_fake, bar) = mapped(0x4000);
        bar.write32(0x14, 0x0046_0001);
        bar.write32(0x28, 0x2345_6789);
        bar.write32(0x2C, 1);
        bar.doorbell(0x1004).unwrap().ring(7);
        assert_eq!(bar.read32(0x14), 0x0046_0001);
        assert_eq!((bar.read32(0x28), bar.read32(0x2C)), (0x2345_6789, 1));
        assert_eq!(bar.read32(0x1004), 7);
    }

    #[test]
    fn nothing_is_touched_beyond_the_end_or_across_registers() {
        let (_fake, bar) = mapped(0x2000);
        for offset in [0x2000, 0x1FFE, 0x11, usize::MAX, usize::MAX - 3] {
            bar.write32(offset, 1);
            assert_eq!(bar.read32(offset), u32::MAX, "{offset:#x}");
            let len_bytes = 0x2000;
            let error = bar.doorbell(offset).unwrap_err();
            assert_eq!(error, BackendError::BeyondBar { offset, len_bytes });
        }
        bar.write32(0x1FFC, 5);
        assert_eq!(bar.read32(0x1FFC), 5, "the last one is inside");
        assert!((0..0x1FFC).step_by(4).all(|offset| bar.read32(offset) == 0));
    }

    #[test]
    fn what_is_no_memory_or_too_short_is_refused() {
        let fake = Fake::new();
        let channel = Arc::new(fake.channel(|_| Ok(vec![])));
        let mut function = function();
        let memory = |len_bytes| Bar::Memory {
            address: 0,
            len_bytes,
        };
        for bar in [Bar::None, Bar::Port(0xC000), memory(0x1000), memory(0)] {
            function.bars[0] = bar;
            let error = MappedBar::map(&channel, &function, 0, 0x1008).err().unwrap();
            assert!(
                matches!(error, ConnectError::Bar { number: 0, .. }),
                "{bar:?}: {error}"
            );
        }
        assert!(MappedBar::map(&channel, &function, 6, 1).is_err());
        assert!(fake.lock().maps.is_empty());
    }

    #[test]
    fn of_a_bar_of_terabytes_little_is_mapped() {
        let (fake, bar) = mapped(1 << 40);
        assert_eq!(bar.len(), 2 << 20);
        assert_eq!(fake.lock().maps[0].2, 2 << 20);
    }
}
