//! The BARs: memory that driver and device share, with the registers and the tables of MSI-X in it.
//!
//! There is nobody who sees a store happen. The device's thread comes by and looks what is different: doorbells are
//! taken out as they are read, so that the same value can be written again; the registers that clear and set bits show
//! what cannot be mistaken for a write.
#![allow(unsafe_code)]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nvme_emulator::Registers;
use nvme_spec::register;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::machine::ControllerConfig;
use crate::pages::PAGE_BYTES;

/// What a doorbell holds that was not written since it was looked at.
const UNTOUCHED: u32 = u32::MAX;

const ENTRY_BYTES: usize = 16;
const ENTRY_MASKED: u32 = 1;

/// What lies where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    registers_bytes: usize,
    pub table_bar: usize,
    pub table_offset: usize,
    pub table_entries: u16,
    pub pending_offset: usize,
    lens_bytes: [usize; 6],
}

impl Layout {
    pub fn new(config: &ControllerConfig, registers_bytes: usize) -> Self {
        let entries = config.msix.unwrap_or(0);
        let table_bar = usize::from(config.msix_bar);
        let table_offset = if table_bar == 0 { registers_bytes } else { 0 };
        let table_bytes = (usize::from(entries) * ENTRY_BYTES).next_multiple_of(PAGE_BYTES);
        let pending_offset = table_offset + table_bytes;
        let pending_bytes = usize::from(entries).div_ceil(64) * 8;
        let mut lens_bytes = [0; 6];
        lens_bytes[0] = registers_bytes;
        if entries > 0 {
            lens_bytes[table_bar] = pending_offset + pending_bytes;
        }
        for len_bytes in lens_bytes.iter_mut().filter(|len_bytes| **len_bytes > 0) {
            *len_bytes = len_bytes.next_power_of_two().max(4 * PAGE_BYTES);
        }
        Self {
            registers_bytes,
            table_bar,
            table_offset,
            table_entries: entries,
            pending_offset,
            lens_bytes,
        }
    }
}

struct Bar {
    file: File,
    start: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: shared memory, which is only ever touched word by word and atomically.
unsafe impl Send for Bar {}
// SAFETY: as above.
unsafe impl Sync for Bar {}

impl Bar {
    fn new(len_bytes: usize) -> Self {
        let file =
            rustix::fs::memfd_create("nvme-redox-model-bar", MemfdFlags::CLOEXEC).expect("memory for a BAR");
        let file = File::from(file);
        file.set_len(len_bytes as u64).expect("memory for a BAR");
        // SAFETY: anywhere that is free; the file is as long as that.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        let start = NonNull::new(start.expect("memory for a BAR").cast()).expect("a mapping is not at 0");
        Self {
            file,
            start,
            len_bytes,
        }
    }

    fn word(&self, offset: usize) -> Option<&AtomicU32> {
        (offset.is_multiple_of(4) && offset + 4 <= self.len_bytes).then(|| {
            // SAFETY: within the mapping, which lives as long as `self`, and aligned.
            unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(offset).cast()) }
        })
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which references to `self` alone have kept in use. A driver has its own.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len_bytes) };
    }
}

/// All BARs of a controller.
pub(crate) struct Bars {
    pub layout: Layout,
    bars: [Option<Bar>; 6],
}

/// What the registers looked like when the device's thread was here last.
#[derive(Default)]
pub(crate) struct Seen {
    cc: u32,
    csts: u32,
    plain: [u32; PLAIN.len()],
    interrupt_mask: u32,
}

/// Registers that hold what is written to them, but for CC, which comes last.
const PLAIN: [usize; 5] = [
    register::AQA,
    register::ASQ,
    register::ASQ + 4,
    register::ACQ,
    register::ACQ + 4,
];

impl Bars {
    pub fn new(layout: Layout) -> Self {
        let bars = layout
            .lens_bytes
            .map(|len_bytes| (len_bytes > 0).then(|| Bar::new(len_bytes)));
        let bars = Self { layout, bars };
        for vector in 0..layout.table_entries {
            // After a reset, every vector is masked.
            if let Some(control) = bars.entry(vector, 3) {
                control.store(ENTRY_MASKED, Ordering::Relaxed);
            }
        }
        for doorbell in bars.doorbells() {
            doorbell.store(UNTOUCHED, Ordering::Relaxed);
        }
        bars
    }

    pub fn file(&self, bar: usize) -> Option<&File> {
        Some(&self.bars.get(bar)?.as_ref()?.file)
    }

    /// 0 if there is no such BAR.
    pub fn len_bytes(&self, bar: usize) -> u64 {
        self.bars
            .get(bar)
            .and_then(Option::as_ref)
            .map_or(0, |bar| bar.len_bytes as u64)
    }

    fn register(&self, offset: usize) -> Option<&AtomicU32> {
        self.bars[0].as_ref()?.word(offset)
    }

    fn doorbells(&self) -> impl Iterator<Item = &AtomicU32> {
        let offsets = (register::DOORBELLS..self.layout.registers_bytes).step_by(4);
        offsets.filter_map(|offset| self.register(offset))
    }

    /// A word of an entry of the MSI-X table: address, its upper half, data, control.
    fn entry(&self, vector: u16, word: usize) -> Option<&AtomicU32> {
        let offset = self.layout.table_offset + usize::from(vector) * ENTRY_BYTES + word * 4;
        let is_entry = vector < self.layout.table_entries;
        self.bars[self.layout.table_bar]
            .as_ref()?
            .word(offset)
            .filter(|_| is_entry)
    }

