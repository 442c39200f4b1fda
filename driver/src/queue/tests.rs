use std::collections::VecDeque;

use nvme_spec::register::DOORBELLS;
use nvme_spec::{NvmOpcode, Status};
use proptest::prelude::*;

use super::*;
use crate::backend::Backend;
use crate::backend::emulated::EmulatedBackend;
use crate::bell::ShadowPages;

/// A queue pair whose device is the test: it reads the submission ring and writes the completion ring by hand.
struct Rig {
    pair: QueuePair<u32>,
    sq: Region,
    cq: Region,
    entries: u32,
    sq_head: u32,
    cq_tail: u32,
    phase: bool,
}

const QID: u16 = 5;

impl Rig {
    fn new(entries: u32, limit: usize) -> Self {
        Self::with_bells(entries, limit, false, false).0
    }

    /// One whose doorbells may be in memory too, where the pages show what the device has been told.
    fn with_bells(entries: u32, limit: usize, polled: bool, shadowed: bool) -> (Self, ShadowPages) {
        let backend = EmulatedBackend::stepped(Default::default()).unwrap();
        let sq = backend.allocate(entries as usize * SQE_BYTES).unwrap();
        let cq = backend.allocate(entries as usize * CQE_BYTES).unwrap();
        let page = || backend.allocate(4096).unwrap();
        let pages = ShadowPages {
            doorbells: page(),
            event_indexes: page(),
        };
        // No pointer ever gets so far: the device asks for no register.
        pages.event_indexes.store_u32(0, 0xFFFF);
        pages.event_indexes.store_u32(4, 0xFFFF);
        let shadow = |offset| pages.shadow(offset).filter(|_| shadowed);
        let rings = Rings {
            qid: QID,
            entries,
            sq: sq.clone(),
            cq: cq.clone(),
            polled,
            sq_bell: Bell::new(backend.doorbell(DOORBELLS).unwrap(), shadow(0)),
            cq_bell: Bell::new(backend.doorbell(DOORBELLS + 4).unwrap(), shadow(4)),
        };
        let rig = Self {
            pair: QueuePair::new(rings, limit, 1),
            sq,
            cq,
            entries,
            sq_head: 0,
            cq_tail: 0,
            phase: true,
        };
        (rig, pages)
    }

    /// Sends a command with `context`; `None` if there is no room.
    fn push(&mut self, context: u32) -> Option<()> {
        let reserved = self.pair.reserve()?;
        let entry = SubmissionEntry {
            opcode: NvmOpcode::READ.0,
            cdw15: context,
            ..Default::default()
        };
        let accounting = Accounting {
            op: OpClass::Read,
            namespace: Some(0),
            bytes: 512,
            arrived_ns: 0,
            waits: false,
        };
        self.pair.push(reserved, entry, accounting, context);
        Some(())
    }

    /// The device fetches the next entry.
    fn fetch(&mut self) -> SubmissionEntry {
        let entry = self.sq.read(self.sq_head as usize * SQE_BYTES);
        self.sq_head = (self.sq_head + 1) % self.entries;
        entry
    }

    /// The device posts a completion.
    fn post(&mut self, cid: u16, sqid: u16, sqhd: u16) {
        let entry = CompletionEntry::new(0, 0, sqhd, sqid, cid, Status::SUCCESS, self.phase);
        self.cq.write(self.cq_tail as usize * CQE_BYTES, &entry);
        self.cq_tail = (self.cq_tail + 1) % self.entries;
        self.phase ^= self.cq_tail == 0;
    }

    /// Everything that a pass finds.
    fn pass(&mut self, now_ns: u64) -> Vec<u32> {
        let mut found = Vec::new();
        while let Some(completed) = self.pair.reap(now_ns) {
            found.push(completed.context);
        }
        self.pair.end_pass(now_ns);
        found
    }

    #[cfg(feature = "performance-counters")]
    fn counters(&self) -> crate::stats::Counters {
        let snapshot = self.pair.recorder.stats().snapshot(0, false);
        assert!(snapshot.consistent);
        snapshot.counters
    }
}

