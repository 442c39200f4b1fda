//! Requests whose namespace goes while they are under way.

use super::*;
use crate::backend::emulated::EmulatedBackend;
use crate::clock::Clock;
use crate::dma::Buffer;
use crate::namespace::table::NamespaceTable;
use crate::{Config, Controller};

const BLOCKS: u64 = 64;
const BLOCK_BYTES: usize = 512;

/// The queue of a controller that takes one block with each command, and few of them at a time.
fn queue() -> (IoQueue<u32>, Controller, Clock) {
    let clock = Clock::system();
    let device = "size=1MiB,lba=512".parse().unwrap();
    let backend = Arc::new(EmulatedBackend::start(device, clock.clone()).unwrap());
    let config = Config {
        num_queues: 1,
        queue_depth: 4,
        ..Config::default()
    };
    let mut controller = Controller::open(backend, &config, clock.clone()).unwrap();
    let mut queue = controller.take_queue().unwrap();
    queue.limits.max_transfer_bytes = BLOCK_BYTES;
    (queue, controller, clock)
}

#[test]
fn what_is_left_of_a_request_ends_with_its_namespace() {
    let (mut queue, controller, clock) = queue();
    let table = NamespaceTable::new(Arc::clone(&queue.namespaces));
    for context in [1, 2] {
        let request = Request {
            op: Op::Write { fua: false },
            nsid: 1,
            slba: 0,
            blocks: BLOCKS,
            buffer: Buffer::Dma(controller.allocate(BLOCKS as usize * BLOCK_BYTES).unwrap()),
            arrived_ns: clock.now_ns(),
            context,
        };
        queue.submit(request).map_err(|rejected| rejected.why).unwrap();
    }
    queue.ring(clock.now_ns());
    assert!(queue.commands() < BLOCKS as usize, "most is still to be sent");
    table.update(Vec::new());
    queue.set_namespaces(table.places().1);
    let mut finished = Vec::new();
    while finished.len() < 2 {
        queue.reap(clock.now_ns());
        queue.ring(clock.now_ns());
        finished.extend(std::iter::from_fn(|| queue.next_finished()));
    }
    for done in &finished {
        assert_eq!(done.result, Err(IoError::NoNamespace));
        assert!(done.arrived_ns <= done.doorbell_ns && done.doorbell_ns <= done.completed_ns);
    }
    let mut contexts: Vec<u32> = finished.iter().map(|done| done.context).collect();
    contexts.sort_unstable();
    assert_eq!((contexts, queue.inflight(), queue.commands()), (vec![1, 2], 0, 0));
    drop(queue);
    controller.shutdown().unwrap();
}
