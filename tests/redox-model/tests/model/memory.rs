//! Memory of the driver's own, and what addresses mean to a device.

use nvme_redox_model::{ControllerConfig, Machine, MachineConfig, Quirks, Stray, Violation};
use syscall::error::{EACCES, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP};
use syscall::schemev2::Opcode;

use crate::bus::{Bus, PRIVATE, SHARED};
use crate::daemon::{Daemon, FILE, answer};

const MIB: usize = 1 << 20;

fn errno<T>(result: syscall::error::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.errno)
}

fn bus() -> Bus {
    Bus::new(1, ControllerConfig::new("size=16MiB"))
}

#[test]
fn contiguous_memory_comes_in_four_mib_at_most() {
    let bus = bus();
    let root = bus.system.open("/scheme/memory/scheme-root", 0).unwrap();
    let open = |path| bus.system.openat(root, path, 0);
    assert_eq!(errno(open("zeroed@wb?below_4g")), ENOENT);
    assert_eq!(errno(open("zeroed@hot")), ENOENT);
    let contiguous = open("zeroed@wb?phys_contiguous").unwrap();
    let scattered = open("zeroed@wb").unwrap();
    let map = |from, len_bytes, flags| bus.system.map(from, 0, len_bytes, flags);
    assert_eq!(errno(map(contiguous, 8 * MIB, PRIVATE)), ENOMEM);
    assert_eq!(errno(map(contiguous, 4096, SHARED)), EOPNOTSUPP);
    assert_eq!(errno(map(contiguous, 100, PRIVATE)), EINVAL);
    assert_eq!(errno(map(contiguous, 0, PRIVATE)), EINVAL);
    assert_eq!(errno(map(root, 4096, PRIVATE)), EOPNOTSUPP);
    assert_eq!(errno(bus.system.openat(contiguous, "translation", 0)), EACCES);

    let before = bus.machine.driver_bytes();
    let start = map(contiguous, 4 * MIB, PRIVATE).unwrap();
    assert_eq!(bus.machine.driver_bytes() - before, 4 * MIB);
    let address = start.as_ptr() as usize;
    let first = bus.translate(address).unwrap();
    assert_eq!(
        bus.translate(address + 4 * MIB - 1),
        Ok(first + 4 * MIB as u64 - 4096)
    );
    // SAFETY: just mapped.
    #[allow(unsafe_code)]
    let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), 4 * MIB) };
    assert!(bytes.iter().all(|byte| *byte == 0));

    let scattered = map(scattered, 8 * MIB, PRIVATE).unwrap().as_ptr() as usize;
    let first = bus.translate(scattered).unwrap();
    assert_ne!(bus.translate(scattered + 4096), Ok(first + 4096));
}

#[test]
fn a_translation_is_of_the_page() {
    let bus = bus();
    let (physical, start) = bus.allocate(8192);
    let address = start.as_ptr() as usize;
    assert_eq!(physical % 4096, 0);
    // The offset within the page is not in the answer.
    assert_eq!(bus.translate(address + 0x123), Ok(physical));
    assert_eq!(bus.translate(address + 0x1FFF), Ok(physical + 4096));
    assert_eq!(errno(bus.translate(0x1000)), ENOENT);
    assert_eq!(
        errno(bus.translate(&bus as *const Bus as usize)),
        ENOENT,
        "not unless it is asked for"
    );
}

#[test]
fn what_is_unmapped_is_a_whole_mapping() {
    let bus = bus();
    let (_, start) = bus.allocate(8192);
    let address = start.as_ptr() as usize;
    // SAFETY: nobody uses it; the first does nothing.
    #[allow(unsafe_code)]
    unsafe {
        bus.system.unmap(start, 4096);
        let half = Violation::Unmap {
            address,
            len_bytes: 4096,
        };
        assert_eq!(bus.machine.violations(), [half]);
        bus.system.unmap(start, 8192);
    }
    assert_eq!(errno(bus.translate(address)), ENOENT);
    assert_eq!(bus.machine.violations().len(), 1);
}

