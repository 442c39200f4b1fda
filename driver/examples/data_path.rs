//! What one 4 KiB read costs on the data path, driver and emulated device together on one thread: for counting
//! instructions, which are the same on a busy machine.
//!
//! ```text
//! cargo build --release -p nvme-driver --example data_path
//! valgrind --tool=callgrind target/release/examples/data_path 200000
//! ```
//!
//! The difference between two counts of reads, divided by the difference of the reads, leaves the start-up out. With
//! `--no-default-features` the statistics are gone, which shows what they cost.

use std::sync::Arc;

use nvme_driver::backend::emulated::EmulatedBackend;
use nvme_driver::clock::Clock;
use nvme_driver::controller::Opening;
use nvme_driver::{Buffer, Config, Finished, IoQueue, Op, Request};

const DEPTH: u64 = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let reads: u64 = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "1000000".to_owned())
        .parse()?;
    let clock = Clock::system();
    let backend = EmulatedBackend::stepped("size=64MiB".parse()?)?;
    let device = Arc::clone(backend.device());
    let mut opening = Opening::new(Arc::new(backend), &Config::default(), clock.clone())?;
    while !opening.turn()? {
        device.step(clock.now_ns());
    }
    let mut controller = opening.finish()?;
    let mut queue = controller
        .take_queue::<u64>()
        .ok_or("the controller has no queue")?;
    let blocks = controller
        .namespaces()
        .first()
        .ok_or("the controller has no namespace")?
        .blocks;

    let mut random = fastrand::Rng::with_seed(1);
    let mut submit = |queue: &mut IoQueue<u64>, buffer, arrived_ns, context| {
        let slba = random.u64(0..blocks);
        let request = Request {
            op: Op::Read,
            nsid: 1,
            slba,
            blocks: 1,
            buffer,
            arrived_ns,
            context,
        };
        queue.submit(request).map_err(|rejected| rejected.why)
    };
    for context in 0..DEPTH {
        submit(
            &mut queue,
            Buffer::Dma(controller.allocate(4096)?),
            clock.now_ns(),
            context,
        )?;
    }
    let (mut driver_ns, mut device_ns, mut done) = (0, 0, 0);
    while done < reads {
        let begun_ns = clock.now_ns();
        queue.ring(begun_ns);
        device.step(begun_ns);
        let now_ns = clock.now_ns();
        device_ns += now_ns - begun_ns;
        while queue.reap(now_ns) > 0 {
            while let Some(Finished {
                result,
                buffer,
                context,
                ..
            }) = queue.next_finished()
            {
                result?;
                done += 1;
                submit(&mut queue, buffer, now_ns, context)?;
            }
        }
        driver_ns += clock.now_ns() - now_ns;
    }
    println!(
        "driver {} ns, device {} ns a read",
        driver_ns / done,
        device_ns / done
    );
    // What is still out: the device is stepped until it has answered.
    while queue.inflight() > 0 {
        queue.ring(clock.now_ns());
        device.step(clock.now_ns());
        queue.reap(clock.now_ns());
        while queue.next_finished().is_some() {}
    }
    Ok(())
}
