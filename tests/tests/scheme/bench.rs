//! The benchmark through the scheme, against what the driver counted.

use nvme_driver::embedded::Handle;
use stats_proto::bench::{BenchJob, BenchLine, BenchResult, LatencySummary, Pattern};
#[cfg(feature = "performance-counters")]
use stats_proto::stats::StatsDocument;

use super::*;

fn bench(client: &Client, job: &BenchJob) -> Handle {
    let handle = client.open("1/bench", OpenFlags::READ_WRITE).unwrap();
    handle.write_at(&serde_json::to_vec(job).unwrap(), 0).unwrap();
    handle
}

/// Reads lines until the text ends; each must fit the schema.
fn lines(handle: &Handle) -> Vec<BenchLine> {
    let schema = serde_json::from_str(stats_proto::schema::BENCH).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let text = String::from_utf8(read_all(handle, 4096).unwrap()).unwrap();
    text.lines()
        .map(|line| {
            assert!(schema.is_valid(&serde_json::from_str(line).unwrap()), "{line}");
            BenchLine::parse(line).unwrap()
        })
        .collect()
}

fn result(handle: &Handle) -> BenchResult {
    match lines(handle).pop() {
        Some(BenchLine::Result(result)) => *result,
        other => panic!("{other:?}"),
    }
}

#[cfg(feature = "performance-counters")]
fn stats(client: &Client) -> StatsDocument {
    serde_json::from_slice(&document(client, "controller/stats").unwrap()).unwrap()
}

fn job(pattern: Pattern, ios: u64) -> BenchJob {
    BenchJob {
        pattern,
        ios: Some(ios),
        time_ns: None,
        queue_depth: 8,
        destructive: true,
        ..Default::default()
    }
}

/// Only the benchmark uses the I/O queues here; the driver's own commands are admin commands.
#[cfg(feature = "performance-counters")]
#[test]
fn the_result_is_what_the_queues_counted() {
    let driver = start("size=16MiB,mdts=16KiB");
    let client = root(&driver);
    for (pattern, block_bytes, jobs) in [
        (Pattern::RandRead, 4096, 1),
        (Pattern::RandRw, 8192, 2),
        (Pattern::Write, 40960, 3),
    ] {
        let before = stats(&client);
        let result = result(&bench(
            &client,
            &BenchJob {
                block_bytes,
                jobs,
                ..job(pattern, 500)
            },
        ));
        let after = stats(&client);
        let total = &result.total;
        assert_eq!(total.read.ios + total.write.ios, 500 * u64::from(jobs));
        assert_eq!(total.read.errors + total.write.errors, 0);
        assert_eq!(total.depth.max, 8 * jobs);
        // One request is as many commands as transfers of 16 KiB.
        let commands = u64::from(block_bytes).div_ceil(16 << 10);
        let count = |document: &StatsDocument, op: &str| {
            let ops = document.namespaces[0].ops.as_ref().expect("counters are on");
            ops.get(op).map_or((0, 0), |op| (op.count, op.bytes))
        };
        for (op, side) in [("read", &total.read), ("write", &total.write)] {
            let (before, after) = (count(&before, op), count(&after, op));
            assert_eq!(after.0 - before.0, side.ios * commands, "{op}");
            assert_eq!(after.1 - before.1, side.bytes, "{op}");
            assert_eq!(side.latency_total.histogram.count(), side.ios);
        }
    }
}

#[test]
fn jobs_run_on_queues_of_their_own() {
    let driver = start("size=16MiB");
    let result = result(&bench(
        &root(&driver),
        &BenchJob {
            jobs: 3,
            ..job(Pattern::Read, 50)
        },
    ));
    let qids: Vec<_> = result.jobs.iter().map(|job| job.qid).collect();
    let second = if cfg!(feature = "multi-queue") { 2 } else { 1 };
    assert_eq!(qids, [Some(1), Some(second), Some(1)]);
    assert_eq!(result.device.backend, "emulated");
    assert_eq!((result.device.nsid, result.device.lba_bytes), (1, 4096));
}

