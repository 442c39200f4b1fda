//! Interrupts: MSI-X, else MSI, else the line; and the system's notices.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX,
};

use super::error::VfioError;
use super::function::OpenFunction;
use super::host::PciAddress;
use crate::backend::linux::waiter::{LinuxWaiter, Signal};
use crate::backend::{BackendError, Departure};

const SET_EVENTFDS: u32 = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
const NO_EVENTFD: i32 = -1;
/// Vectors that are asked for even where there are fewer CPUs: the user may want more queues than that.
const MIN_WANTED_VECTORS: u32 = 33;

/// How the function interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqMode {
    /// MSI-X: a message for each vector, each with an address and data of its own.
    MsiX,
    /// MSI: a few messages with one address.
    Msi,
    /// The line, which all queues share.
    Intx,
}

impl IrqMode {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::MsiX, Self::Msi, Self::Intx];

    /// Its name: `msix`, `msi`, `intx`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MsiX => "msix",
            Self::Msi => "msi",
            Self::Intx => "intx",
        }
    }

    fn index(self) -> u32 {
        match self {
            Self::MsiX => VFIO_PCI_MSIX_IRQ_INDEX,
            Self::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Self::Intx => VFIO_PCI_INTX_IRQ_INDEX,
        }
    }
}

impl fmt::Display for IrqMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for IrqMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|mode| mode.name() == text)
            .ok_or_else(|| format!("\"{text}\" is no kind of interrupt; use msix, msi or intx"))
    }
}

/// A place for each vector's signal, which is made when somebody waits for it.
type Signals = Box<[Mutex<Option<Arc<Signal>>>]>;

/// The function's interrupts.
pub(super) struct Interrupts {
    function: Arc<OpenFunction>,
    mode: IrqMode,
    signals: Signals,
    /// The system wants the function back.
    request: Option<Arc<Signal>>,
    /// The bus has reported an error from which the function does not recover by itself.
    error: Option<Arc<Signal>>,
}

impl Interrupts {
    /// Sets up the best that the function has, or `only` this.
    pub(super) fn set_up(
        function: &Arc<OpenFunction>,
        address: PciAddress,
        only: Option<IrqMode>,
    ) -> Result<Self, VfioError> {
        let mut tried = Vec::new();
        for mode in IrqMode::ALL {
            if only.is_some_and(|only| only != mode) {
                continue;
            }
            match enable(function, mode) {
                Ok(signals) => {
                    log::info!("{address}: {} vectors of {mode}", signals.len());
                    return Ok(Self {
                        function: Arc::clone(function),
                        mode,
                        signals,
                        request: notice(function, VFIO_PCI_REQ_IRQ_INDEX),
                        error: notice(function, VFIO_PCI_ERR_IRQ_INDEX),
                    });
                }
                Err(error) => {
                    log::info!("{address}: {mode}: {error}");
                    tried.push(format!("{mode}: {error}"));
                }
            }
        }
        Err(VfioError::Function {
            address,
            what: format!("it has no interrupts that could be used ({})", tried.join("; ")),
        })
    }

    pub(super) fn mode(&self) -> IrqMode {
        self.mode
    }

    pub(super) fn vectors(&self) -> u16 {
        u16::try_from(self.signals.len()).unwrap_or(u16::MAX)
    }

    /// A waiter for `vector`. Those of vector 0 are told of the system's notices too.
    pub(super) fn waiter(&self, vector: u16) -> Result<LinuxWaiter, BackendError> {
        let signal = self.signal(vector)?;
        let notices: Vec<_> = if vector == 0 {
            self.request.iter().chain(&self.error).cloned().collect()
        } else {
            Vec::new()
        };
        LinuxWaiter::new(&signal, &notices)
            .map_err(|error| BackendError::System(format!("making an eventfd for a queue: {error}")))
    }

