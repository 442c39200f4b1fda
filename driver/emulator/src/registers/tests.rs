use proptest::prelude::*;

use super::*;

fn registers() -> Registers {
    let cap = Cap::new()
        .with_mqes_z(1023)
        .with_cqr(true)
        .with_to(4)
        .with_nssrs(true)
        .with_css(1);
    Registers::new(cap, Vs::new().with_major(2), 4, Arc::from([Doze::new()]), None)
}

#[test]
fn every_64_bit_register_is_also_two_halves() {
    let registers = registers();
    assert_eq!(registers.read64(register::CAP), u64::from(registers.cap()));
    assert_eq!(
        registers.read32(register::CAP + 4),
        (u64::from(registers.cap()) >> 32) as u32
    );
    registers.write64(register::ASQ, 0x1234_5678_9abc_d000);
    assert_eq!(registers.read32(register::ASQ), 0x9abc_d000);
    assert_eq!(registers.read32(register::ASQ + 4), 0x1234_5678);
    registers.write32(register::ACQ + 4, 0xaaaa_5555);
    registers.write32(register::ACQ, 0x1111_2fff);
    assert_eq!(
        registers.read64(register::ACQ),
        0xaaaa_5555_1111_2000,
        "bits 11:0 are reserved"
    );
}

#[test]
fn read_only_and_reserved_bits_do_not_stick() {
    let registers = registers();
    registers.write64(register::CAP, u64::MAX);
    registers.write32(register::VS, u32::MAX);
    registers.write32(register::CSTS, u32::MAX);
    registers.write32(register::AQA, u32::MAX);
    assert_eq!(registers.read64(register::CAP), u64::from(registers.cap()));
    assert_eq!(registers.read32(register::VS), 0x0002_0000);
    assert_eq!(registers.read32(register::CSTS), 0);
    assert_eq!(registers.read32(register::AQA), 0x0fff_0fff);
}

#[test]
fn the_mask_is_set_and_cleared_bit_by_bit() {
    let registers = registers();
    registers.write32(register::INTMS, 0b1010);
    registers.write32(register::INTMS, 0b0001);
    assert_eq!(registers.read32(register::INTMC), 0b1011);
    assert!(registers.is_masked(3) && !registers.is_masked(2) && !registers.is_masked(33));
    registers.write32(register::INTMC, 0b1000);
    assert_eq!(registers.read32(register::INTMS), 0b0011);
    assert!(registers.take_writes().0.unmasked);
}

#[test]
fn a_quick_toggle_of_en_is_still_a_reset() {
    let registers = registers();
    let enabled: u32 = Cc::new().with_en(true).into();
    registers.write32(register::CC, enabled);
    assert!(!registers.take_writes().0.reset);
    registers.write32(register::CC, 0);
    registers.write32(register::CC, enabled);
    let (writes, configuration) = registers.take_writes();
    assert!(writes.reset && writes.configured && configuration.cc.en());
    assert!(!registers.is_written());
}

#[test]
fn enabling_that_was_overtaken_by_a_reset_does_not_show() {
    let registers = registers();
    registers.write32(register::CC, Cc::new().with_en(true).into());
    registers.take_writes();
    registers.write32(register::CC, 0);
    registers.write32(register::CC, Cc::new().with_en(true).into());
    assert!(!registers.finish_enable(true));
    assert_eq!(registers.read32(register::CSTS), 0);
}

#[test]
fn disabling_a_controller_that_never_got_ready_clears_cfs_at_once() {
    let registers = registers();
    registers.write32(register::CC, Cc::new().with_en(true).into());
    registers.take_writes();
    assert!(registers.finish_enable(false));
    assert!(registers.csts().cfs());
    registers.write32(register::CC, 0);
    assert!(!registers.csts().cfs());
}

#[test]
fn doorbells_without_a_queue_are_counted_when_ready_and_never_stored() {
    let registers = registers();
    registers.ring(2, 5);
    assert_eq!(registers.invalid_doorbell_writes(), 0, "not ready: no meaning");
    registers.write32(register::CC, Cc::new().with_en(true).into());
    registers.take_writes();
    registers.finish_enable(true);
    registers.ring(2, 5);
    registers.write32(register::DOORBELLS + 4 * 9999, 1);
    assert_eq!(registers.invalid_doorbell_writes(), 2);
    assert!(registers.take_writes().0.invalid_doorbell);
    registers.claim(2, 0);
    assert_eq!(registers.doorbell_value(2), 0);
    registers.write32(register::DOORBELLS + 8, 7);
    assert_eq!(
        (registers.doorbell_value(2), registers.doorbell_writes(1)),
        (7, (1, 0))
    );
}

#[test]
fn a_vanished_device_is_all_ones() {
    let registers = registers();
    registers.set_vanished(true);
    registers.write32(register::CC, 1);
    assert_eq!(registers.read32(register::CSTS), u32::MAX);
    assert_eq!(registers.read64(register::CAP), u64::MAX);
    assert_eq!(registers.read32(0xf00), u32::MAX);
    registers.set_vanished(false);
    assert_eq!(registers.read32(register::CC), 0);
}

proptest! {
    #[test]
    fn no_access_panics(accesses in proptest::collection::vec((any::<bool>(), any::<usize>(), 0usize..0x3000, any::<u64>()), 0..100)) {
        let registers = registers();
        for (wild, anywhere, near, value) in accesses {
            let offset = if wild { anywhere } else { near };
            registers.write32(offset, value as u32);
            registers.write64(offset, value);
            registers.ring(offset, value as u32);
            let _ = (registers.read32(offset), registers.read64(offset));
        }
    }
}
