use nvme_spec::command;
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::{config::Config, host::VecMemory};

const BASE: u64 = VecMemory::BASE;
const LIMITS: Limits = Limits {
    page_bytes: 4096,
    mdts_bytes: Some(64 << 10),
    sgl: true,
    write_through: false,
};

struct Bench {
    namespace: Namespace,
    memory: VecMemory,
    scratch: Scratch,
}

impl Bench {
    fn new(spec: &str) -> Self {
        let config: Config = spec.parse().unwrap();
        Self {
            namespace: Namespace::open(&config, 1).unwrap(),
            memory: VecMemory::new(256 << 10),
            scratch: Scratch::new(),
        }
    }

    fn run(&mut self, entry: SubmissionEntry) -> Outcome {
        self.run_within(entry, &LIMITS)
    }

    fn run_within(&mut self, entry: SubmissionEntry, limits: &Limits) -> Outcome {
        execute(&self.namespace, &entry, limits, &self.memory, &mut self.scratch)
    }

    /// Runs with the data at the beginning of host memory, of at most two pages.
    fn run_at_base(&mut self, entry: SubmissionEntry) -> Outcome {
        self.run(SubmissionEntry {
            prp1: BASE,
            prp2: BASE + 4096,
            ..entry
        })
    }
}

fn refusal(status: Status) -> Outcome {
    Outcome {
        status: status.with_dnr(true),
        dw0: 0,
        bytes: 0,
    }
}

fn success(bytes: u64) -> Outcome {
    Outcome {
        status: Status::SUCCESS,
        dw0: 0,
        bytes,
    }
}

#[test]
fn what_is_written_is_read() {
    let mut bench = Bench::new("size=1MiB,lba=512");
    bench.memory.write(BASE, &[0x5A; 1024]).unwrap();
    assert_eq!(bench.run_at_base(command::write(1, 7, 2, true)), success(1024));
    bench.memory.write(BASE, &[0; 2048]).unwrap();
    assert_eq!(bench.run_at_base(command::read(1, 6, 4)), success(2048));
    let mut expected = vec![0; 2048];
    expected[512..1536].fill(0x5A);
    assert_eq!(bench.memory.read_vec(BASE, 2048).unwrap(), expected);
}

#[test]
fn the_last_block_and_the_one_after() {
    let mut bench = Bench::new("size=1MiB,lba=4096");
    let commands: [fn(u32, u64, u32) -> SubmissionEntry; 5] = [
        command::read,
        |nsid, slba, blocks| command::write(nsid, slba, blocks, false),
        command::compare,
        command::verify,
        command::write_zeroes,
    ];
    for command in commands {
        assert_eq!(bench.run_at_base(command(1, 255, 1)), success(4096));
        for (slba, blocks) in [
            (255, 2),
            (256, 1),
            (u64::MAX, 1),
            (u64::MAX, 2),
            (1 << 63, 65_536),
        ] {
            let limits = Limits {
                mdts_bytes: None,
                ..LIMITS
            };
            let outcome = bench.run_within(command(1, slba, blocks), &limits);
            assert_eq!(outcome, refusal(Status::LBA_OUT_OF_RANGE), "{slba} {blocks}");
        }
    }
}

#[test]
fn mdts_bounds_what_is_moved_and_nothing_else() {
    let mut bench = Bench::new("size=1MiB,lba=4096");
    let limits = Limits {
        mdts_bytes: Some(8192),
        ..LIMITS
    };
    let moving = [
        command::read(1, 0, 3),
        command::write(1, 0, 3, false),
        command::compare(1, 0, 3),
    ];
    for entry in moving {
        assert_eq!(bench.run_within(entry, &limits), refusal(Status::INVALID_FIELD));
    }
    assert_eq!(
        bench.run_within(command::verify(1, 0, 256), &limits),
        success(1 << 20)
    );
    assert_eq!(
        bench.run_within(command::write_zeroes(1, 0, 256), &limits),
        success(1 << 20)
    );
    assert_eq!(bench.run_at_base(command::read(1, 0, 2)), success(8192));
}

#[test]
fn compare_tells_a_difference_in_the_last_byte() {
    let mut bench = Bench::new("size=1MiB,lba=4096");
    bench.memory.write(BASE, &[3; 8192]).unwrap();
    assert_eq!(bench.run_at_base(command::write(1, 63, 2, false)), success(8192));
    assert_eq!(bench.run_at_base(command::compare(1, 63, 2)), success(8192));
    bench.memory.write(BASE + 8191, &[4]).unwrap();
    assert_eq!(
        bench.run_at_base(command::compare(1, 63, 2)),
        refusal(Status::COMPARE_FAILURE)
    );
    // Blocks that were never written are zeroes.
    assert_eq!(
        bench.run_at_base(command::compare(1, 100, 1)),
        refusal(Status::COMPARE_FAILURE)
    );
}

