use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use syscall::error::EIO;

use super::fake::{Fake, File};
use super::pcid::{Bar, LegacyLine, Why};
use super::*;

/// As QEMU has it.
pub(super) fn function() -> Function {
    let bar0 = Bar::Memory {
        address: 0xFEBD_0000,
        len_bytes: 0x4000,
    };
    Function {
        segment: 0,
        bus: 0,
        device: 3,
        function: 0,
        bars: [bar0, Bar::None, Bar::None, Bar::None, Bar::None, Bar::None],
        line: Some(LegacyLine {
            irq: 11,
            phandle: None,
        }),
        vendor_id: 0x1B36,
        device_id: 0x10,
        class: [1, 8, 2],
        revision: 2,
    }
}

/// What a function is like, for a pcid that answers for it.
#[derive(Clone)]
pub(super) struct Card {
    /// BAR, offset and entries of the table.
    pub msix: Option<(u8, u32, u16)>,
    /// Whether MSI has mask bits.
    pub msi: Option<bool>,
    pub line: Option<u8>,
    /// Bytes of BAR 4; 0: it has none.
    pub bar4_bytes: u32,
    pub command: Arc<AtomicU32>,
    /// Bits of the command register that stay whatever is written.
    pub stuck: u32,
    /// The request that fails, by its number.
    pub fails: Option<u8>,
}

impl Default for Card {
    fn default() -> Self {
        Self {
            msix: Some((0, 0x2000, 65)),
            msi: Some(true),
            line: Some(11),
            bar4_bytes: 0,
            command: Arc::new(AtomicU32::new(0x0010_0007)),
            stuck: 0,
            fails: None,
        }
    }
}

impl Card {
    /// A machine of `cpus` CPUs with the card in it, and its channel.
    pub fn plug(&self, cpus: u8) -> (Arc<Fake>, Descriptor) {
        let fake = Fake::new();
        for cpu in 0..cpus {
            // Numbers of lines are free on all CPUs but the first.
            let first = if cpu == 0 { 18 } else { 0 };
            let free: BTreeSet<u8> = (first..=30).collect();
            fake.lock()
                .free_irqs
                .insert(format!("/scheme/irq/cpu-{cpu:02x}"), free);
        }
        let card = self.clone();
        let channel = fake.channel(move |request| card.answer(request));
        (fake, channel)
    }

    /// With all CPUs started.
    pub fn connect(&self, cpus: u8) -> (Arc<Fake>, Result<Arc<RedoxBackend>, ConnectError>) {
        let (fake, channel) = self.plug(cpus);
        let backend = RedoxBackend::connect_on(&fake.system(), channel, Clock::system(), cpus.into());
        (fake, backend)
    }

    fn answer(&self, request: &[u8]) -> syscall::Result<Vec<u8>> {
        let mut reply: Vec<u8> = Vec::new();
        let mut words = |words: &[u32]| words.iter().for_each(|word| reply.extend(word.to_le_bytes()));
        if self.fails == Some(request[0]) {
            // Error(InvalidBitPattern)
            words(&[6, 1]);
            return Ok([&8_u64.to_le_bytes()[..], &reply].concat());
        }
        match request[0] {
            1 => {
                words(&[1]);
                reply.extend([0, 0, 0, 3, 0]);
                let mut words =
                    |words: &[u32]| words.iter().for_each(|word| reply.extend(word.to_le_bytes()));
                words(&[1, 0xFEBD_0000, 0x4000, 0, 0, 0]);
                if self.bar4_bytes > 0 {
                    words(&[1, 0xFEBE_0000, self.bar4_bytes, 0]);
                } else {
                    words(&[0, 0]);
                }
                match self.line {
                    Some(irq) => reply.extend([1, irq, 0]),
                    None => reply.push(0),
                }
                reply.extend([0x36, 0x1B, 0x10, 0x00, 1, 8, 2, 2]);
            }
            2 => {
                let features: Vec<u32> = [self.msi.map(|_| 0), self.msix.map(|_| 1)]
                    .into_iter()
                    .flatten()
                    .collect();
                words(&[2, features.len() as u32, 0]);
                words(&features);
            }
            4 => words(&[4, request[4].into()]),
            5 if request[4] == 1 => {
                let (bar, offset, entries) = self.msix.unwrap();
                words(&[7, 1, 1]);
                reply.push(bar);
                reply.extend(offset.to_le_bytes());
                reply.extend(entries.to_le_bytes());
                reply.push(bar);
                reply.extend(0x3000_u32.to_le_bytes());
            }
            5 => {
                words(&[7, 0, 0]);
                reply.extend([0, 1, u8::from(self.msi.unwrap())]);
            }
            6 => words(&[8, 0]),
            7 => {
                assert_eq!(request[4..], COMMAND.to_le_bytes());
                words(&[9, self.command.load(Ordering::Relaxed)]);
            }
            8 => {
                assert_eq!(request[4..6], COMMAND.to_le_bytes());
                let value = u32::from_le_bytes(request[6..].try_into().unwrap());
                assert_eq!(value >> 16, 0, "a state would be cleared");
                let old = self.command.load(Ordering::Relaxed);
                self.command.store(
                    (old & 0xFFFF_0000) | value | (old & self.stuck),
                    Ordering::Relaxed,
                );
                words(&[10]);
            }
            _ => return Err(syscall::Error::new(EIO)),
        }
        Ok([&(reply.len() as u64).to_le_bytes()[..], &reply].concat())
    }
}

