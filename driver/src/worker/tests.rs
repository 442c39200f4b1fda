//! What a worker's turn does.

use super::*;
use crate::backend::emulated::EmulatedBackend;
use crate::dma::Buffer;
use crate::request::Op;
use crate::{Config, Controller, Driver};

/// Asks for a flush in each turn, and keeps what it is told.
struct Asks(Arc<Mutex<Vec<Result<(), IoError>>>>);

impl Load for Asks {
    fn turn(&mut self, now_ns: u64, port: &mut LoadPort<'_>) -> LoadState {
        let request = Request {
            op: Op::Flush,
            nsid: 1,
            slba: 0,
            blocks: 0,
            buffer: Buffer::None,
            arrived_ns: now_ns,
            context: 0,
        };
        let told = port.submit(request).map_err(|(_, why)| why);
        self.0.lock().unwrap().push(told);
        LoadState::Running
    }

    fn finished(&mut self, _done: Finished<u64>, _port: &mut LoadPort<'_>) {}

    fn stopped(&mut self, _why: IoError) {}
}

#[test]
fn a_load_that_goes_on_learns_of_a_namespace_that_goes() {
    let device = "size=1MiB".parse().unwrap();
    let backend = EmulatedBackend::start(device, Clock::system()).unwrap();
    let controller = Controller::open(Arc::new(backend), &Config::default(), Clock::system()).unwrap();
    let (_driver, mut stepped) = Driver::stepped(controller).unwrap();
    let mut worker = stepped.take_worker(0).unwrap();
    let told = Arc::new(Mutex::default());
    worker.shared().attach(Box::new(Asks(Arc::clone(&told))));
    worker.turn(&Clock::system());
    worker.namespaces.update(Vec::new());
    worker.turn(&Clock::system());
    assert_eq!(*told.lock().unwrap(), [Ok(()), Err(IoError::NoNamespace)]);
    while worker.queue.inflight() > 0 {
        worker.turn(&Clock::system());
    }
}

mod merging;
mod merging_at_random;
mod steps;