#[test]
fn dataset_management_touches_all_ranges_or_none() {
    let mut bench = Bench::new("size=1MiB,lba=4096");
    let fill = |bench: &mut Bench| {
        bench.memory.write(BASE, &[9; 8192]).unwrap();
        for slba in [0, 10, 20] {
            assert_eq!(
                bench.run_at_base(command::write(1, slba, 2, false)),
                success(8192)
            );
        }
    };
    let read = |bench: &mut Bench, slba| {
        assert_eq!(bench.run_at_base(command::read(1, slba, 1)), success(4096));
        bench.memory.read_vec(BASE, 1).unwrap()[0]
    };
    fill(&mut bench);
    let good = [DsmRange::new(0, 1), DsmRange::new(5, 0), DsmRange::new(11, 10)];
    bench.memory.write(BASE, good.as_bytes()).unwrap();
    // Without AD it is only a hint.
    assert_eq!(
        bench.run_at_base(command::dataset_management(1, 3, false)),
        success(0)
    );
    assert_eq!(read(&mut bench, 0), 9);
    bench.memory.write(BASE, good.as_bytes()).unwrap();
    assert_eq!(
        bench.run_at_base(command::dataset_management(1, 3, true)),
        success(0)
    );
    assert_eq!(
        [0, 1, 10, 11, 20, 21].map(|slba| read(&mut bench, slba)),
        [0, 9, 9, 0, 0, 9]
    );

    fill(&mut bench);
    let bad = [DsmRange::new(0, 1), DsmRange::new(256, 1)];
    bench.memory.write(BASE, bad.as_bytes()).unwrap();
    for deallocate in [false, true] {
        assert_eq!(
            bench.run_at_base(command::dataset_management(1, 2, deallocate)),
            refusal(Status::LBA_OUT_OF_RANGE)
        );
    }
    assert_eq!(read(&mut bench, 0), 9);
}

#[test]
fn what_is_not_offered_is_refused() {
    let mut bench = Bench::new("size=1MiB,lba=4096");
    for opcode in [
        NvmOpcode::WRITE_UNCORRECTABLE,
        NvmOpcode::RESERVATION_REGISTER,
        NvmOpcode::COPY,
        NvmOpcode(0x7F),
        NvmOpcode(0xFF),
    ] {
        let entry = SubmissionEntry {
            opcode: opcode.0,
            nsid: 1,
            ..Default::default()
        };
        assert_eq!(
            bench.run_at_base(entry),
            refusal(Status::INVALID_OPCODE),
            "{opcode}"
        );
    }
    let fused = SubmissionEntry {
        flags: 1,
        ..command::compare(1, 0, 1)
    };
    assert_eq!(bench.run_at_base(fused), refusal(Status::INVALID_FIELD));
    let directive = command::write(1, 0, 1, false);
    let directive = SubmissionEntry {
        cdw12: directive.cdw12 | 1 << 20,
        ..directive
    };
    assert_eq!(bench.run_at_base(directive), refusal(Status::INVALID_FIELD));
    let sgl = SubmissionEntry {
        flags: 1 << 6,
        ..command::read(1, 0, 1)
    };
    let limits = Limits { sgl: false, ..LIMITS };
    assert_eq!(bench.run_within(sgl, &limits), refusal(Status::INVALID_FIELD));
}

#[test]
fn memory_that_is_not_there_is_a_transfer_error() {
    let mut bench = Bench::new("size=1MiB,lba=4096");
    bench.memory.write(BASE, &[8; 8192]).unwrap();
    assert_eq!(bench.run_at_base(command::write(1, 0, 2, false)), success(8192));
    for entry in [
        command::read(1, 0, 1),
        command::write(1, 0, 1, false),
        command::compare(1, 0, 1),
    ] {
        let outcome = bench.run(SubmissionEntry {
            prp1: 0x1000,
            ..entry
        });
        assert_eq!(
            outcome,
            Outcome {
                status: Status::DATA_TRANSFER_ERROR,
                dw0: 0,
                bytes: 0
            }
        );
    }
    let dsm = SubmissionEntry {
        prp1: 0x1000,
        ..command::dataset_management(1, 1, true)
    };
    assert_eq!(bench.run(dsm).status, Status::DATA_TRANSFER_ERROR);
}

#[derive(Debug, Clone)]
enum Step {
    Read,
    Write { fill: u8, fua: bool },
    WriteZeroes { deallocate: bool },
    Compare { differ: bool },
    Deallocate,
}

#[derive(Debug, Clone)]
struct Planned {
    step: Step,
    slba: u64,
    blocks: u32,
    offset: u64,
}

