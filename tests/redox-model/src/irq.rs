//! `/scheme/irq`: interrupts as descriptors.
//!
//! Numbers 0 to 15 are the lines of old, shared by all; the others belong to a CPU and are reserved by opening them with
//! `O_CREAT`, for ever. What is counted, and what events are triggered for, is the number alone: two handlers with the same
//! number on two CPUs hear of each other's interrupts.

use std::collections::HashMap;

use syscall::error::{EEXIST, EINVAL, EISDIR, ENOENT, Error, Result};
use syscall::flag::{EventFlags, O_CREAT, O_DIRECTORY, O_STAT};

use crate::kernel::{Kernel, Object, State};
use crate::violation::Violation;

/// Interrupts that are lines, and not vectors of a CPU.
const LINES: u8 = 16;
/// All interrupts; their vectors are 32 more.
const IRQS: u8 = 224;
const FIRST_VECTOR: u8 = 32;
/// What the kernel needs for itself on the boot CPU besides the lines: its timer and errors; and on every CPU: messages
/// from one to another.
const BOOT_CPU_OWN: [u8; 2] = [16, 17];
const OTHER_CPU_OWN: [u8; 1] = [17];
const EVERY_CPU_OWN: [u8; 4] = [32, 33, 34, 35];

#[derive(Clone, Copy, Default)]
struct Line {
    /// Delivered, and held back until it is acknowledged.
    in_service: bool,
    /// Asserted again meanwhile.
    again: bool,
}

/// All interrupts.
pub(crate) struct Irqs {
    counts: [usize; IRQS as usize],
    /// By CPU.
    reserved: Vec<[bool; IRQS as usize]>,
    /// What was acknowledged through each handle, by its description.
    handles: HashMap<u64, (u8, usize)>,
    lines: [Line; LINES as usize],
}

impl Irqs {
    pub fn new(cpus: u32) -> Self {
        let of_cpu = |cpu: u32| {
            let mut reserved = [false; IRQS as usize];
            let own: Vec<u8> = if cpu == 0 {
                (0..LINES).chain(BOOT_CPU_OWN).chain(EVERY_CPU_OWN).collect()
            } else {
                OTHER_CPU_OWN.into_iter().chain(EVERY_CPU_OWN).collect()
            };
            for irq in own {
                reserved[usize::from(irq)] = true;
            }
            reserved
        };
        Self {
            counts: [0; IRQS as usize],
            reserved: (0..cpus).map(of_cpu).collect(),
            handles: HashMap::new(),
            lines: [Line::default(); LINES as usize],
        }
    }

    /// The numbers that are free on `cpu`.
    fn free(&self, cpu: u32) -> Option<Vec<u8>> {
        let reserved = self.reserved.get(cpu as usize)?;
        // Vector 255 is nobody's.
        Some((0..IRQS - 1).filter(|irq| !reserved[usize::from(*irq)]).collect())
    }

    /// Takes all numbers of `cpu` but the first `left` free ones.
    pub fn take_all_but(&mut self, cpu: u32, left: usize) {
        let taken: Vec<u8> = self.free(cpu).into_iter().flatten().skip(left).collect();
        for irq in taken {
            self.reserved[cpu as usize][usize::from(irq)] = true;
        }
    }

    /// Reserved by anybody, as CPU and number, in order.
    pub fn reserved_by_drivers(&self) -> Vec<(u32, u8)> {
        let fresh = Self::new(self.reserved.len() as u32);
        let all = self.reserved.iter().zip(fresh.reserved).zip(0..);
        all.flat_map(|((now, at_first), cpu)| {
            (0..IRQS)
                .filter(move |irq| now[usize::from(*irq)] && !at_first[usize::from(*irq)])
                .map(move |irq| (cpu, irq))
        })
        .collect()
    }

    pub fn close(&mut self, description: u64) {
        // The number stays reserved: what the kernel calls to free it only ever sets bits.
        self.handles.remove(&description);
    }
}

impl State {
    /// Opens `path`, what comes after `/scheme/irq/`.
    pub fn open_irq(&mut self, path: &str, flags: usize) -> Result<usize> {
        let whole = format!("/scheme/irq/{path}");
        let path = path.trim_matches('/');
        if path.is_empty() {
            if flags & (O_DIRECTORY | O_STAT) == 0 {
                return Err(Error::new(EISDIR));
            }
            return Ok(self.insert(Object::Directory, flags, &whole));
        }
        if path == "bsp" {
            return Ok(self.insert(Object::IrqBsp, flags, &whole));
        }
        let Some(of_cpu) = path.strip_prefix("cpu-") else {
            let irq: u8 = path.parse().map_err(|_| Error::new(ENOENT))?;
            if irq >= LINES {
                return Err(Error::new(ENOENT));
            }
            return Ok(self.open_irq_handle(irq, flags, &whole));
        };
        let (cpu, rest) = of_cpu.split_at_checked(2).ok_or(Error::new(ENOENT))?;
        let cpu = u32::from_str_radix(cpu, 16).map_err(|_| Error::new(ENOENT))?;
        if rest.is_empty() {
            return Ok(self.insert(Object::Directory, flags, &whole));
        }
        let irq = rest.strip_prefix('/').and_then(|irq| irq.parse().ok());
        let irq: u8 = irq.filter(|irq| *irq < IRQS).ok_or(Error::new(ENOENT))?;
        if cpu == 0 && irq < LINES {
            return Ok(self.open_irq_handle(irq, flags, &whole));
        }
        if flags & (O_CREAT | O_STAT) == 0 {
            return Err(Error::new(EINVAL));
        }
        if flags & O_STAT == 0 {
            let Some(reserved) = self.irqs.reserved.get_mut(cpu as usize) else {
                self.violations.push(Violation::NoCpu { cpu });
                return Err(Error::new(ENOENT));
            };
            if std::mem::replace(&mut reserved[usize::from(irq)], true) {
                return Err(Error::new(EEXIST));
            }
        }
        Ok(self.open_irq_handle(irq, flags, &whole))
    }

