//! Interrupts: MSI-X if the function and pcid have it, else MSI, else a line.
//!
//! | mode | vectors | on which CPU |
//! | --- | --- | --- |
//! | `msix` | as many as the table in the BAR has | the admin queue's (0) on the first; the others in turn on all |
//! | `msi` | one, for all queues | the first |
//! | `intx` | one, for all queues, to be acknowledged | the kernel's choice |
//!
//! A vector of MSI or MSI-X is a write of a number to a CPU. Which numbers of which CPU are free is what `/scheme/irq` lists,
//! and to open one is to have it, until the system goes down: it is not given back when the descriptor is closed. So a
//! number is taken when somebody first waits for its vector, and no earlier.
//!
//! The kernel's events are by the number alone, whichever CPU it is of. So this driver takes each number once, prefers
//! those that nobody has on any CPU, and begins at the upper end, since others take the first that is free. When there are
//! no more, vectors share one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use nvme_spec::register::DOORBELLS;
use syscall::error::{EEXIST, Error};
use syscall::flag::{O_CLOEXEC, O_CREAT, O_RDWR};

use super::ConnectError;
use super::bar::MappedBar;
use super::pcid::{Feature, Function, LegacyLine, MsixInfo, Pcid};
use super::waiter::Interrupt;
use crate::backend::BackendError;
use crate::redox::{Descriptor, Failure, System};

/// An interrupt's number is its vector in the CPU's table, less those of exceptions.
const FIRST_VECTOR: u32 = 32;
/// Lower numbers are those of lines, also where a CPU's list has them.
const LINES: u8 = 16;
/// Where the CPUs listen for messages; the number of one of them goes into bits 12 to 19.
const MESSAGE_ADDRESS: u64 = 0xFEE0_0000;
/// Destinations that a message can name.
const CPUS: u32 = 256;

/// An entry of the table of MSI-X: address, data, and control, of which bit 0 masks it (PCI Express Base 5.0 section
/// 7.7.2).
const ENTRY_BYTES: usize = 16;
const MAX_ENTRIES: u16 = 2048;
const ADDRESS: usize = 0;
const DATA: usize = 8;
const CONTROL: usize = 12;
const MASKED: u32 = 1;

/// Command register, and its bits for DMA and against lines (PCI Local Bus 3.0 section 6.2.2).
pub const COMMAND: u16 = 4;
pub const BUS_MASTER: u32 = 1 << 2;
const INTX_DISABLE: u32 = 1 << 10;

/// The interrupts of the function, in the one way that was chosen.
pub struct Interrupts(Mode);

enum Mode {
    MsiX(Table),
    Msi(Arc<Interrupt>),
    Line(Arc<Interrupt>),
}

impl Interrupts {
    /// Sets the function's interrupts up, in the best way that works.
    ///
    /// # Errors
    /// None works.
    pub fn set_up(
        system: &Arc<dyn System>,
        pcid: &Pcid,
        function: &Function,
        bar0: &Arc<MappedBar>,
        cpus: u16,
    ) -> Result<Self, ConnectError> {
        let features = pcid.features()?;
        let has = |feature| cfg!(target_arch = "x86_64") && features.contains(&feature);
        if has(Feature::MsiX) {
            match Table::set_up(system, pcid, function, bar0, cpus) {
                Ok(table) => return Ok(Self(Mode::MsiX(table))),
                Err(error) => {
                    log::warn!("MSI-X cannot be used: {error}; trying MSI, and then the interrupt line")
                }
            }
        }
        if has(Feature::Msi) {
            match set_up_msi(system, pcid, cpus) {
                Ok(interrupt) => return Ok(Self(Mode::Msi(interrupt))),
                Err(error) => log::warn!("MSI cannot be used: {error}; trying the interrupt line"),
            }
        }
        let line = function.line.as_ref().ok_or(ConnectError::NoInterrupt)?;
        set_up_line(system, pcid, line).map(|interrupt| Self(Mode::Line(interrupt)))
    }