fn plan() -> impl Strategy<Value = Vec<Planned>> {
    let step = prop_oneof![
        Just(Step::Read),
        any::<(u8, bool)>().prop_map(|(fill, fua)| Step::Write { fill, fua }),
        any::<bool>().prop_map(|deallocate| Step::WriteZeroes { deallocate }),
        any::<bool>().prop_map(|differ| Step::Compare { differ }),
        Just(Step::Deallocate),
    ];
    let planned = (step, 0u64..140, 1u32..16, 0u64..1024).prop_map(|(step, slba, blocks, dwords)| Planned {
        step,
        slba,
        blocks,
        offset: dwords * 4,
    });
    proptest::collection::vec(planned, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a byte array, with PRP lists at odd offsets.
    #[test]
    fn a_namespace_is_an_array_of_blocks(plan in plan(), small: bool, null_limits: bool) {
        let block_bytes = if small { 512 } else { 4096 };
        let blocks = 128u64;
        let mut bench = Bench::new(&format!("size={},lba={block_bytes}", blocks * block_bytes));
        let limits = Limits { mdts_bytes: (!null_limits).then_some(64 << 10), write_through: small, ..LIMITS };
        let mut model = vec![0u8; (blocks * block_bytes) as usize];
        // Data from the second page on; the list of its pages is in the first.
        let list: Vec<u8> = (2..34u64).flat_map(|page| (BASE + page * 4096).to_le_bytes()).collect();
        for Planned { step, slba, blocks: count, offset } in plan {
            bench.memory.write(BASE, &list).unwrap();
            let data_at = BASE + 4096 + offset;
            let len = u64::from(count) * block_bytes;
            let exists = slba + u64::from(count) <= blocks;
            let range = (slba * block_bytes) as usize..((slba + u64::from(count)) * block_bytes) as usize;
            let place = |entry: SubmissionEntry, len: u64| {
                let two_pages = offset + len <= 8192;
                SubmissionEntry { prp1: data_at, prp2: if two_pages { BASE + 8192 } else { BASE }, ..entry }
            };
            let (entry, moved) = match step {
                Step::Read => (place(command::read(1, slba, count), len), len),
                Step::Write { fill, fua } => {
                    let data: Vec<u8> = (0..len).map(|index| fill.wrapping_add((index % 253) as u8)).collect();
                    bench.memory.write(data_at, &data).unwrap();
                    if let Some(place) = model.get_mut(range.clone()) {
                        place.copy_from_slice(&data);
                    }
                    (place(command::write(1, slba, count, fua), len), len)
                }
                Step::WriteZeroes { deallocate } => {
                    if let Some(place) = model.get_mut(range.clone()) {
                        place.fill(0);
                    }
                    let entry = command::write_zeroes(1, slba, count);
                    let deac = ReadWriteCdw12::from(entry.cdw12).with_deac(deallocate);
                    (SubmissionEntry { cdw12: deac.into(), ..entry }, len)
                }
                Step::Compare { differ } => {
                    let mut data = model.get(range.clone()).map_or(vec![0; len as usize], <[u8]>::to_vec);
                    if differ {
                        data[len as usize - 1] ^= 1;
                    }
                    bench.memory.write(data_at, &data).unwrap();
                    let outcome = bench.run_within(place(command::compare(1, slba, count), len), &limits);
                    let expected = match (exists, differ) {
                        (false, _) => refusal(Status::LBA_OUT_OF_RANGE),
                        (true, true) => refusal(Status::COMPARE_FAILURE),
                        (true, false) => success(len),
                    };
                    prop_assert_eq!(outcome, expected);
                    continue;
                }
                Step::Deallocate => {
                    if let Some(place) = model.get_mut(range.clone()) {
                        place.fill(0);
                    }
                    bench.memory.write(data_at, DsmRange::new(slba, count).as_bytes()).unwrap();
                    (place(command::dataset_management(1, 1, true), 16), 0)
                }
            };
            let is_read = entry.opcode == NvmOpcode::READ.0;
            let outcome = bench.run_within(entry, &limits);
            let expected = if exists { success(moved) } else { refusal(Status::LBA_OUT_OF_RANGE) };
            prop_assert_eq!(outcome, expected);
            if is_read && exists {
                prop_assert!(bench.memory.read_vec(data_at, len as usize).unwrap() == model[range]);
            }
        }
    }

    #[test]
    fn no_command_panics(bytes in proptest::array::uniform32(any::<u16>()), in_memory: bool, opcode in 0u8..16) {
        let mut bench = Bench::new("size=1MiB,lba=512");
        let mut entry: SubmissionEntry = zerocopy::transmute!(bytes);
        entry.opcode = opcode;
        if in_memory {
            entry.prp1 = BASE + entry.prp1 % 4096;
            entry.prp2 = BASE + entry.prp2 % 4096;
            entry.cdw10 %= 2048;
            entry.cdw11 = 0;
        }
        let limits = Limits { mdts_bytes: None, ..LIMITS };
        let outcome = bench.run_within(entry, &limits);
        prop_assert!(outcome.status.is_success() || outcome.bytes == 0);
    }
}
