//! The device on threads of its own, with hosts that poll from other threads.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Instant;

use common::{Host, PAGE, PATIENCE, Queue};
use nvme_emulator::{Config, Emulator, HostMemory, VecMemory};
use nvme_spec::identify::{Cns, IdentifyController};
use nvme_spec::{CompletionEntry, NvmOpcode, SubmissionEntry, command};

/// One host thread with a queue pair of its own.
struct Worker {
    device: Arc<Emulator>,
    memory: Arc<VecMemory>,
    qid: u16,
    queue: Queue,
}

impl Worker {
    fn take(host: &mut Host, qid: u16) -> Self {
        let queue = host.queues.remove(&qid).unwrap();
        Self {
            device: host.device.clone(),
            memory: host.memory.clone(),
            qid,
            queue,
        }
    }

    fn ring(&self) {
        self.device
            .registers()
            .ring(usize::from(self.qid) * 2, self.queue.tail);
    }

    fn wait(&mut self) -> CompletionEntry {
        let begin = Instant::now();
        loop {
            if let Some(entry) = self.queue.take(&self.memory) {
                self.device
                    .registers()
                    .ring(usize::from(self.qid) * 2 + 1, self.queue.head);
                return entry;
            }
            assert!(begin.elapsed() < PATIENCE, "queue {} hangs", self.qid);
            std::thread::yield_now();
        }
    }

    /// Writes and reads back `rounds` blocks that no other worker uses, a few at a time.
    fn verify(&mut self, buffers: u64, rounds: u64) {
        const BURST: u64 = 8;
        let mut random = fastrand::Rng::with_seed(self.qid.into());
        let first_block = u64::from(self.qid) * 1000;
        for round in 0..rounds {
            let fill: u8 = random.u8(..);
            for slot in 0..BURST {
                self.memory
                    .write(buffers + slot * PAGE, &[fill ^ slot as u8; PAGE as usize])
                    .unwrap();
                let entry = command::write(1, first_block + slot, 1, false);
                self.put(entry, slot, buffers);
            }
            self.finish(BURST);
            for slot in 0..BURST {
                // Into another buffer than it came from.
                self.put(command::read(1, first_block + (slot ^ 1), 1), slot, buffers);
            }
            self.finish(BURST);
            for slot in 0..BURST {
                let data = self
                    .memory
                    .read_vec(buffers + slot * PAGE, PAGE as usize)
                    .unwrap();
                assert_eq!(data, [fill ^ (slot ^ 1) as u8; PAGE as usize], "round {round}");
            }
        }
    }

    fn put(&mut self, entry: SubmissionEntry, slot: u64, buffers: u64) {
        let entry = SubmissionEntry {
            cid: slot as u16,
            prp1: buffers + slot * PAGE,
            ..entry
        };
        self.queue.put(&self.memory, entry);
    }

    fn finish(&mut self, commands: u64) {
        self.ring();
        for _ in 0..commands {
            let entry = self.wait();
            assert!(entry.status().is_success(), "{}", entry.status());
        }
    }
}

#[test]
fn several_threads_and_several_hosts_see_their_own_data() {
    const ROUNDS: u64 = 40;
    for threads in [1, 3] {
        let mut host = Host::new(&format!("threads={threads},queues=4"));
        let _running = host.run_threads();
        host.enable();
        (1..=4).for_each(|qid| host.create_queue(qid, 16, qid));
        let workers: Vec<(Worker, u64)> = (1..=4)
            .map(|qid| (Worker::take(&mut host, qid), host.alloc(8 * PAGE)))
            .collect();
        std::thread::scope(|scope| {
            for (mut worker, buffers) in workers {
                scope.spawn(move || worker.verify(buffers, ROUNDS));
            }
        });
        let counters = host.device.counters();
        for opcode in [NvmOpcode::READ, NvmOpcode::WRITE] {
            let counted = counters.io_opcode(opcode);
            assert_eq!(
                (counted.fetched, counted.completed, counted.errors),
                (4 * 8 * ROUNDS, 4 * 8 * ROUNDS, 0)
            );
        }
        for qid in 1..=4 {
            let queue = counters.queue(qid);
            assert_eq!(
                (queue.completed, queue.sq_doorbells, queue.cq_doorbells),
                (16 * ROUNDS, 2 * ROUNDS, 16 * ROUNDS)
            );
            assert!(host.interrupts.raised(qid) > 0);
        }
    }
}

/// The thread sleeps between two commands (it is not given time to spin), and every doorbell wakes it.
#[test]
fn a_sleeping_device_wakes_for_every_command() {
    let mut host = Host::with(Config {
        spin_ns: 0,
        ..Config::default()
    });
    let _running = host.run_threads();
    host.enable();
    host.create_queue(1, 16, 1);
    for _ in 0..500 {
        host.io_ok(1, command::flush(1));
    }
    host.identify::<IdentifyController>(Cns::CONTROLLER, 0);
}