    /// `msix`, `msi` or `intx`.
    pub fn mode(&self) -> &'static str {
        match self.0 {
            Mode::MsiX(_) => "msix",
            Mode::Msi(_) => "msi",
            Mode::Line(_) => "intx",
        }
    }

    /// Vectors that there are.
    pub fn vectors(&self) -> u16 {
        match &self.0 {
            Mode::MsiX(table) => table.entries,
            Mode::Msi(_) | Mode::Line(_) => 1,
        }
    }

    /// What fires when `vector` does; the first time somebody asks, it is set up.
    ///
    /// # Errors
    /// There is no such vector, or nothing that it could fire.
    pub fn get(&self, vector: u16) -> Result<Arc<Interrupt>, BackendError> {
        let available = self.vectors();
        if vector >= available {
            return Err(BackendError::NoVector { vector, available });
        }
        match &self.0 {
            Mode::MsiX(table) => table.get(vector).map_err(|error| {
                log::error!("vector {vector} of the controller: {error}");
                BackendError::System(error.to_string())
            }),
            Mode::Msi(interrupt) | Mode::Line(interrupt) => Ok(Arc::clone(interrupt)),
        }
    }

    /// The CPU on which `vector` fires or is meant to; `None` where it is one for all queues.
    pub fn cpu_of(&self, vector: u16) -> Option<u32> {
        match &self.0 {
            Mode::MsiX(table) => table.cpu_of(vector),
            Mode::Msi(_) | Mode::Line(_) => None,
        }
    }
}

fn set_up_msi(system: &Arc<dyn System>, pcid: &Pcid, cpus: u16) -> Result<Arc<Interrupt>, ConnectError> {
    let info = pcid.msi()?;
    let mut numbers = Numbers::new(system, cpus);
    let vector = numbers.take(numbers.cpu_of(0))?;
    pcid.set_msi(vector.address(), vector.data(), info.has_mask)?;
    pcid.enable(Feature::Msi)?;
    log::info!("interrupts: MSI, vector {} on CPU {}", vector.data(), vector.cpu);
    Ok(vector.interrupt)
}

fn set_up_line(
    system: &Arc<dyn System>,
    pcid: &Pcid,
    line: &LegacyLine,
) -> Result<Arc<Interrupt>, ConnectError> {
    let (path, flags) = match line.phandle {
        None => (format!("/scheme/irq/{}", line.irq), O_RDWR | O_CLOEXEC),
        Some((handle, address, cells)) => {
            let cells = usize::try_from(cells).unwrap_or(usize::MAX);
            let cells: Vec<String> = address.iter().take(cells).map(u32::to_string).collect();
            let path = format!("/scheme/irq/phandle-{handle}/{}", cells.join(","));
            (path, O_RDWR | O_CLOEXEC | O_CREAT)
        }
    };
    let descriptor = Descriptor::open(system, &path, flags).map_err(Failure::of(format!(
        "opening {path}, the function's interrupt line; the driver must run as root"
    )))?;
    let command = pcid.read_config(COMMAND)?;
    if command & INTX_DISABLE != 0 {
        // The upper half are states, which a written 1 clears.
        pcid.write_config(COMMAND, command & 0xFFFF & !INTX_DISABLE)?;
    }
    log::info!("interrupts: line {}, shared by all queues", line.irq);
    Ok(Arc::new(Interrupt::new(descriptor, true)))
}

// ---- MSI-X

/// The table of MSI-X, in a BAR.
struct Table {
    bar: Arc<MappedBar>,
    offset: usize,
    entries: u16,
    state: Mutex<TableState>,
}

struct TableState {
    numbers: Numbers,
    /// Those that have been set up, by vector.
    vectors: Vec<Option<Vector>>,
}

impl Table {
    fn set_up(
        system: &Arc<dyn System>,
        pcid: &Pcid,
        function: &Function,
        bar0: &Arc<MappedBar>,
        cpus: u16,
    ) -> Result<Self, ConnectError> {
        let info = pcid.msix()?;
        let MsixInfo {
            table_bar,
            table_offset,
            table_entries: entries,
            ..
        } = info;
        let wrong = |what: String| ConnectError::Table(what);
        if !(1..=MAX_ENTRIES).contains(&entries) {
            return Err(wrong(format!(
                "it is said to have {entries} entries; 1 to {MAX_ENTRIES} are possible"
            )));
        }
        if !table_offset.is_multiple_of(8) {
            return Err(wrong(format!(
                "it is said to be at {table_offset:#x}, which is no multiple of 8"
            )));
        }
        if table_bar == 0 && (table_offset as usize) < DOORBELLS {
            return Err(wrong(format!(
                "it is said to be at {table_offset:#x} of BAR 0, where the controller's registers are"
            )));
        }
        let end_bytes = u64::from(table_offset) + u64::from(entries) * ENTRY_BYTES as u64;
        let bar = if table_bar == 0 && end_bytes <= bar0.len() as u64 {
            Arc::clone(bar0)
        } else {
            MappedBar::map(pcid.channel(), function, table_bar, end_bytes)?
        };
        let table = Self {
            bar,
            offset: table_offset as usize,
            entries,
            state: Mutex::new(TableState {
                numbers: Numbers::new(system, cpus),
                vectors: (0..entries).map(|_| None).collect(),
            }),
        };
        // Whoever had the function before may have left something in it.
        for vector in 0..entries {
            table.write(vector, CONTROL, MASKED);
        }
        // Before the function is switched to MSI-X, which it cannot be switched back from: without one number there is
        // no use in it.
        table.get(0)?;
        pcid.enable(Feature::MsiX)?;
        log::info!("interrupts: MSI-X, {entries} vectors");
        Ok(table)
    }

