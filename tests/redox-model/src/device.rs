//! The thread that is a controller: it looks at the BAR, lets the device work, and shows what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvme_spec::{Cap, register};

use crate::bar::Seen;
use crate::controller::Controller;

/// A device with nothing to do for this long looks less often.
const BUSY: Duration = Duration::from_millis(2);
const RECENT: Duration = Duration::from_millis(50);
/// How often it then looks.
const RECENT_LOOK: Duration = Duration::from_micros(50);
const IDLE_LOOK: Duration = Duration::from_micros(500);

/// A controller that runs. Dropping this stops it.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(controller: &Arc<Controller>, number: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (controller, stopped) = (Arc::clone(controller), Arc::clone(&stop));
        let mut seen = Seen::default();
        // Before the driver can look, there is something to see.
        controller
            .bars
            .show_registers(&mut seen, controller.device().registers());
        let thread = std::thread::Builder::new()
            .name(format!("device-{number}"))
            .spawn(move || run(&controller, seen, &stopped))
            .expect("a thread for the device");
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A device that panicked has said so already.
            let _ = thread.join();
        }
    }
}

fn run(controller: &Controller, mut seen: Seen, stop: &AtomicBool) {
    let device = controller.device();
    let cap = Cap::from(device.registers().read64(register::CAP));
    let stride_bytes = cap.doorbell_stride_bytes() as usize;
    let started = Instant::now();
    let mut worked_last = started;
    while !stop.load(Ordering::Acquire) {
        if controller.is_gone() {
            controller.bars.show_nothing();
            std::thread::sleep(IDLE_LOOK);
            continue;
        }
        let now = Instant::now();
        let now_ns = u64::try_from((now - started).as_nanos()).unwrap_or(u64::MAX);
        let worked = controller.work(|| {
            let carried = controller
                .bars
                .carry_writes(&mut seen, device.registers(), stride_bytes);
            let step = device.step(now_ns);
            let shown = controller.bars.show_registers(&mut seen, device.registers());
            let sent = controller.send_pending();
            (carried || step.worked || shown || sent, step.due_ns)
        });
        let due_ns = match worked {
            Some((true, _)) => {
                worked_last = now;
                continue;
            }
            Some((false, due_ns)) => due_ns,
            None => {
                std::thread::sleep(RECENT_LOOK);
                continue;
            }
        };
        let idle = now - worked_last;
        let look = if idle < BUSY {
            Duration::ZERO
        } else if idle < RECENT {
            RECENT_LOOK
        } else {
            IDLE_LOOK
        };
        let until_due = due_ns.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns)));
        match until_due.map_or(look, |due| due.min(look)) {
            Duration::ZERO => std::thread::yield_now(),
            sleep => std::thread::sleep(sleep),
        }
    }
}