#[test]
fn the_driver_does_not_get_all_there_is() {
    let machine = Machine::new(MachineConfig {
        quirks: Quirks {
            memory_bytes: 10 * MIB,
            ..Quirks::default()
        },
        ..MachineConfig::default()
    });
    let system = machine.system();
    let memory = system
        .open("/scheme/memory/zeroed@wb?phys_contiguous", 0)
        .unwrap();
    let taken = (0..4).map(|_| errno(system.map(memory, 0, 4 * MIB, PRIVATE)));
    assert_eq!(taken.collect::<Vec<_>>(), [0, 0, ENOMEM, ENOMEM]);
}

#[test]
fn pages_of_the_heap_can_be_known_too() {
    let machine = Machine::new(MachineConfig {
        quirks: Quirks {
            translates_heap: true,
            ..Quirks::default()
        },
        ..MachineConfig::default()
    });
    let system = machine.system();
    let translation = system.open("/scheme/memory/translation", 0).unwrap();
    let translate = |address: usize| {
        let mut word = address.to_ne_bytes();
        system
            .call(translation, &mut word, &[])
            .map(|_| u64::from_ne_bytes(word))
    };
    let heap = vec![1_u8; 3 * 4096];
    let address = heap.as_ptr() as usize;
    let (first, second) = (translate(address).unwrap(), translate(address + 4096).unwrap());
    assert_eq!((first % 4096, translate(address)), (0, Ok(first)));
    assert_ne!(second, first + 4096);
    assert_eq!(errno(translate(0x1000)), ENOENT);
}

#[test]
fn a_device_reads_what_is_lent_until_the_answer() {
    let mut bus = bus();
    bus.enable();
    let daemon = Daemon::new(&bus.machine, "dma");
    let client = bus.machine.client(0, 0);
    std::thread::scope(|scope| {
        let daemon = daemon.guard();
        let client = &client;
        let opened = scope.spawn(move || client.open("/scheme/dma/", 0).unwrap());
        let sqe = daemon.take_one(Opcode::OpenAt);
        daemon.answer(&[answer(&sqe, Ok(FILE))]).unwrap();
        let file = opened.join().unwrap();
        // Straight into what the client has lent: the device's own words, at the place that the client reads.
        let read = scope.spawn(move || {
            let mut bytes = vec![0; 3 * 4096];
            let start = bytes.as_ptr().align_offset(4096);
            client.pread(file, &mut bytes[start..start + 4096], 0).unwrap();
            bytes[start + 4..start + 12].to_vec()
        });
        let sqe = daemon.take_one(Opcode::Read);
        let physical = bus.translate(sqe.args[1] as usize).unwrap();
        bus.identify(physical);
        assert_eq!(bus.completed(), 0);
        daemon.answer(&[answer(&sqe, Ok(4096))]).unwrap();
        assert_eq!(read.join().unwrap(), b"EMU00000");
        assert_eq!(bus.machine.violations(), []);
        // After the answer, neither the device nor the translation knows it.
        assert_eq!(errno(bus.translate(sqe.args[1] as usize)), ENOENT);
        bus.identify(physical);
        assert_ne!(bus.completed(), 0);
        // What is to be read from is not written to.
        scope.spawn(move || client.pwrite(file, &[0; 8192], 0).unwrap());
        let sqe = daemon.take_one(Opcode::Write);
        let to_be_read = bus.translate(sqe.args[1] as usize).unwrap();
        bus.identify(to_be_read);
        assert_ne!(bus.completed(), 0);
        daemon.answer(&[answer(&sqe, Ok(8192))]).unwrap();
        let dma = |why, address| Violation::Dma {
            address,
            writes: true,
            why,
        };
        let expected = [dma(Stray::Gone, physical), dma(Stray::LentForReading, to_be_read)];
        assert_eq!(bus.machine.violations(), expected);
    });
}
