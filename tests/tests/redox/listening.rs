//! Who takes requests when there are more than one worker can take at once.

use std::sync::Arc;

use nvme_driver::embedded;
use nvme_driver::redox::socket::Socket;
use nvme_driver::scheme::redox::clerk::Desk;
use nvme_driver::scheme::redox::takers::Takers;
use nvme_driver::scheme::redox::{DEVICE, ROOT, Server};
use nvme_driver::{Config, config::SchedulerKind};
use nvme_redox_model::{Machine, MachineConfig};
use syscall::schemev2::{Opcode, Sqe};

/// Two hundred requests wait before anybody listens. A worker that gets whole batches has its hands full, and the next one
/// listens: each queue gets some.
#[test]
fn a_worker_with_its_hands_full_lets_the_next_one_listen() {
    const CLIENTS: usize = 400;
    let machine = Machine::new(MachineConfig::default());
    let system = machine.system();
    let config = Config {
        num_queues: 2,
        scheduler: SchedulerKind::CpuAffinity,
        ..Config::default()
    };
    let driver = embedded::start("size=16MiB,latency=5ms", &config).unwrap();
    let socket = Socket::create(&system).unwrap();
    socket.register("nvme", ROOT).unwrap();
    let scheme = Arc::clone(driver.scheme());
    let tree = Box::new(move |id, call, answers: &_| scheme.call(id, call, answers));
    let desk = Desk::new();
    let server = Server::new("nvme", socket, tree, &desk);

    // Nobody has opened anything: the first handle that the tree gives is 1, and its requests come behind the one that opens.
    let client = machine.client(0, 0);
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| client.open("/scheme/nvme/1", syscall::flag::O_RDWR));
        client.wait_until_sent(1);
        for number in 0..CLIENTS as u64 {
            let client = &client;
            scope.spawn(move || {
                let read = Sqe {
                    opcode: Opcode::Read as u8,
                    args: [1 | DEVICE, 0, 0, number * 4096, 0, 0],
                    ..Sqe::default()
                };
                assert_eq!(client.raw_with("nvme", read, &mut [0; 4096]), Ok(4096));
            });
        }
        client.wait_until_sent(1 + CLIENTS);
        Takers::start(&system, driver.driver(), vec![Arc::clone(&server)], &desk, 1).unwrap();
        assert_eq!(opener.join().unwrap().map(drop), Ok(()));
    });
    assert_eq!(server.outstanding(), 0);
    let counters = driver.device().counters();
    for qid in [1, 2] {
        assert!(
            counters.queue(qid).fetched > 0,
            "queue {qid} has had nothing to do"
        );
    }
    assert_eq!(machine.answers_refused(), 0);
    driver.shutdown().unwrap();
}