    fn write(&self, vector: u16, field: usize, value: u32) {
        let entry = self.offset + usize::from(vector) * ENTRY_BYTES;
        self.bar.write32(entry + field, value);
    }

    fn get(&self, vector: u16) -> Result<Arc<Interrupt>, ConnectError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let TableState { numbers, vectors } = &mut *state;
        if let Some(Some(known)) = vectors.get(usize::from(vector)) {
            return Ok(Arc::clone(&known.interrupt));
        }
        let target = match numbers.take(numbers.cpu_of(vector)) {
            Ok(taken) => taken,
            Err(error) => {
                // Whoever shares hears of the other's interrupts too, and looks at its queue in vain.
                let taken = numbers.taken.len().max(1);
                let shared = numbers.taken.get(usize::from(vector) % taken).cloned();
                let shared = shared.ok_or(error)?;
                log::warn!(
                    "no interrupt number is left on any CPU: vector {vector} of the controller shares number {}",
                    shared.irq
                );
                shared
            }
        };
        self.write(vector, CONTROL, MASKED);
        let address = target.address();
        self.write(vector, ADDRESS, address as u32);
        self.write(vector, ADDRESS + 4, (address >> 32) as u32);
        self.write(vector, DATA, target.data());
        self.write(vector, CONTROL, 0);
        log::debug!("vector {vector}: number {} on CPU {}", target.irq, target.cpu);
        let interrupt = Arc::clone(&target.interrupt);
        if let Some(place) = vectors.get_mut(usize::from(vector)) {
            *place = Some(target);
        }
        Ok(interrupt)
    }

    fn cpu_of(&self, vector: u16) -> Option<u32> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.vectors.get(usize::from(vector))? {
            Some(known) => Some(known.cpu),
            None => Some(state.numbers.cpu_of(vector)),
        }
    }
}

// ---- numbers

/// A number of a CPU's, and what tells that it has fired.
#[derive(Clone)]
struct Vector {
    cpu: u32,
    irq: u8,
    interrupt: Arc<Interrupt>,
}

impl Vector {
    /// Where the interrupt is written: to one CPU, in physical destination mode.
    fn address(&self) -> u64 {
        MESSAGE_ADDRESS | (u64::from(self.cpu) << 12)
    }

    /// What is written there: edge, fixed delivery, and the vector.
    fn data(&self) -> u32 {
        FIRST_VECTOR + u32::from(self.irq)
    }
}

/// Numbers that could be had, as far as is known.
struct Numbers {
    system: Arc<dyn System>,
    /// CPUs, the boot CPU first, and what was free on each when it was listed; taken off as it is tried.
    free: Vec<(u32, BTreeSet<u8>)>,
    /// Those that this driver has.
    taken: Vec<Vector>,
}

impl Numbers {
    /// What is free on the first `cpus` CPUs.
    fn new(system: &Arc<dyn System>, cpus: u16) -> Self {
        let first = boot_cpu(system, cpus);
        let mut ids = vec![first];
        // The list has all CPUs that the firmware tells of. To ask for one that was not started is the kernel's end.
        ids.extend(cpu_ids(system).into_iter().filter(|id| *id < u32::from(cpus)));
        ids.sort_unstable_by_key(|id| (*id != first, *id));
        ids.dedup();
        let free = ids.into_iter().map(|id| (id, free_on(system, id))).collect();
        Self {
            system: Arc::clone(system),
            free,
            taken: Vec::new(),
        }
    }

