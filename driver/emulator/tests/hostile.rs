//! A host that writes anything anywhere: the device neither panics nor hangs nor grows, and is well after a reset.

mod common;

use common::{Host, PAGE};
use nvme_emulator::{HostMemory, VecMemory};
use nvme_spec::{AdminOpcode, NvmOpcode, SubmissionEntry, command, register};
use proptest::prelude::*;
use zerocopy::FromBytes;

/// Commands whose fields are nearly right more often than chance would have it.
fn entry() -> impl Strategy<Value = SubmissionEntry> {
    let opcodes: Vec<u8> = AdminOpcode::ALL
        .iter()
        .map(|opcode| opcode.0)
        .chain(NvmOpcode::ALL.iter().map(|opcode| opcode.0))
        .collect();
    let address = || {
        prop_oneof![
            (0u64..64, 0u64..4).prop_map(|(page, odd)| VecMemory::BASE + page * PAGE + odd * 4),
            any::<u64>(),
            Just(0),
        ]
    };
    let small = || {
        prop_oneof![
            0u32..20,
            any::<u32>(),
            (0u32..4, 0u32..70).prop_map(|(low, high)| high << 16 | low)
        ]
    };
    (
        prop::array::uniform32(any::<u16>()),
        prop_oneof![prop::sample::select(opcodes), any::<u8>()],
        prop_oneof![3 => Just(0u8), 1 => any::<u8>()],
        (address(), address()),
        (small(), small(), small(), 0u32..4),
    )
        .prop_map(
            |(words, opcode, flags, (prp1, prp2), (cdw10, cdw11, cdw12, nsid))| {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                let noise = SubmissionEntry::read_from_bytes(&bytes).unwrap();
                SubmissionEntry {
                    opcode,
                    flags,
                    prp1,
                    prp2,
                    cdw10,
                    cdw11,
                    cdw12,
                    nsid,
                    cid: noise.cid % 8,
                    ..noise
                }
            },
        )
}

#[derive(Debug, Clone)]
enum Move {
    Command(u16, SubmissionEntry),
    Doorbell(usize, u32),
    Register(usize, u32),
    Poke(u64, Vec<u8>),
    Time(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => (0u16..3, entry()).prop_map(|(qid, entry)| Move::Command(qid, entry)),
        2 => (0usize..10, prop_oneof![0u32..70, any::<u32>()]).prop_map(|(index, value)| Move::Doorbell(index, value)),
        1 => (prop::sample::select(vec![register::CSTS, register::INTMS, register::INTMC, register::AQA, register::CC,
            register::NSSR]), any::<u32>()).prop_map(|(offset, value)| Move::Register(offset, value)),
        2 => (0u64..64, prop::collection::vec(any::<u8>(), 1..200))
            .prop_map(|(page, bytes)| Move::Poke(VecMemory::BASE + page * PAGE, bytes)),
        1 => (0u64..1_000_000).prop_map(Move::Time),
    ];
    prop::collection::vec(one, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_a_host_does_breaks_the_device(moves in moves(), latency in prop_oneof![Just("none"), Just("10us")]) {
        let mut host = Host::new(&format!("queues=4,namespaces=2,size=1MiB,latency={latency},cqr=off"));
        host.enable();
        host.create_queue(1, 16, 1);
        host.create_queue(2, 4, 1);
        for next in moves {
            match next {
                Move::Command(qid, entry) => {
                    host.queues.get_mut(&qid).unwrap().put(&host.memory, entry);
                    host.ring_sq(qid);
                }
                Move::Doorbell(index, value) => host.device.registers().ring(index, value),
                Move::Register(offset, value) => host.device.registers().write32(offset, value),
                Move::Poke(address, bytes) => host.memory.write(address, &bytes).unwrap(),
                Move::Time(ns) => host.now_ns += ns,
            }
            let step = host.step();
            prop_assert!(step.due_ns.is_none_or(|due_ns| due_ns > host.now_ns), "it comes to rest");
        }
        host.disable();
        // Whatever the noise has made of the namespaces: they answer.
        host.enable();
        host.create_queue(1, 16, 1);
        host.io_ok(1, command::flush(1));
    }
}
