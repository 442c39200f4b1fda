//! What one 4 KiB command costs the device beyond the copy itself: PRPs, range checks, chunk lookup and lock.
//!
//! `cargo run --release -p nvme-emulator --example command_overhead`

use std::{hint::black_box, time::Instant};

use nvme_emulator::{Config, DmaFault, HostMemory, Limits, Namespace, Scratch, execute};
use nvme_spec::{SubmissionEntry, command};

const BLOCKS: u64 = 1 << 18;
const COMMANDS_PER_BATCH: usize = 4096;
const BATCHES: usize = 1000;

/// Memory that moves nothing, so that everything but the copy is left.
struct NoCopy;

impl HostMemory for NoCopy {
    fn read(&self, _address: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        black_box(into);
        Ok(())
    }

    fn write(&self, _address: u64, from: &[u8]) -> Result<(), DmaFault> {
        black_box(from);
        Ok(())
    }

    fn load_u32(&self, _address: u64) -> Result<u32, DmaFault> {
        Ok(0)
    }

    fn store_u32(&self, _address: u64, _value: u32) -> Result<(), DmaFault> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config: Config = "size=1GiB,lba=4096".parse()?;
    let namespace = Namespace::open(&config, 1)?;
    let mut scratch = Scratch::new();
    let limits = Limits {
        page_bytes: 4096,
        mdts_bytes: config.mdts_bytes,
        sgl: true,
        write_through: false,
    };

    let mut measure = |name: &str, make: &dyn Fn(u64) -> SubmissionEntry| {
        let mut chance = fastrand::Rng::with_seed(1);
        let entries: Vec<SubmissionEntry> = (0..COMMANDS_PER_BATCH)
            .map(|_| SubmissionEntry {
                prp1: 0x1000,
                ..make(chance.u64(..BLOCKS))
            })
            .collect();
        let mut batches_ns: Vec<f64> = (0..BATCHES)
            .map(|_| {
                let start = Instant::now();
                for entry in &entries {
                    let outcome = execute(&namespace, black_box(entry), &limits, &NoCopy, &mut scratch);
                    assert!(outcome.status.is_success());
                }
                start.elapsed().as_nanos() as f64 / COMMANDS_PER_BATCH as f64
            })
            .collect();
        // The best of many: what the machine does besides only ever adds.
        batches_ns.sort_by(f64::total_cmp);
        println!(
            "{name}: {:.1} ns at best, {:.1} ns median",
            batches_ns[0],
            batches_ns[BATCHES / 2]
        );
    };
    measure("read of a block never written", &|slba| command::read(1, slba, 1));
    measure("write", &|slba| command::write(1, slba, 1, false));
    measure("read of a block written", &|slba| command::read(1, slba, 1));
    measure("read of one chunk again and again", &|slba| {
        command::read(1, slba % 64, 1)
    });
    Ok(())
}