    /// The CPU where `vector` is best: the admin queue's on the first one; those of I/O queues in turn on all.
    fn cpu_of(&self, vector: u16) -> u32 {
        let index = usize::from(vector.saturating_sub(1)) % self.free.len().max(1);
        self.free.get(index).map_or(0, |(cpu, _)| *cpu)
    }

    /// Takes a number: of `wanted` if it has any left, else of whichever CPU has.
    fn take(&mut self, wanted: u32) -> Result<Vector, ConnectError> {
        let mut cpus: Vec<u32> = self.free.iter().map(|(cpu, _)| *cpu).collect();
        cpus.sort_by_key(|cpu| *cpu != wanted);
        let mut last = None;
        for cpu in cpus {
            while let Some(irq) = self.best(cpu) {
                // Whatever comes of it, it is not tried again, here or on another CPU.
                let path = format!("/scheme/irq/cpu-{cpu:02x}/{irq}");
                match Descriptor::open(&self.system, &path, O_RDWR | O_CREAT | O_CLOEXEC) {
                    Ok(descriptor) => {
                        self.free.iter_mut().for_each(|(_, free)| {
                            free.remove(&irq);
                        });
                        let interrupt = Arc::new(Interrupt::new(descriptor, false));
                        let vector = Vector { cpu, irq, interrupt };
                        self.taken.push(vector.clone());
                        return Ok(vector);
                    }
                    Err(error) => {
                        self.forget(cpu, irq);
                        last = Some(Failure {
                            what: format!("reserving {path}, an interrupt number"),
                            error,
                        });
                        // Somebody else was faster; anything else goes for all numbers of this CPU.
                        if error != Error::new(EEXIST) {
                            break;
                        }
                    }
                }
            }
        }
        Err(last.map_or(ConnectError::NoNumber, ConnectError::Kernel))
    }

    /// The number of `cpu` that is to be tried next: the highest that is free on all CPUs, else the highest.
    fn best(&self, cpu: u32) -> Option<u8> {
        let (_, own) = self.free.iter().find(|(id, _)| *id == cpu)?;
        let on_all = |irq: &&u8| self.free.iter().all(|(_, free)| free.contains(irq));
        own.iter()
            .rev()
            .find(on_all)
            .or_else(|| own.iter().next_back())
            .copied()
    }

    fn forget(&mut self, cpu: u32, irq: u8) {
        if let Some((_, free)) = self.free.iter_mut().find(|(id, _)| *id == cpu) {
            free.remove(&irq);
        }
    }
}

/// The CPU that the system was started on; one of the `cpus` that have been.
fn boot_cpu(system: &Arc<dyn System>, cpus: u16) -> u32 {
    let path = "/scheme/irq/bsp";
    // The kernel says that it has written 8 bytes, having written 4.
    let mut id = [0; 8];
    let read = Descriptor::open(system, path, O_RDWR | O_CLOEXEC).and_then(|bsp| bsp.read(&mut id));
    let id = u64::from_le_bytes(id);
    match read {
        Ok(4 | 8) if id < u64::from(CPUS) && id < u64::from(cpus.max(1)) => id as u32,
        Ok(len) => {
            log::warn!("{path} says {id} in {len} bytes, which is none of {cpus} CPUs; taking CPU 0");
            0
        }
        Err(error) => {
            log::warn!("{path} does not say which CPU is the first: {error}; taking CPU 0");
            0
        }
    }
}

/// The CPUs that a message can be sent to.
fn cpu_ids(system: &Arc<dyn System>) -> Vec<u32> {
    match system.list("/scheme/irq") {
        Ok(names) => names
            .iter()
            .filter_map(|name| u32::from_str_radix(name.strip_prefix("cpu-")?, 16).ok())
            .filter(|id| *id < CPUS)
            .collect(),
        Err(error) => {
            log::warn!("/scheme/irq does not list the CPUs: {error}; all interrupts go to the first");
            Vec::new()
        }
    }
}

/// The numbers that are free on CPU `cpu`.
fn free_on(system: &Arc<dyn System>, cpu: u32) -> BTreeSet<u8> {
    let path = format!("/scheme/irq/cpu-{cpu:02x}");
    match system.list(&path) {
        Ok(names) => names
            .iter()
            .filter_map(|name| name.parse().ok())
            .filter(|irq| *irq >= LINES)
            .collect(),
        Err(error) => {
            log::warn!("{path} does not list the numbers that are free: {error}; going on without that CPU");
            BTreeSet::new()
        }
    }
}

#[cfg(test)]
mod tests;