    pub fn is_masked(&self, vector: u16) -> bool {
        let control = self.entry(vector, 3);
        control.is_none_or(|control| control.load(Ordering::Acquire) & ENTRY_MASKED != 0)
    }

    /// Address and data of a vector's message.
    pub fn message(&self, vector: u16) -> Option<(u64, u32)> {
        let word = |word| Some(self.entry(vector, word)?.load(Ordering::Acquire));
        Some((u64::from(word(1)?) << 32 | u64::from(word(0)?), word(2)?))
    }

    pub fn set_pending(&self, vector: u16, is_pending: bool) {
        let bar = self.bars[self.layout.table_bar]
            .as_ref()
            .filter(|_| vector < self.layout.table_entries);
        let offset = self.layout.pending_offset + usize::from(vector) / 32 * 4;
        if let Some(word) = bar.and_then(|bar| bar.word(offset)) {
            let bit = 1 << (vector % 32);
            if is_pending {
                word.fetch_or(bit, Ordering::AcqRel);
            } else {
                word.fetch_and(!bit, Ordering::AcqRel);
            }
        }
    }

    /// Carries over to `to` what the driver has written since the last time. True if it was anything.
    pub fn carry_writes(&self, seen: &mut Seen, to: &Registers, stride_bytes: usize) -> bool {
        let load = |offset| {
            self.register(offset)
                .map_or(0, |word| word.load(Ordering::Acquire))
        };
        let mut carried = false;
        // CC is looked at first and written last: what was written before it is seen before it.
        let cc = load(register::CC);
        for (offset, seen) in PLAIN.into_iter().zip(&mut seen.plain) {
            let value = load(offset);
            if value != *seen {
                to.write32(offset, value);
                // Bits that do not stick read as they are.
                *seen = self.show(offset, value, to.read32(offset));
                carried = true;
            }
        }
        let mask = load(register::INTMS);
        if mask != seen.interrupt_mask {
            to.write32(register::INTMS, mask);
            seen.interrupt_mask = self.show(register::INTMS, mask, to.read32(register::INTMS));
            carried = true;
        }
        for offset in [register::INTMC, register::NSSR] {
            let value = self
                .register(offset)
                .map_or(0, |word| word.swap(0, Ordering::AcqRel));
            if value != 0 {
                to.write32(offset, value);
                carried = true;
            }
        }
        let csts = load(register::CSTS);
        if csts != seen.csts {
            to.write32(register::CSTS, csts);
            seen.csts = self.show(register::CSTS, csts, to.read32(register::CSTS));
            carried = true;
        }
        if cc != seen.cc {
            to.write32(register::CC, cc);
            seen.cc = self.show(register::CC, cc, to.read32(register::CC));
            carried = true;
        }
        self.carry_doorbells(to, stride_bytes) || carried
    }

    /// The admin queue's doorbell is looked at first and rung last: a queue that it deletes has had its own rung before.
    fn carry_doorbells(&self, to: &Registers, stride_bytes: usize) -> bool {
        let mut rung: Vec<(usize, u32)> = Vec::new();
        let offsets = (register::DOORBELLS..self.layout.registers_bytes).step_by(stride_bytes);
        for (index, offset) in offsets.enumerate() {
            let Some(doorbell) = self.register(offset) else {
                break;
            };
            if doorbell.load(Ordering::Acquire) != UNTOUCHED {
                rung.push((index, doorbell.swap(UNTOUCHED, Ordering::AcqRel)));
            }
        }
        for (index, value) in rung.iter().rev() {
            to.ring(*index, *value);
        }
        !rung.is_empty()
    }

    /// Shows `value` at `offset`, unless the driver has written there since `written` was read.
    fn show(&self, offset: usize, written: u32, value: u32) -> u32 {
        if let Some(word) = self.register(offset) {
            let _ = word.compare_exchange(written, value, Ordering::AcqRel, Ordering::Acquire);
        }
        value
    }

    /// Shows the driver what the registers are now.
    pub fn show_registers(&self, seen: &mut Seen, from: &Registers) -> bool {
        let mut shown = false;
        for offset in [register::CAP, register::CAP + 4, register::VS, register::CRTO] {
            if let Some(word) = self.register(offset) {
                word.store(from.read32(offset), Ordering::Release);
            }
        }
        let csts = from.read32(register::CSTS);
        if csts != seen.csts {
            seen.csts = self.show(register::CSTS, seen.csts, csts);
            shown = true;
        }
        let mask = from.read32(register::INTMS);
        if mask != seen.interrupt_mask {
            seen.interrupt_mask = self.show(register::INTMS, seen.interrupt_mask, mask);
        }
        let cc = from.read32(register::CC);
        if cc != seen.cc {
            seen.cc = self.show(register::CC, seen.cc, cc);
        }
        for (offset, seen) in PLAIN.into_iter().zip(&mut seen.plain) {
            let value = from.read32(offset);
            if value != *seen {
                *seen = self.show(offset, *seen, value);
            }
        }
        shown
    }

    /// Nobody answers any more: all ones.
    pub fn show_nothing(&self) {
        for bar in self.bars.iter().flatten() {
            for offset in (0..bar.len_bytes).step_by(4) {
                if let Some(word) = bar.word(offset) {
                    word.store(u32::MAX, Ordering::Release);
                }
            }
        }
    }
}