    fn open_irq_handle(&mut self, irq: u8, flags: usize, path: &str) -> usize {
        let description = self.next_id();
        self.irqs.handles.insert(description, (irq, 0));
        self.insert_as(description, Object::Irq(irq), flags, path)
    }

    /// The names in `/scheme/irq` and `/scheme/irq/cpu-XX`, where `path` is what comes after `/scheme/irq`.
    pub fn list_irqs(&mut self, path: &str) -> Result<Vec<String>> {
        let path = path.trim_matches('/');
        if path.is_empty() {
            let cpus = (0..self.irqs.reserved.len()).map(|cpu| format!("cpu-{cpu:02x}"));
            return Ok(std::iter::once("bsp".to_owned()).chain(cpus).collect());
        }
        let cpu = path
            .strip_prefix("cpu-")
            .and_then(|cpu| u32::from_str_radix(cpu, 16).ok());
        let cpu = cpu.ok_or(Error::new(ENOENT))?;
        match self.irqs.free(cpu) {
            Some(free) => Ok(free.iter().map(u8::to_string).collect()),
            None => {
                self.violations.push(Violation::NoCpu { cpu });
                Err(Error::new(ENOENT))
            }
        }
    }

    /// Interrupt `irq` happens, on whichever CPU.
    pub fn trigger_irq(&mut self, irq: u8) {
        if let Some(count) = self.irqs.counts.get_mut(usize::from(irq)) {
            *count += 1;
        }
        let handles = self.irqs.handles.iter().filter(|(_, (of, _))| *of == irq);
        let handles: Vec<u64> = handles.map(|(description, _)| *description).collect();
        for description in handles {
            self.events.trigger(description, EventFlags::EVENT_READ);
        }
    }

    /// Line `irq` is asserted. It is not delivered again before it was acknowledged.
    pub fn assert_line(&mut self, irq: u8) {
        let Some(line) = self.irqs.lines.get_mut(usize::from(irq)) else {
            return;
        };
        if std::mem::replace(&mut line.in_service, true) {
            line.again = true;
        } else {
            self.trigger_irq(irq);
        }
    }

    /// A device writes `data` to `address`, where the CPUs listen for messages.
    pub fn deliver_message(&mut self, address: u64, data: u32) {
        const APIC: u64 = 0xFEE0_0000;
        // Redirection and logical destinations (bits 2 and 3) are nothing that anybody here asks for; of the data,
        // only a vector by itself is an edge with fixed delivery.
        let is_plain = address & !0xF_F000 == APIC && data < 256;
        let cpu = (address >> 12) as usize & 0xFF;
        let irq = u8::try_from(data & 0xFF)
            .ok()
            .and_then(|vector| vector.checked_sub(FIRST_VECTOR));
        let handled = irq.filter(|irq| {
            let reserved = self
                .irqs
                .reserved
                .get(cpu)
                .and_then(|cpu| cpu.get(usize::from(*irq)));
            is_plain && reserved == Some(&true)
        });
        match handled {
            Some(irq) => self.trigger_irq(irq),
            None => self.violations.push(Violation::Message { address, data }),
        }
    }
}

impl Kernel {
    /// The count of an interrupt, or nothing if it was acknowledged already. Never waits.
    pub fn read_irq(&self, description: u64, irq: u8, into: &mut [u8]) -> Result<usize> {
        let state = self.lock();
        let room = into.get_mut(..size_of::<usize>()).ok_or(Error::new(EINVAL))?;
        let count = state
            .irqs
            .counts
            .get(usize::from(irq))
            .copied()
            .unwrap_or_default();
        let acknowledged = state
            .irqs
            .handles
            .get(&description)
            .map_or(0, |(_, count)| *count);
        if acknowledged == count {
            return Ok(0);
        }
        room.copy_from_slice(&count.to_ne_bytes());
        Ok(room.len())
    }

    /// Acknowledges an interrupt, if it did not happen again since.
    pub fn write_irq(&self, description: u64, irq: u8, from: &[u8]) -> Result<usize> {
        let mut state = self.lock();
        let count = from.first_chunk().ok_or(Error::new(EINVAL))?;
        let count = usize::from_ne_bytes(*count);
        if state.irqs.counts.get(usize::from(irq)) != Some(&count) {
            return Ok(0);
        }
        if let Some((_, acknowledged)) = state.irqs.handles.get_mut(&description) {
            *acknowledged = count;
        }
        let mut again = false;
        if let Some(line) = state.irqs.lines.get_mut(usize::from(irq)) {
            again = line.again;
            *line = Line {
                in_service: again,
                again: false,
            };
        }
        if again {
            state.trigger_irq(irq);
        }
        Ok(size_of::<usize>())
    }

    pub fn read_bsp(&self, into: &mut [u8]) -> Result<usize> {
        let room = into.get_mut(..size_of::<usize>()).ok_or(Error::new(EINVAL))?;
        // The kernel writes four bytes and says eight: what was in the other four stays.
        room[..4].copy_from_slice(&0_u32.to_ne_bytes());
        Ok(room.len())
    }
}
