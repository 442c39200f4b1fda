//! Loads of several kinds on one worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nvme_driver::request::Finished;
use nvme_driver::worker::{Load, LoadPort, LoadState};
use nvme_driver::{Config, IoError};
use nvme_tests::Rig;

/// Sends what others have left for it, at the end of the turn.
struct Postman {
    left: Arc<AtomicBool>,
    sent: Sender<()>,
}

/// Leaves one thing in its turn, and has nothing more to do.
struct Author {
    left: Arc<AtomicBool>,
    has_news: bool,
}

impl Load for Postman {
    fn turn(&mut self, _now_ns: u64, _port: &mut LoadPort<'_>) -> LoadState {
        LoadState::Running
    }

    fn turned(&mut self) {
        if self.left.swap(false, Ordering::Relaxed) {
            self.sent.send(()).unwrap();
        }
    }

    fn finished(&mut self, _done: Finished<u64>, _port: &mut LoadPort<'_>) {}

    fn stopped(&mut self, _why: IoError) {}
}

impl Load for Author {
    fn turn(&mut self, _now_ns: u64, _port: &mut LoadPort<'_>) -> LoadState {
        if std::mem::take(&mut self.has_news) {
            self.left.store(true, Ordering::Relaxed);
        }
        LoadState::Running
    }

    fn finished(&mut self, _done: Finished<u64>, _port: &mut LoadPort<'_>) {}

    fn stopped(&mut self, _why: IoError) {}
}

/// What a load leaves for one that had its turn before is dealt with in the same turn of the worker: nobody would wake
/// it for another.
#[test]
fn the_end_of_a_turn_is_behind_the_turns_of_all_loads() {
    let rig = Rig::new("size=1MiB,queues=1", &Config::default());
    let left = Arc::new(AtomicBool::new(false));
    let (sent, posted): (Sender<()>, Receiver<()>) = channel();
    let postman = Postman {
        left: Arc::clone(&left),
        sent,
    };
    rig.driver.attach(0, Box::new(postman));
    for _ in 0..50 {
        let author = Author {
            left: Arc::clone(&left),
            has_news: true,
        };
        rig.driver.attach(0, Box::new(author));
        posted.recv_timeout(Duration::from_secs(60)).unwrap();
    }
    rig.driver.shutdown().unwrap();
}
