//! Generators on a simulated queue: virtual time, any latencies, any failures.

mod sim;

use std::sync::atomic::Ordering;

use nvme_spec::Status;
use proptest::prelude::*;
use stats_proto::bench::{Pattern, Phase, Side};

use sim::{Fate, Sim, after, assert_littles_law, job, namespace, run, set_up, set_up_all};

use super::generator::Port;
use super::*;
use crate::io_scheduler::Class;
use crate::request::{Finished, Op, Request};
use crate::worker::LoadState;

#[test]
fn a_fixed_latency_is_what_the_result_says() {
    let (result, _) = run(&job(1), |_| after(80_000));
    let read = &result.total.read;
    assert_eq!((read.ios, read.errors, read.bytes), (1000, 0, 4_096_000));
    assert_eq!(result.total.elapsed_ns, 80_000_000);
    assert_eq!(
        (read.latency_total.min_ns, read.latency_total.max_ns),
        (Some(80_000), Some(80_000))
    );
    assert!(
        read.latency_total
            .percentiles_ns
            .values()
            .all(|latency_ns| (79_000..=80_000).contains(latency_ns))
    );
    assert_eq!(read.iops, 12_500.0);
    assert_eq!(result.total.write, Side::empty());
    assert_eq!(result.total.depth.mean, 1.0);
    assert_eq!((result.jobs.len(), result.jobs[0].qid), (1, Some(1)));
}

#[test]
fn the_depth_asked_for_is_achieved() {
    let (result, _) = run(
        &BenchJob {
            ios: Some(3200),
            ..job(32)
        },
        |_| after(80_000),
    );
    let depth = &result.total.depth;
    assert_eq!(
        (depth.asked, depth.max, depth.mean, depth.device_mean),
        (32, 32, 32.0, 32.0)
    );
    assert_eq!(result.total.elapsed_ns, 8_000_000);
}

#[test]
fn host_and_device_latency_add_up() {
    let fate = |number| Fate {
        host_ns: 500,
        ..after(2000 + number)
    };
    let (result, _) = run(&job(4), fate);
    let read = &result.total.read;
    assert_eq!(
        (read.latency_host.min_ns, read.latency_host.max_ns),
        (Some(500), Some(500))
    );
    assert_eq!(
        (read.latency_device.min_ns, read.latency_device.max_ns),
        (Some(2000), Some(2999))
    );
    assert_eq!(
        (read.latency_total.min_ns, read.latency_total.max_ns),
        (Some(2500), Some(3499))
    );
    assert_littles_law(&result);
}

#[test]
fn a_warm_up_is_not_counted_and_the_number_of_requests_is_exact() {
    let slow_at_first = |number| after(if number < 10 { 3_000_000 } else { 10_000 });
    let (result, _) = run(
        &BenchJob {
            warmup_ns: 4_000_000,
            ..job(8)
        },
        slow_at_first,
    );
    assert_eq!(result.total.read.ios, 1000);
    assert_eq!(result.total.read.latency_total.max_ns, Some(10_000));
    assert_littles_law(&result);
}

#[test]
fn time_ends_a_job_and_what_is_out_is_waited_for() {
    let job = BenchJob {
        time_ns: Some(1_000_000),
        ios: None,
        ..job(2)
    };
    // The last one hangs: it counts, with all the time that it took.
    let (result, _) = run(&job, |number| {
        after(if number == 15 { 5_000_000_000 } else { 100_000 })
    });
    assert_eq!(result.total.read.latency_total.max_ns, Some(5_000_000_000));
    assert!(result.total.elapsed_ns > 5_000_000_000);
    assert_littles_law(&result);
    // With both a time and a number, what comes first.
    let both = BenchJob {
        ios: Some(3),
        ..job.clone()
    };
    assert_eq!(run(&both, |_| after(100_000)).0.total.read.ios, 3);
    let both = BenchJob {
        ios: Some(1_000_000),
        ..job
    };
    assert_eq!(run(&both, |_| after(100_000)).0.total.read.ios, 20);
}

#[test]
fn fewer_requests_than_the_depth_is_a_job_too() {
    let (result, _) = run(
        &BenchJob {
            ios: Some(3),
            ..job(32)
        },
        |_| after(100),
    );
    assert_eq!((result.total.read.ios, result.total.depth.max), (3, 3));
}