    fn signal(&self, vector: u16) -> Result<Arc<Signal>, BackendError> {
        let available = self.vectors();
        let slot = self
            .signals
            .get(usize::from(vector))
            .ok_or(BackendError::NoVector { vector, available })?;
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signal) = &*slot {
            return Ok(Arc::clone(signal));
        }
        let set = || {
            let signal = Signal::new()?;
            let descriptor = signal.as_fd().as_raw_fd();
            let range = (vector.into(), 1);
            self.function
                .set_irqs(SET_EVENTFDS, self.mode.index(), range, &[descriptor])?;
            Ok(signal)
        };
        let signal = set().map_err(|error: io::Error| {
            BackendError::System(format!("setting up interrupt vector {vector}: {error}"))
        })?;
        Ok(Arc::clone(slot.insert(signal)))
    }

    /// What the system has said of the function's future.
    pub(super) fn departure(&self) -> Option<Departure> {
        let has_fired = |signal: &Option<Arc<Signal>>| signal.as_ref().is_some_and(|it| it.fired() > 0);
        if has_fired(&self.error) {
            Some(Departure::Gone)
        } else if has_fired(&self.request) {
            Some(Departure::Asked)
        } else {
            None
        }
    }

    /// Takes all interrupts off the function.
    pub(super) fn disable(&self) {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
        if let Err(error) = self.function.set_irqs(flags, self.mode.index(), (0, 0), &[]) {
            log::debug!("disabling interrupts: {error}");
        }
    }
}

/// Has the function interrupt by `mode`. There are as many vectors as there are places.
fn enable(function: &Arc<OpenFunction>, mode: IrqMode) -> io::Result<Signals> {
    let has = function.irq_info(mode.index())?.count;
    if has == 0 {
        return Err(io::Error::other("the function does not have it"));
    }
    if mode == IrqMode::Intx {
        let of = Arc::clone(function);
        let signal = Signal::line(move || {
            let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK;
            of.set_irqs(flags, VFIO_PCI_INTX_IRQ_INDEX, (0, 1), &[]).map(drop)
        })?;
        let eventfds = [signal.as_fd().as_raw_fd()];
        function.set_irqs(SET_EVENTFDS, mode.index(), (0, 1), &eventfds)?;
        return Ok([Mutex::new(Some(signal))].into());
    }
    // The number cannot be raised later without a moment in which none works.
    let mut count = has.min(wanted(crate::cpu::count()));
    let signal = Signal::new()?;
    loop {
        let mut eventfds = vec![NO_EVENTFD; count as usize];
        if let Some(first) = eventfds.first_mut() {
            *first = signal.as_fd().as_raw_fd();
        }
        let there_are = function.set_irqs(SET_EVENTFDS, mode.index(), (0, count), &eventfds)?;
        match u32::try_from(there_are) {
            Ok(0) => break,
            // The system has fewer to give.
            Ok(fewer) if fewer < count => count = fewer,
            _ => return Err(io::Error::other(format!("of {count} vectors it has {there_are}"))),
        }
    }
    let mut signals: Signals = (0..count).map(|_| Mutex::new(None)).collect();
    if let Some(first) = signals.first_mut() {
        *first = Mutex::new(Some(signal));
    }
    Ok(signals)
}

/// One for the admin queue, and one for each I/O queue that there will be.
fn wanted(cpus: u16) -> u32 {
    MIN_WANTED_VECTORS.max(u32::from(cpus) + 1)
}

/// Has the system tell of what `index` is. Not every kernel does, and it is not needed.
fn notice(function: &OpenFunction, index: u32) -> Option<Arc<Signal>> {
    let set = || {
        if function.irq_info(index)?.count == 0 {
            return Ok(None);
        }
        let signal = Signal::new()?;
        function.set_irqs(SET_EVENTFDS, index, (0, 1), &[signal.as_fd().as_raw_fd()])?;
        Ok(Some(signal))
    };
    set().unwrap_or_else(|error: io::Error| {
        log::debug!("notice {index} of the function: {error}");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_interrupts_have_names() {
        for mode in IrqMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("MSIX".parse::<IrqMode>().is_err());
    }

    #[test]
    fn each_cpu_has_a_vector_and_the_admin_queue_another() {
        assert_eq!(wanted(1), 33);
        assert_eq!(wanted(32), 33);
        assert_eq!(wanted(128), 129);
    }
}