/// The emulated medium takes 200 us, so what is shown is no less, and at a depth of 1 the device is all there
/// is to wait for. (Not every single one: a device thread that loses its CPU just before it looks at a
/// command takes it to be older.)
#[test]
fn a_latency_is_not_understated() {
    let driver = start("size=1MiB,latency=200us");
    let result = result(&bench(
        &root(&driver),
        &BenchJob {
            queue_depth: 1,
            ..job(Pattern::RandRead, 50)
        },
    ));
    let read = &result.total.read;
    let median_ns = |latency: &LatencySummary| latency.percentiles_ns["50.00"];
    assert!(
        median_ns(&read.latency_device) >= 200_000,
        "{:?}",
        read.latency_device.percentiles_ns
    );
    assert!(median_ns(&read.latency_total) >= 200_000);
    assert!(
        result.total.depth.mean > 0.99 && result.total.depth.mean <= 1.0,
        "{:?}",
        result.total.depth
    );
}

#[test]
fn a_running_job_tells_how_far_it_is_and_stops_when_told() {
    let driver = start("size=16MiB");
    let client = root(&driver);
    let endless = BenchJob {
        time_ns: Some(u64::MAX / 4),
        ios: None,
        ..job(Pattern::RandRead, 1)
    };
    let handle = bench(&client, &endless);
    let mut buffer = vec![0; 1 << 16];
    let len = handle.read_at(&mut buffer, 0).unwrap();
    let text = std::str::from_utf8(&buffer[..len]).unwrap();
    assert!(
        matches!(BenchLine::parse(text.lines().next().unwrap()), Ok(BenchLine::Progress(line)) if line.ios_done > 0)
    );
    assert_eq!(
        handle.write_at(&serde_json::to_vec(&endless).unwrap(), 0),
        Err(Errno::EBUSY)
    );
    assert_eq!(handle.write_at(b"stop", 0), Ok(4));
    assert!(result(&handle).total.read.ios > 0);
    // Closed in the middle, it stops too: the next one finds the queues empty in the end.
    drop(bench(&client, &endless));
    let result = result(&bench(&client, &job(Pattern::RandRead, 100)));
    assert_eq!(result.total.read.ios, 100);
    driver.shutdown().unwrap();
}

#[test]
fn a_job_that_makes_no_sense_on_this_device_says_why() {
    let driver = start("size=1MiB,serial=MINE");
    let client = root(&driver);
    for (job, errno, word) in [
        (
            BenchJob {
                block_bytes: 512,
                ..job(Pattern::Read, 1)
            },
            Errno::EINVAL,
            "4096",
        ),
        (
            BenchJob {
                block_bytes: 2 << 20,
                ..job(Pattern::Read, 1)
            },
            Errno::EINVAL,
            "1048576",
        ),
        (
            BenchJob {
                destructive: false,
                ..job(Pattern::RandWrite, 1)
            },
            Errno::EPERM,
            "destructive",
        ),
        (
            BenchJob {
                serial: Some("OTHER".into()),
                ..job(Pattern::Read, 1)
            },
            Errno::EPERM,
            "MINE",
        ),
        (
            BenchJob {
                queue_depth: 60_000,
                jobs: 10,
                ..job(Pattern::Read, 1)
            },
            Errno::EINVAL,
            "memory",
        ),
    ] {
        let handle = client.open("1/bench", OpenFlags::READ_WRITE).unwrap();
        assert_eq!(
            handle.write_at(&serde_json::to_vec(&job).unwrap(), 0),
            Err(errno),
            "{word}"
        );
        match &lines(&handle)[..] {
            [BenchLine::Error(line)] => {
                assert!(line.error.contains(word) && line.errno == errno.0, "{line:?}")
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        user(&driver).open("1/bench", OpenFlags::READ_WRITE).err(),
        Some(Errno::EACCES)
    );
}