#[test]
fn a_status_is_counted_by_name_and_the_job_goes_on() {
    let vendor = Status::new(7, 0x12);
    let fate = |number| {
        let result = match number % 10 {
            0 => Err(IoError::Status(Status::UNRECOVERED_READ_ERROR.with_dnr(true))),
            1 => Err(IoError::Status(vendor)),
            _ => Ok(()),
        };
        Fate {
            result,
            ..after(1000)
        }
    };
    let (result, _) = run(&job(4), fate);
    let read = &result.total.read;
    assert_eq!((read.ios, read.errors, read.bytes), (1000, 200, 800 * 4096));
    let by_status: Vec<_> = read
        .errors_by_status
        .iter()
        .map(|(name, count)| (name.as_str(), *count))
        .collect();
    assert_eq!(by_status, [("Unrecovered Read Error", 100), ("sct 7 sc 18", 100)]);
    assert_eq!(read.latency_total.histogram.count(), 800);
    assert_eq!(result.total.depth.mean, 4.0, "those that failed were out, too");
}

#[test]
fn a_lost_device_ends_the_job_with_an_error() {
    let (mut generator, heard, _) = set_up(&job(8));
    let fate = |number| Fate {
        result: if number == 50 { Err(IoError::Lost) } else { Ok(()) },
        ..after(1000)
    };
    let mut sim = Sim::new(fate);
    sim.run(&mut generator);
    assert_eq!(heard.outcome(), Err(Failure::Io(IoError::Lost)));
    assert!(sim.asked.len() <= 50 + 8, "nothing more was asked");
}

#[test]
fn a_queue_that_refuses_everything_ends_the_job() {
    let (mut generator, heard, _) = set_up(&job(8));
    let mut sim = Sim::new(|_| after(1));
    sim.refuse = Some(IoError::Stopped);
    sim.run(&mut generator);
    assert_eq!(heard.outcome(), Err(Failure::Io(IoError::Stopped)));
}

#[test]
fn requests_that_find_no_room_are_handed_in_later_and_none_is_lost() {
    let (mut generator, heard, _) = set_up(&job(32));
    let mut sim = Sim::new(|_| after(10_000));
    sim.room = 5;
    sim.run(&mut generator);
    let result = heard.outcome().unwrap();
    assert_eq!((result.total.read.ios, result.total.depth.max), (1000, 32));
    assert_eq!(sim.asked.len(), 1000);
    assert_littles_law(&result);
    // What waits for room is the host's latency: at most 5 are at the device.
    assert!(result.total.read.latency_total.max_ns > Some(10_000));
}

#[test]
fn stop_ends_early_with_what_was_done() {
    for (warmup_ns, some) in [(0, true), (u64::MAX / 4, false)] {
        let job = BenchJob {
            warmup_ns,
            ios: None,
            time_ns: Some(u64::MAX / 4),
            ..job(4)
        };
        let (mut generator, heard, stop) = set_up(&job);
        let fate = |number| {
            if number == 100 {
                stop.stop();
            }
            after(1000)
        };
        Sim::new(fate).run(&mut generator);
        let result = heard.outcome().unwrap();
        assert_eq!(result.total.read.ios > 90, some, "{result:?}");
        assert_eq!(result.total.depth.mean > 3.5, some);
    }
}

#[test]
fn a_driver_that_stops_is_an_error_and_it_is_told_once() {
    let (mut generator, heard, _) = set_up(&job(4));
    let mut sim = Sim::new(|_| after(1000));
    generator.step(sim.now_ns, &mut sim);
    crate::worker::Load::stopped(&mut generator, IoError::Lost);
    assert_eq!(heard.outcome(), Err(Failure::Io(IoError::Lost)));
    drop(generator);
    assert_eq!(heard.outcomes.load(Ordering::Relaxed), 1);
    // One that never had a turn.
    let (generator, heard, _) = set_up(&job(4));
    drop(generator);
    assert_eq!(heard.outcome(), Err(Failure::Io(IoError::Stopped)));
}

