//! The device on the bus, from pcid to the interrupt.

use std::sync::atomic::Ordering;

use nvme_redox_model::{ControllerConfig, Delivery, Stray, Violation};
use nvme_spec::register;
use syscall::error::EINVAL;

use crate::bus::{Bus, PRIVATE, SHARED};

fn u32s(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn a_controller_comes_up_through_its_bar() {
    let mut bus = Bus::new(1, ControllerConfig::new("size=16MiB,serial=ON-THE-BUS"));
    let (data, bytes) = bus.allocate(4096);
    bus.enable();
    bus.identify(data);
    assert_eq!(bus.completed(), 0);
    // SAFETY: the device has written it and is done.
    #[allow(unsafe_code)]
    let serial = unsafe { std::slice::from_raw_parts(bytes.as_ptr().add(4), 10) };
    assert_eq!(serial, b"ON-THE-BUS");
    // After a reset, the tail starts at 1 again: the same value as before is a new ring.
    bus.disable();
    bus.enable();
    bus.identify(data);
    assert_eq!(bus.completed(), 0);
    assert_eq!(bus.machine.violations(), []);
    assert_eq!(bus.machine.controller(0).device().counters().dma_faults, 0);
}

#[test]
fn a_device_reaches_what_is_mapped_and_nothing_else() {
    let mut bus = Bus::new(1, ControllerConfig::new("size=16MiB"));
    bus.enable();
    let (data, start) = bus.allocate(4096);
    // SAFETY: nobody uses it.
    #[allow(unsafe_code)]
    unsafe {
        bus.system.unmap(start, 4096);
    }
    bus.identify(data);
    assert_ne!(bus.completed(), 0);
    bus.identify(0x1000);
    assert_ne!(bus.completed(), 0);
    let dma = |why, address| Violation::Dma {
        address,
        writes: true,
        why,
    };
    assert_eq!(
        bus.machine.violations(),
        [dma(Stray::Gone, data), dma(Stray::NeverThere, 0x1000)]
    );
}

#[test]
fn a_device_that_is_no_bus_master_reaches_nothing() {
    let mut bus = Bus::new(1, ControllerConfig::new("size=16MiB"));
    let (data, _) = bus.allocate(4096);
    bus.enable();
    // ReadConfig and WriteConfig of the command register.
    let read = bus.ask(&[&u32s(&[7])[..], &[4, 0]].concat());
    assert_eq!(read[..4], 9_u32.to_le_bytes());
    let command = u32::from_le_bytes(read[4..].try_into().unwrap());
    assert_eq!(command & 0b110, 0b110);
    let write = [&u32s(&[8])[..], &[4, 0], &u32s(&[command & !0b100])].concat();
    assert_eq!(bus.ask(&write), 10_u32.to_le_bytes());
    bus.identify(data);
    bus.wait(|bus| bus.machine.controller(0).blocked_dma() > 0);
    assert_eq!(bus.machine.violations(), []);
    // EnableDevice gives it back.
    assert_eq!(bus.ask(&u32s(&[0])), u32s(&[0]));
    assert!(bus.machine.controller(0).is_bus_master());
}

#[test]
fn a_bar_is_mapped_by_number_and_type() {
    let bus = Bus::new(
        1,
        ControllerConfig {
            msix_bar: 4,
            ..ControllerConfig::new("size=16MiB")
        },
    );
    let map = |offset, len_bytes, flags| bus.system.map(bus.channel, offset, len_bytes, flags);
    let failure = |offset, len_bytes, flags| map(offset, len_bytes, flags).map_err(|error| error.errno);
    assert_eq!(failure(1 << 59, 4096, PRIVATE), Err(EINVAL));
    assert_eq!(failure(3 << 59, 4096, SHARED), Err(EINVAL));
    assert_eq!(failure(1 << 61 | 1 << 59, 4096, SHARED), Err(EINVAL));
    assert_eq!(failure(1 << 59, 1 << 20, SHARED), Err(EINVAL));
    let other = map(4 << 61 | 1 << 59, 16384, SHARED).unwrap();
    // Two mappings of a BAR are one BAR.
    let again = map(1 << 59, 16384, SHARED).unwrap();
    bus.word(register::AQA).store(0x003F_003F, Ordering::Release);
    assert_ne!(again, bus.bar);
    // SAFETY: within the mapping.
    #[allow(unsafe_code)]
    let aqa = unsafe { again.as_ptr().add(register::AQA).cast::<u32>().read_volatile() };
    assert_eq!(aqa, 0x003F_003F);
    // SAFETY: as above; the last word of the first entry is its control.
    #[allow(unsafe_code)]
    let control = unsafe { other.as_ptr().add(12).cast::<u32>().read_volatile() };
    assert_eq!(control & 1, 1, "every vector is masked at first");
}

#[test]
fn what_is_off_the_bus_reads_as_ones() {
    let bus = Bus::new(1, ControllerConfig::new("size=16MiB"));
    bus.machine.controller(0).unplug();
    bus.wait(|bus| bus.word(register::CSTS).load(Ordering::Acquire) == u32::MAX);
    let read = bus.ask(&[&u32s(&[7])[..], &[0, 0]].concat());
    assert_eq!(read[4..], [0xFF; 4]);
}

#[test]
fn pending_messages_wait_for_their_mask() {
    let mut bus = Bus::new(2, ControllerConfig::new("size=16MiB"));
    let (data, _) = bus.allocate(4096);
    bus.enable();
    // EnableFeature(MsiX): its variant and the feature's come back.
    assert_eq!(bus.ask(&u32s(&[4, 1])), u32s(&[4, 1]));
    assert_eq!(bus.machine.controller(0).delivery(), Delivery::MsiX);
    // FeatureInfo(MsiX): feature twice, BAR, offset, entries, BAR, offset.
    let info = bus.ask(&u32s(&[5, 1]));
    assert_eq!(info[..13], [&u32s(&[7, 1, 1])[..], &[0]].concat());
    let table = u32::from_le_bytes(info[13..17].try_into().unwrap()) as usize;
    assert_eq!(u16::from_le_bytes(info[17..19].try_into().unwrap()), 65);
    let pending = u32::from_le_bytes(info[20..24].try_into().unwrap()) as usize;

    let irq = bus
        .system
        .open("/scheme/irq/cpu-01/40", syscall::O_CREAT)
        .unwrap();
    for (word, value) in [0xFEE0_1000, 0, 40 + 32].into_iter().enumerate() {
        bus.word(table + word * 4).store(value, Ordering::Release);
    }
    bus.identify(data);
    assert_eq!(bus.completed(), 0);
    bus.wait(|bus| bus.word(pending).load(Ordering::Acquire) == 1);
    let mut count = [0; 8];
    assert_eq!(bus.system.read(irq, &mut count), Ok(0));
    bus.word(table + 12).store(0, Ordering::Release);
    bus.wait(|bus| bus.system.read(irq, &mut [0; 8]) == Ok(8));
    assert_eq!(bus.word(pending).load(Ordering::Acquire), 0);
    // The next one comes at once.
    bus.identify(data);
    bus.wait(|bus| {
        let mut count = [0; 8];
        bus.system.read(irq, &mut count).unwrap();
        usize::from_ne_bytes(count) == 2
    });
    assert_eq!(bus.machine.violations(), []);
}

#[test]
fn a_message_that_nobody_reserved_is_found_out() {
    let mut bus = Bus::new(2, ControllerConfig::new("size=16MiB"));
    let (data, _) = bus.allocate(4096);
    bus.enable();
    // SetFeatureInfo(Msi { one vector, address and data, no mask }), EnableFeature(Msi).
    let message = [
        &u32s(&[6, 0])[..],
        &[1, 0, 1],
        &0xFEE0_1000_u64.to_le_bytes(),
        &u32s(&[72]),
        &[0],
    ]
    .concat();
    assert_eq!(bus.ask(&message), u32s(&[8, 0]));
    assert_eq!(bus.ask(&u32s(&[4, 0])), u32s(&[4, 0]));
    bus.identify(data);
    bus.wait(|bus| !bus.machine.violations().is_empty());
    let message = Violation::Message {
        address: 0xFEE0_1000,
        data: 72,
    };
    assert_eq!(bus.machine.violations(), [message]);
    // Reserved on the wrong CPU is as good as not.
    bus.system
        .open("/scheme/irq/cpu-00/40", syscall::O_CREAT)
        .unwrap();
    bus.identify(data);
    bus.wait(|bus| bus.machine.violations().len() == 2);
    let irq = bus
        .system
        .open("/scheme/irq/cpu-01/40", syscall::O_CREAT)
        .unwrap();
    bus.identify(data);
    bus.wait(|bus| bus.system.read(irq, &mut [0; 8]) == Ok(8));
    assert_eq!(bus.machine.violations().len(), 2);
}

#[test]
fn a_line_is_served_once_and_then_again() {
    let mut bus = Bus::new(
        1,
        ControllerConfig {
            msix: None,
            msi: false,
            ..ControllerConfig::new("size=16MiB")
        },
    );
    let (data, _) = bus.allocate(4096);
    bus.enable();
    // EnableFeature of what is not there: Error(NonexistentFeature(MsiX)).
    assert_eq!(bus.ask(&u32s(&[4, 1])), u32s(&[6, 0, 1]));
    assert_eq!(bus.ask(&u32s(&[2])), [&u32s(&[2])[..], &[0; 8]].concat());
    let irq = bus.system.open("/scheme/irq/11", 0).unwrap();
    let mut count = [0; 8];
    bus.identify(data);
    bus.wait(|bus| bus.system.read(irq, &mut [0; 8]) == Ok(8));
    // Two more while it is being served: one event, after it was acknowledged.
    for _ in 0..2 {
        bus.identify(data);
        assert_eq!(bus.completed(), 0);
    }
    bus.wait(|bus| bus.machine.controller(0).device().counters().interrupts == 3);
    assert_eq!(bus.system.read(irq, &mut count), Ok(8));
    assert_eq!(usize::from_ne_bytes(count), 1);
    assert_eq!(
        bus.system.write(irq, &2_usize.to_ne_bytes()),
        Ok(0),
        "that is not the count"
    );
    assert_eq!(bus.system.write(irq, &count), Ok(8));
    assert_eq!(bus.system.read(irq, &mut count), Ok(8));
    assert_eq!(usize::from_ne_bytes(count), 2);
    assert_eq!(bus.system.write(irq, &count), Ok(8));
    assert_eq!(bus.system.read(irq, &mut count), Ok(0));
}