#[test]
fn a_command_goes_out_with_one_doorbell_and_comes_back_with_its_context() {
    let mut rig = Rig::new(8, 100);
    assert_eq!(rig.pair.limit(), 7, "one entry stays free");
    for context in 0..7 {
        rig.push(context).unwrap();
    }
    assert_eq!(rig.push(7), None);
    assert_eq!(rig.pair.busy(), 7);
    rig.pair.ring(100);
    let cids: Vec<u16> = (0..7)
        .map(|context| {
            let entry = rig.fetch();
            assert_eq!(entry.cdw15, context);
            entry.cid
        })
        .collect();
    for cid in cids.iter().rev() {
        rig.post(*cid, QID, 7);
    }
    assert_eq!(rig.pass(300), [6, 5, 4, 3, 2, 1, 0]);
    assert_eq!(rig.pass(400), [0; 0]);
    assert_eq!((rig.pair.busy(), rig.pair.oldest_ns()), (0, None));
    #[cfg(feature = "performance-counters")]
    {
        let counters = rig.counters();
        assert_eq!((counters.submitted, counters.completed), (7, 7));
        assert_eq!((counters.sq_doorbells, counters.cq_doorbells), (1, 1));
        assert_eq!((counters.polls, counters.polls_empty), (2, 1));
        assert_eq!(counters.qd_time_integral_ns, 7 * 200);
        assert_eq!(
            (counters.active_ns, counters.full_ns, counters.inflight_max),
            (200, 200, 7)
        );
    }
}

#[test]
fn what_fits_no_command_is_counted_and_passed_over() {
    let mut rig = Rig::new(16, 6);
    rig.push(1).unwrap();
    rig.pair.ring(1);
    let cid = rig.fetch().cid;
    let slot_mask = 0b111;
    // No slot has number 7; slots 6 and on do not exist; slot 3 was never used.
    rig.post(7, QID, 0);
    rig.post(cid ^ 3, QID, 0);
    // The right slot, another generation.
    rig.post(cid ^ 8, QID, 0);
    rig.post(cid ^ 0x8000, QID, 0);
    // Another queue's.
    rig.post(cid, QID + 1, 0);
    // At last the right one, with a head pointer beyond the ring, and again.
    rig.post(cid, QID, 16);
    rig.post(cid, QID, 1);
    assert_eq!(cid & slot_mask, 0);
    assert_eq!(rig.pass(5), [1]);
    #[cfg(feature = "performance-counters")]
    {
        let counters = rig.counters();
        assert_eq!(
            (counters.unknown_cid, counters.stale_cid, counters.duplicate_cid),
            (2, 2, 1)
        );
        assert_eq!((counters.bad_sqid, counters.bad_sqhd), (1, 1));
        assert_eq!((counters.submitted, counters.completed), (1, 1));
    }
    // A command that is in the ring but not handed over cannot have completed.
    rig.push(2).unwrap();
    let cid = rig.fetch().cid;
    rig.post(cid, QID, 0);
    assert_eq!(rig.pass(6), [0; 0]);
    rig.pair.ring(7);
    rig.post(cid, QID, 0);
    assert_eq!(rig.pass(8), [2]);
    // The first use's id is stale now, whatever else is out.
    rig.push(3).unwrap();
    rig.pair.ring(9);
    let new = rig.fetch().cid;
    assert_eq!(new & slot_mask, cid & slot_mask, "the same slot");
    rig.post(cid, QID, 0);
    assert_eq!(rig.pass(10), [0; 0]);
    rig.post(new, QID, 0);
    assert_eq!(rig.pass(11), [3]);
}

#[test]
fn a_device_that_posts_for_ever_does_not_keep_a_pass_going() {
    let mut rig = Rig::new(4, 3);
    // Every entry has the phase that is expected next, in both rounds: as if the device overwrote what it must not.
    for _ in 0..4 {
        rig.post(0x7777, QID, 0);
    }
    assert_eq!(rig.pass(1), [0; 0]);
    for _ in 0..4 {
        rig.post(0x7777, QID, 0);
    }
    assert_eq!(rig.pass(2), [0; 0]);
    rig.push(9).unwrap();
    rig.pair.ring(3);
    let cid = rig.fetch().cid;
    rig.post(cid, QID, 0);
    assert_eq!(rig.pass(4), [9]);
}

#[test]
fn generations_never_reach_the_mark_of_an_unused_slot() {
    let mut rig = Rig::new(2, 1);
    for round in 0..70_000_u32 {
        rig.push(round).unwrap();
        rig.pair.ring(1);
        let cid = rig.fetch().cid;
        rig.post(cid, QID, 0);
        assert_eq!(rig.pass(1), [round]);
    }
    #[cfg(feature = "performance-counters")]
    assert_eq!(rig.counters().completed, 70_000);
}

#[test]
fn the_largest_queue_leaves_bits_for_generations() {
    let rig = Rig::new(4096, 65_536);
    assert_eq!(rig.pair.limit(), 4095);
    assert_eq!(rig.pair.slot_bits, 12);
}