#[test]
fn several_jobs_are_one_result_and_the_first_failure_is_everybodys() {
    let three = BenchJob { jobs: 3, ..job(2) };
    let (generators, heard, _) = set_up_all(&three);
    for (number, mut generator) in generators.into_iter().enumerate() {
        assert_eq!(heard.outcomes.load(Ordering::Relaxed), 0);
        Sim::new(|_| after(1000 * (number as u64 + 1))).run(&mut generator);
    }
    let result = heard.outcome().unwrap();
    assert_eq!(
        result.jobs.iter().map(|job| job.job).collect::<Vec<_>>(),
        [Some(0), Some(1), Some(2)]
    );
    assert_eq!((result.total.read.ios, result.total.depth.asked), (3000, 6));

    let (generators, heard, stop) = set_up_all(&three);
    for (number, mut generator) in generators.into_iter().enumerate() {
        let result = if number == 0 { Err(IoError::Lost) } else { Ok(()) };
        let mut sim = Sim::new(|_| Fate {
            result,
            ..after(1000)
        });
        sim.run(&mut generator);
        assert!(number == 0 || sim.asked.len() <= 2, "the others stop");
    }
    assert!(stop.is_stopped());
    assert_eq!(heard.outcome(), Err(Failure::Io(IoError::Lost)));
}

#[test]
fn progress_comes_four_times_a_second_with_the_rates_since_the_last() {
    let job = BenchJob {
        pattern: Pattern::RandRw,
        read_percent: 50,
        warmup_ns: 1_000_000_000,
        time_ns: Some(2_000_000_000),
        ios: None,
        ..job(10)
    };
    let (result, progress) = run(&job, |_| after(1_000_000));
    assert!((11..=12).contains(&progress.len()), "{}", progress.len());
    let phase = |wanted| {
        progress
            .iter()
            .filter(move |line| line.phase == wanted)
            .collect::<Vec<_>>()
    };
    let (warmup, running) = (phase(Phase::Warmup), phase(Phase::Running));
    assert!(warmup.len() >= 3 && running.len() >= 7);
    assert!(
        warmup
            .iter()
            .all(|line| line.total_ns == Some(1_000_000_000) && line.elapsed_ns <= 1_000_000_000)
    );
    assert!(running.iter().all(|line| line.total_ns == Some(2_000_000_000)));
    assert!(
        running
            .windows(2)
            .all(|lines| lines[0].ios_done < lines[1].ios_done)
    );
    assert!(
        running[0].ios_done <= 2600,
        "counted from the phase's start: {}",
        running[0].ios_done
    );
    for line in &progress {
        // 10 requests every millisecond, half of them reads.
        assert!(
            (line.read_iops + line.write_iops - 10_000.0).abs() < 100.0,
            "{line:?}"
        );
        assert!((4000.0..6000.0).contains(&line.read_iops), "{line:?}");
        assert!((line.read_bytes_per_s - line.read_iops * 4096.0).abs() < 1.0);
    }
    assert_littles_law(&result);
}

/// What a job asks, in order.
fn asked(job: &BenchJob) -> Vec<Vec<(Op, u64, u64)>> {
    let (generators, _, _) = set_up_all(job);
    let one = |mut generator: Generator| {
        let mut sim = Sim::new(|_| after(1000));
        sim.run(&mut generator);
        sim.asked
    };
    generators.into_iter().map(one).collect()
}

#[test]
fn sequential_jobs_start_apart_and_go_round_in_the_region() {
    let region = BenchJob {
        offset_bytes: 8 * 4096,
        size_bytes: Some(10 * 4096),
        block_bytes: 8192,
        ..Default::default()
    };
    let job = BenchJob {
        pattern: Pattern::Read,
        jobs: 2,
        ios: Some(7),
        time_ns: None,
        ..region
    };
    let places = |asked: &[(Op, u64, u64)]| asked.iter().map(|(_, slba, _)| *slba).collect::<Vec<_>>();
    let asked = asked(&job);
    assert_eq!(places(&asked[0]), [8, 10, 12, 14, 16, 8, 10]);
    assert_eq!(places(&asked[1]), [12, 14, 16, 8, 10, 12, 14]);
    assert!(
        asked
            .iter()
            .flatten()
            .all(|(op, _, blocks)| (*op, *blocks) == (Op::Read, 2))
    );
}

#[test]
fn no_two_blocks_written_are_alike_also_in_a_mix() {
    for pattern in [Pattern::RandWrite, Pattern::RandRw] {
        let (mut generator, ..) = set_up(&BenchJob { pattern, ..job(8) });
        let mut sim = Sim::new(|_| after(1000));
        sim.run(&mut generator);
        let mut heads = sim.heads.clone();
        heads.sort_unstable();
        heads.dedup();
        assert_eq!(heads.len(), sim.heads.len());
        assert!(heads.len() > 400);
    }
}