#[test]
fn a_controller_is_connected_to_and_leaves_nothing_open() {
    let (fake, backend) = Card::default().connect(2);
    let backend = backend.unwrap();
    assert_eq!(backend.pci().as_deref(), Some("0000:00:03.0"));
    assert_eq!(backend.pci_name(), "pci-0000-00-03.0");
    assert_eq!(
        (backend.name(), backend.irq_mode(), backend.vectors()),
        ("redox", "msix", 65)
    );
    drop(backend);
    assert!(fake.lock().files.is_empty() && fake.lock().mapped.is_empty());
}

#[test]
fn waiters_are_made_for_vectors_that_there_are() {
    let (fake, backend) = Card::default().connect(1);
    let backend = backend.unwrap();
    drop(backend.waiter(0).unwrap());
    drop(backend.waiter(64).unwrap());
    let no_vector = BackendError::NoVector {
        vector: 65,
        available: 65,
    };
    assert_eq!(backend.waiter(65).err(), Some(no_vector));
    drop(backend);
    assert!(fake.lock().files.is_empty());
}

#[test]
fn memory_and_windows_are_there_when_the_namespace_is_not() {
    let (fake, backend) = Card::default().connect(1);
    let backend = backend.unwrap();
    fake.system().leave_namespace().unwrap();
    assert_eq!(backend.max_region_bytes(), 4 << 20);
    assert_eq!(backend.allocate(4 << 20).unwrap().len(), 4 << 20);
    assert!(backend.allocate((4 << 20) + 1).is_err());
    assert_eq!(
        backend.windows(1, 63, 4096).is_some(),
        cfg!(feature = "zero-copy")
    );
    assert!(backend.windows(1, 63, 8192).is_none());
}

#[test]
fn a_function_that_is_cut_off_is_no_bus_master_any_more() {
    let card = Card::default();
    let (_fake, backend) = card.connect(1);
    let backend = backend.unwrap();
    assert!(backend.cut_off());
    assert_eq!(card.command.load(Ordering::Relaxed), 0x0010_0003);
    // Gone from the bus, it reaches nothing.
    card.command.store(u32::MAX, Ordering::Relaxed);
    assert!(backend.cut_off());
}

#[test]
fn a_function_that_will_not_be_cut_off_is_not_said_to_be() {
    let card = Card {
        stuck: BUS_MASTER,
        ..Card::default()
    };
    let (_fake, backend) = card.connect(1);
    assert!(!backend.unwrap().cut_off());
    let card = Card {
        fails: Some(8),
        ..Card::default()
    };
    let (_fake, backend) = card.connect(1);
    assert!(!backend.unwrap().cut_off());
}

#[test]
fn what_fails_on_the_way_is_an_error_and_leaves_nothing_open() {
    for (request, card) in [
        (1, Card::default()),
        (2, Card::default()),
        (7, Card::default()),
        // Enabling, and describing: MSI-X and MSI are tried in turn, and there is no line.
        (
            4,
            Card {
                line: None,
                ..Card::default()
            },
        ),
        (
            5,
            Card {
                line: None,
                ..Card::default()
            },
        ),
    ] {
        let card = Card {
            fails: Some(request),
            ..card
        };
        let (fake, backend) = card.connect(1);
        match backend.unwrap_err() {
            ConnectError::Pcid(error) => assert!(matches!(error.why, Why::Refused(_))),
            error => assert_eq!(error, ConnectError::NoInterrupt),
        }
        assert!(fake.lock().files.is_empty() && fake.lock().mapped.is_empty());
    }
}

#[test]
fn a_function_that_is_not_on_the_bus_is_told() {
    let card = Card::default();
    card.command.store(u32::MAX, Ordering::Relaxed);
    let (_fake, backend) = card.connect(1);
    assert_eq!(backend.unwrap_err(), ConnectError::Absent);
}

#[test]
fn the_channel_is_what_the_bar_is_mapped_through() {
    let (fake, backend) = Card::default().connect(1);
    let backend = backend.unwrap();
    backend.write64(0x28, 0x1_0000_0002);
    backend.write32(0x14, 7);
    assert_eq!((backend.read64(0x28), backend.read32(0x14)), (0x1_0000_0002, 7));
    assert_eq!(
        (backend.read32(0x28), backend.read32(0x2C)),
        (2, 1),
        "the lower half first"
    );
    // Only the lower half is inside; and there is nothing at the end of all numbers.
    backend.write64(0x3FFC, 0x1_0000_0005);
    assert_eq!(backend.read64(0x3FFC), 0xFFFF_FFFF_0000_0005);
    assert_eq!(backend.read64(usize::MAX - 3), u64::MAX);
    assert_eq!(backend.read32(0x4000), u32::MAX);
    assert!(backend.doorbell(0x4000).is_err());
    backend.doorbell(0x1000).unwrap().ring(3);
    assert_eq!(backend.read32(0x1000), 3);
    assert!(fake.lock().maps.iter().any(|(file, ..)| *file == File::Channel));
}

#[test]
fn a_thread_is_bound_where_its_vector_fires() {
    let (fake, backend) = Card::default().connect(2);
    let backend = backend.unwrap();
    let cpu = backend.cpu_of(2).unwrap();
    backend.pin_thread(cpu);
    assert_eq!(fake.lock().pinned, [1]);
}