#[test]
fn what_is_abandoned_comes_back_once_and_is_counted_as_aborted() {
    let mut rig = Rig::new(8, 7);
    for context in 0..4 {
        rig.push(context).unwrap();
    }
    rig.pair.ring(10);
    rig.push(4).unwrap();
    let contexts: Vec<u32> = rig
        .pair
        .abandon(30)
        .into_iter()
        .map(|completed| completed.context)
        .collect();
    assert_eq!(contexts, [0, 1, 2, 3, 4]);
    assert_eq!((rig.pair.busy(), rig.pair.oldest_ns()), (0, None));
    #[cfg(feature = "performance-counters")]
    {
        let counters = rig.counters();
        assert_eq!(
            (counters.submitted, counters.completed, counters.completed_error),
            (4, 4, 4)
        );
        assert_eq!(counters.qd_time_integral_ns, 80);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever order the device completes in, and whatever else it writes: each command comes back once, with its
    /// context, the oldest one's time is right, and the counters add up.
    #[test]
    fn each_command_comes_back_once(
        entries in 2u32..40,
        limit in 1usize..50,
        steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>(), any::<u16>()), 1..300),
    ) {
        let mut rig = Rig::new(entries, limit);
        let mut next = 0;
        // What is in the ring, what is out (with the time of its doorbell), and what was posted.
        let mut batch: Vec<u32> = Vec::new();
        let mut out: Vec<(u32, u16, u64)> = Vec::new();
        let mut posted: VecDeque<u32> = VecDeque::new();
        let mut in_ring = 0;
        for (now_ns, (step, which, garbage)) in (1_u64..).zip(steps) {
            match step {
                0 => {
                    let room = batch.len() + out.len() + posted.len() < rig.pair.limit();
                    prop_assert_eq!(rig.push(next).is_some(), room);
                    if room {
                        batch.push(next);
                        next += 1;
                    }
                }
                1 => {
                    rig.pair.ring(now_ns);
                    for context in batch.drain(..) {
                        let entry = rig.fetch();
                        prop_assert_eq!(entry.cdw15, context);
                        out.push((context, entry.cid, now_ns));
                    }
                }
                2 if in_ring < entries && !out.is_empty() => {
                    let (context, cid, _) = out.remove(which.index(out.len()));
                    rig.post(cid, QID, 0);
                    posted.push_back(context);
                    in_ring += 1;
                }
                2 if in_ring < entries && garbage % 2 == 0 => {
                    rig.post(garbage, QID + 1, garbage);
                    in_ring += 1;
                }
                _ => {
                    let found = rig.pass(now_ns);
                    prop_assert_eq!(found, Vec::from(std::mem::take(&mut posted)));
                    in_ring = 0;
                    prop_assert_eq!(rig.pair.oldest_ns(), out.iter().map(|(_, _, ns)| *ns).min());
                }
            }
        }
        #[cfg(feature = "performance-counters")]
        {
            let counters = rig.counters();
            prop_assert_eq!(counters.submitted - counters.completed, (out.len() + posted.len()) as u64);
        }
    }
}

proptest! {
    /// A device whose completions are polled for is told late what has been taken, and always finds room for the next.
    #[test]
    fn a_polled_completion_queue_never_fills_up(
        entries in 2u32..40,
        polled in any::<bool>(),
        steps in prop::collection::vec((0usize..40, 0usize..40, 1usize..17), 1..60),
    ) {
        let (mut rig, pages) = Rig::with_bells(entries, entries as usize - 1, polled, true);
        let (mut posted, mut reaped, mut told, mut head) = (0u64, 0u64, 0u64, 0u32);
        let mut tell = |told: &mut u64| {
            let now = pages.doorbells.load_u32(4);
            *told += u64::from((now + entries - head) % entries);
            head = now;
        };
        let mut fetched = std::collections::VecDeque::new();
        for (push, post, pass) in steps {
            let pushed = (0..push).take_while(|_| rig.push(0).is_some()).count();
            rig.pair.ring(1);
            tell(&mut told);
            fetched.extend((0..pushed).map(|_| rig.fetch().cid));
            for cid in fetched.drain(..post.min(fetched.len())).collect::<Vec<_>>() {
                prop_assert!(posted - told < u64::from(entries) - 1, "there is no room for a completion");
                rig.post(cid, QID, 0);
                posted += 1;
            }
            let taken = (0..pass).take_while(|_| rig.pair.reap(2).is_some()).count();
            rig.pair.end_pass(2);
            tell(&mut told);
            reaped += taken as u64;
            prop_assert!(polled || told == reaped, "told at once");
        }
    }
}