proptest! {
    // Each case is a few thousand requests.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn requests_stay_in_the_region_and_follow_from_the_seed(
        pattern in prop::sample::select(vec![
            Pattern::Read, Pattern::Write, Pattern::RandRead, Pattern::RandWrite, Pattern::Rw, Pattern::RandRw,
        ]),
        read_percent in 0_u8..=100,
        queue_depth in 1_u32..40,
        jobs in 1_u32..4,
        blocks in 1_u64..9,
        offset in 0_u64..900,
        size in 9_u64..100,
        random_seed: u64,
    ) {
        let job = BenchJob {
            pattern,
            read_percent,
            queue_depth,
            jobs,
            block_bytes: blocks as u32 * 4096,
            offset_bytes: offset * 4096,
            size_bytes: Some(size * 4096),
            random_seed,
            ..job(1)
        };
        let first = asked(&job);
        prop_assert!(first == asked(&job), "the same again");
        for (op, slba, asked_blocks) in first.iter().flatten() {
            prop_assert!(*slba >= offset && slba + asked_blocks <= offset + size);
            prop_assert_eq!((slba - offset) % blocks, 0);
            prop_assert_eq!(*asked_blocks, blocks);
            let allowed = if *op == Op::Read { job.reads() } else { job.writes() };
            prop_assert!(allowed);
        }
        let reads = first[0].iter().filter(|(op, ..)| *op == Op::Read).count();
        if pattern.is_mix() {
            // 5 standard deviations of a thousand throws are 79.
            prop_assert!(reads.abs_diff(usize::from(read_percent) * 10) < 80, "{} of 1000", reads);
        }
        if pattern.is_random() && jobs > 1 && size / blocks > 1 {
            prop_assert!(first[0] != first[1], "each job has places of its own");
        }
    }

    /// Any latencies at any depth: the numbers agree with each other.
    #[test]
    fn littles_law_holds_exactly(
        latencies in prop::collection::vec((0_u64..2_000_000, 0_u64..2_000_000), 1..50),
        queue_depth in 1_u32..64,
        warmup_ns in prop_oneof![Just(0), 0_u64..5_000_000],
    ) {
        let job = BenchJob { pattern: Pattern::RandRw, warmup_ns, ..job(queue_depth) };
        let fate = |number: u64| {
            let (host_ns, device_ns) = latencies[number as usize % latencies.len()];
            Fate { host_ns, ..after(device_ns + 1) }
        };
        let (result, _) = run(&job, fate);
        let total = &result.total;
        prop_assert_eq!(total.read.ios + total.write.ios, 1000);
        prop_assert!(total.depth.mean <= f64::from(queue_depth) + 1e-9);
        prop_assert!(total.depth.device_mean <= total.depth.mean + 1e-9);
        prop_assert_eq!(total.depth.max, queue_depth);
        assert_littles_law(&result);
    }
}

#[test]
fn a_job_that_does_not_fit_the_device_is_refused_with_a_reason() {
    let identity = crate::scheme::fake::identity([0; 4096], 1 << 20);
    let real = crate::controller::Identity {
        emulated: false,
        ..identity.clone()
    };
    let write = BenchJob {
        pattern: Pattern::RandWrite,
        ..job(1)
    };
    for (job, identity, word, errno) in [
        (
            BenchJob {
                block_bytes: 512,
                ..job(1)
            },
            &identity,
            "block_bytes",
            Errno::EINVAL,
        ),
        (
            BenchJob {
                offset_bytes: 512,
                ..job(1)
            },
            &identity,
            "offset_bytes",
            Errno::EINVAL,
        ),
        (
            BenchJob {
                size_bytes: Some(4608),
                ..job(1)
            },
            &identity,
            "size_bytes",
            Errno::EINVAL,
        ),
        (
            BenchJob {
                offset_bytes: 1000 * 4096,
                ..job(1)
            },
            &identity,
            "region",
            Errno::EINVAL,
        ),
        (
            BenchJob {
                size_bytes: Some(1001 * 4096),
                ..job(1)
            },
            &identity,
            "region",
            Errno::EINVAL,
        ),
        (
            BenchJob {
                offset_bytes: 999 * 4096,
                block_bytes: 8192,
                ..job(1)
            },
            &identity,
            "region",
            Errno::EINVAL,
        ),
        (
            BenchJob {
                queue_depth: 65_535,
                block_bytes: 1 << 20,
                ..job(1)
            },
            &identity,
            "memory",
            Errno::EINVAL,
        ),
        (
            BenchJob {
                jobs: 65_535,
                ..job(1)
            },
            &identity,
            "memory",
            Errno::EINVAL,
        ),
        (
            BenchJob {
                serial: Some("OTHER".into()),
                ..job(1)
            },
            &identity,
            "\"OTHER\"",
            Errno::EPERM,
        ),
        (
            BenchJob {
                destructive: false,
                ..write.clone()
            },
            &identity,
            "destructive",
            Errno::EPERM,
        ),
        (write.clone(), &real, "serial", Errno::EPERM),
    ] {
        let failure = Plan::new(&job, identity, &namespace()).expect_err(word);
        assert!(failure.to_string().contains(word), "{failure}");
        assert_eq!(failure.errno(), errno, "{failure}");
    }
    assert!(
        Plan::new(&write, &identity, &namespace()).is_ok(),
        "an emulated device's data are nobody's"
    );
    let named = BenchJob {
        serial: Some(real.serial.clone()),
        ..write
    };
    assert!(Plan::new(&named, &real, &namespace()).is_ok());
    let unusable = crate::namespace::Namespace::unknown(1, "it is broken".into());
    let failure = Plan::new(&job(1), &identity, &unusable).expect_err("unusable");
    assert_eq!(
        (failure.errno(), failure.to_string().contains("it is broken")),
        (Errno::EOPNOTSUPP, true)
    );
}