#[test]
fn latency_holds_on_threads() {
    let mut host = Host::new("latency=200us");
    let _running = host.run_threads();
    host.enable();
    host.create_queue(1, 16, 1);
    for _ in 0..50 {
        let begin = Instant::now();
        host.io_ok(1, command::flush(1));
        assert!(begin.elapsed().as_micros() >= 200, "never early");
    }
}

/// Resets while commands are on their way, again and again: after RDY is clear nothing of the old life is written.
#[test]
fn resets_under_load_are_clean() {
    let mut host = Host::new("threads=2,queues=2,latency=20us");
    let _running = host.run_threads();
    for round in 0..50u64 {
        host.enable();
        host.create_queue(1, 64, 1);
        host.create_queue(2, 64, 2);
        let buffer = host.alloc(PAGE);
        for qid in [1, 2] {
            for _ in 0..40 {
                let entry = host.with_data(command::read(1, round, 1), buffer, PAGE);
                host.put(qid, entry);
            }
            host.ring_sq(qid);
        }
        host.disable();
        // Whatever was posted is posted; from here on the rings stay as they are.
        let rings: Vec<u64> = [0, 1, 2].iter().map(|qid| host.queues[qid].cq).collect();
        for ring in &rings {
            host.write(*ring, &[0xee; 1024]);
        }
        host.enable();
        for ring in &rings {
            assert_eq!(host.read(*ring, 1024), [0xee; 1024]);
        }
        host.disable();
    }
    assert_eq!(host.device.counters().resets, 100);
}

/// Shadow doorbells with a host that rings only when the event index asks for it, as drivers do: no wake-up is lost.
#[test]
fn shadow_doorbells_lose_no_wake_up() {
    const COMMANDS: u32 = 3000;
    for spin_ns in [0, 50_000] {
        let mut host = Host::with(Config {
            spin_ns,
            ..Config::default()
        });
        let _running = host.run_threads();
        host.enable();
        host.create_queue(1, 16, 1);
        let (shadow, events) = (host.alloc(PAGE), host.alloc(PAGE));
        host.admin_ok(command::doorbell_buffer_config(shadow, events));
        let mut worker = Worker::take(&mut host, 1);
        let memory = host.memory.clone();
        let registers = host.device.registers();
        let mut rung = 0;
        // Publish, fence, look at the event index: the mirror image of what the device does before it sleeps.
        let mut move_to = |index: usize, from: u32, to: u32| {
            memory.store_u32(shadow + index as u64 * 4, to).unwrap();
            fence(Ordering::SeqCst);
            let event = memory.load_u32(events + index as u64 * 4).unwrap();
            let passed = |old: u32, new: u32| {
                if new >= old {
                    event >= old && event < new
                } else {
                    event >= old || event < new
                }
            };
            if passed(from, to) {
                registers.ring(index, to);
                rung += 1;
            }
        };
        let begin = Instant::now();
        for cid in 0..COMMANDS {
            let from = worker.queue.tail;
            worker.queue.put(
                &memory,
                SubmissionEntry {
                    cid: cid as u16,
                    ..command::flush(1)
                },
            );
            move_to(2, from, worker.queue.tail);
            let from = worker.queue.head;
            while worker.queue.take(&memory).is_none() {
                assert!(begin.elapsed() < PATIENCE, "command {cid} hangs");
                std::thread::yield_now();
            }
            move_to(3, from, worker.queue.head);
        }
        assert_eq!(host.device.counters().queue(1).completed, u64::from(COMMANDS));
        assert_eq!(host.device.counters().invalid_doorbell_values, 0);
        assert!(rung <= 2 * COMMANDS);
    }
}

#[test]
fn counters_can_be_read_while_it_runs() {
    let mut host = Host::new("threads=2,queues=1");
    let running = host.run_threads();
    host.enable();
    host.create_queue(1, 16, 1);
    let (mut worker, buffers) = (Worker::take(&mut host, 1), host.alloc(8 * PAGE));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Acquire) {
                let counters = host.device.counters();
                let opcode = counters.io_opcode(NvmOpcode::READ);
                assert!(opcode.completed >= last && opcode.fetched >= opcode.completed);
                last = opcode.completed;
                std::thread::yield_now();
            }
        });
        worker.verify(buffers, 100);
        done.store(true, Ordering::Release);
    });
    drop(running);
    // Stopped: nothing moves any more, and a step by hand goes on where the threads left off.
    worker.queue.put(
        &host.memory,
        SubmissionEntry {
            cid: 9,
            ..command::flush(1)
        },
    );
    worker.ring();
    assert!(worker.queue.take(&host.memory).is_none());
    assert!(host.device.step(u64::MAX / 2).worked);
    assert_eq!(worker.queue.take(&host.memory).map(|entry| entry.cid), Some(9));
}
