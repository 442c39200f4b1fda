use super::*;
use nvme_spec::command;
use proptest::prelude::*;

fn read_of(nsid: u32, lba: u64) -> SubmissionEntry {
    command::read(nsid, lba, 8)
}

#[test]
fn nothing_in_force_strikes_nothing() {
    let faults = Faults::new(0);
    assert!(faults.is_empty());
    assert_eq!(faults.strike(1, &read_of(1, 0)), None);
}

#[test]
fn skip_and_times_bound_the_hits() {
    let faults = Faults::new(0);
    let id = faults.add(Fault::on_opcode(NvmOpcode::READ, Action::Drop).skip(2).times(3));
    let struck: Vec<bool> = (0..8)
        .map(|lba| faults.strike(1, &read_of(1, lba)).is_some())
        .collect();
    assert_eq!(struck, [false, false, true, true, true, false, false, false]);
    assert_eq!(faults.hits(id), 3);
}

#[test]
fn opcode_queue_namespace_and_lba_narrow() {
    let faults = Faults::new(0);
    let id = faults.add(
        Fault::on_opcode(NvmOpcode::READ, Action::Reorder)
            .nsid(2)
            .lba(1 << 33),
    );
    assert_eq!(faults.strike(1, &read_of(2, 1 << 33)), Some(Action::Reorder));
    assert_eq!(faults.strike(1, &read_of(2, 1)), None);
    assert_eq!(faults.strike(1, &read_of(1, 1 << 33)), None);
    assert_eq!(faults.strike(0, &read_of(2, 1 << 33)), None);
    assert_eq!(faults.strike(1, &command::write(2, 1 << 33, 8, false)), None);
    assert_eq!(faults.hits(id), 1);
}

#[test]
fn identify_is_told_apart_by_cns() {
    let faults = Faults::new(0);
    faults.add(Fault::on_identify(1, Action::Drop));
    let identify = |cns| SubmissionEntry {
        opcode: AdminOpcode::IDENTIFY.0,
        cdw10: cns,
        ..Default::default()
    };
    assert_eq!(faults.strike(0, &identify(0)), None);
    assert_eq!(faults.strike(0, &identify(1)), Some(Action::Drop));
    assert_eq!(faults.strike(3, &identify(1)), None);
}

#[test]
fn the_first_added_strikes_and_the_next_takes_over() {
    let faults = Faults::new(0);
    let first = faults.add(Fault::new(Action::Duplicate).once());
    let second = faults.add(Fault::new(Action::Drop));
    assert_eq!(faults.strike(7, &read_of(1, 0)), Some(Action::Duplicate));
    assert_eq!(faults.strike(7, &read_of(1, 0)), Some(Action::Drop));
    assert!(faults.remove(second));
    assert!(!faults.remove(second));
    assert_eq!(faults.strike(7, &read_of(1, 0)), None);
    assert_eq!((faults.hits(first), faults.hits(second)), (1, 1));
    faults.clear();
    assert!(faults.is_empty());
    assert_eq!(faults.total_hits(), 2);
}

#[test]
fn bytes_past_the_entry_are_ignored() {
    let fault = Fault::new(Action::Drop)
        .bytes(62, &[1, 2, 3, 4], &[0xFF; 4])
        .bytes(usize::MAX, &[1], &[1]);
    assert_eq!(fault.pattern[62..], [1, 2]);
    assert_eq!(fault.mask[62..], [0xFF, 0xFF]);
}

#[test]
fn a_mix_disturbs_but_neither_corrupts_nor_vanishes() {
    for seed in 0..200 {
        let mix = Faults::seeded_mix(seed);
        assert_eq!(mix, Faults::seeded_mix(seed));
        assert!(!mix.is_empty());
        for fault in mix {
            assert!(fault.one_in.is_some_and(|one_in| one_in > 1));
            assert!(!matches!(
                fault.action,
                Action::Corrupt { .. } | Action::Vanish | Action::Fail(Status::SUCCESS)
            ));
        }
    }
}

proptest! {
    #[test]
    fn chance_replays_from_its_seed(seed: u64, one_in in 2u32..10, commands in 1usize..300) {
        let run = || {
            let faults = Faults::new(seed);
            let id = faults.add(Fault::new(Action::Drop).one_in(one_in));
            let struck: Vec<bool> =
                (0..commands).map(|lba| faults.strike(1, &read_of(1, lba as u64)).is_some()).collect();
            (struck, faults.hits(id))
        };
        let (struck, hits) = run();
        prop_assert_eq!(struck.iter().filter(|hit| **hit).count() as u64, hits);
        prop_assert_eq!(run(), (struck, hits));
    }

    #[test]
    fn matches_exactly_the_masked_bits(
        entry in proptest::array::uniform32(any::<u16>()),
        at in 0usize..64,
        flip in 1u8..,
        mask: u8,
    ) {
        let mut bytes = [0u8; 64];
        for (to, word) in bytes.chunks_exact_mut(2).zip(entry) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        let fault = Fault::new(Action::Drop).bytes(0, &bytes, &[0; 64]).bytes(at, &[bytes[at]], &[mask]);
        bytes[at] ^= flip;
        let changed: SubmissionEntry = zerocopy::transmute!(bytes);
        prop_assert_eq!(fault.matches(1, &changed), flip & mask == 0);
    }
}