#[test]
fn the_report_is_a_small_table() {
    let vendor = Err(IoError::Status(Status::UNRECOVERED_READ_ERROR));
    let fate = |number| Fate {
        host_ns: 900,
        result: if number < 3 { vendor } else { Ok(()) },
        ..after(80_000)
    };
    let (result, _) = run(&job(1), fate);
    let wanted = "\
emulated M (S), namespace 1
randread, 4096 bytes, queue depth 1, 0.1 s
read: IOPS=12.4k, BW=50.48MB/s
  latency        min      mean    stddev       p50       p90       p99     p99.9    p99.99       max
  total      80.9 us   80.9 us      0 ns   80.9 us   80.9 us   80.9 us   80.9 us   80.9 us   80.9 us
  device     80.0 us   80.0 us      0 ns   80.0 us   80.0 us   80.0 us   80.0 us   80.0 us   80.0 us
  host        900 ns    900 ns      0 ns    900 ns    900 ns    900 ns    900 ns    900 ns    900 ns
  3 failed: Unrecovered Read Error
depth: asked 1, mean 1.0, max 1, at the device 1.0
service latency, closed loop, QD=1
";
    assert_eq!(Report(&result).to_string(), wanted);
}

/// What a generator costs for each request. Not timed in a normal run: `cargo test --release -- --ignored
/// --nocapture cost`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_request() {
    struct Echo(Vec<Request<u64>>);
    impl Port for Echo {
        fn submit(&mut self, _class: Class, request: Request<u64>) -> Result<(), (Request<u64>, IoError)> {
            self.0.push(request);
            Ok(())
        }
    }
    for pattern in [Pattern::RandRead, Pattern::RandRw] {
        let ios = 5_000_000;
        let (mut generator, heard, _) = set_up(&BenchJob {
            pattern,
            ios: Some(ios),
            ..job(32)
        });
        let (mut echo, mut passed) = (Echo(Vec::with_capacity(64)), Vec::with_capacity(64));
        let started = std::time::Instant::now();
        let mut now_ns = 1000;
        while generator.step(now_ns, &mut echo) != LoadState::Done {
            std::mem::swap(&mut echo.0, &mut passed);
            now_ns += 32_000;
            for request in passed.drain(..) {
                let Request {
                    op,
                    nsid,
                    slba,
                    blocks,
                    buffer,
                    arrived_ns,
                    context,
                } = request;
                let done = Finished {
                    op,
                    nsid,
                    slba,
                    blocks,
                    buffer,
                    context,
                    result: Ok(()),
                    arrived_ns,
                    doorbell_ns: arrived_ns + 900,
                    completed_ns: now_ns,
                };
                generator.done(done, &mut echo);
            }
        }
        println!(
            "{pattern:?}: {} ns a request",
            started.elapsed().as_nanos() / u128::from(ios)
        );
        assert_eq!(
            heard
                .outcome()
                .map(|result| result.total.read.ios + result.total.write.ios),
            Ok(ios)
        );
    }
}
