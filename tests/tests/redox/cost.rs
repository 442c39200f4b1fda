//! What the driver asks of the kernel: how much for a request, and nothing when there are none.

use super::rig::{DISKS, Rig, Skewed, open};
use nvme_driver::Config;
use nvme_driver::config::PollingMode;
use nvme_redox_model::{Operation, What};

/// Of each page of a client's; a driver without the feature copies, and needs to know of none.
const PAGES_TRANSLATED: u64 = if cfg!(feature = "zero-copy") { 1 } else { 0 };

/// Whole pages of a client's go between it and the device; the driver copies nothing, and asks where each page is.
#[test]
fn whole_blocks_are_not_copied() {
    let rig = Rig::new("size=16MiB,lba=512");
    let client = rig.root();
    let disk = open(&client, &format!("{DISKS}/1"));
    let mut buffer = Skewed::new(128 << 10, 0);
    let before = rig.machine.calls();
    for round in 0..8_u64 {
        assert_eq!(client.pwrite(disk, buffer.get(), round << 17), Ok(128 << 10));
        assert_eq!(client.pread(disk, buffer.get(), round << 17), Ok(128 << 10));
    }
    let asked = rig.machine.calls().since(&before);
    assert_eq!(
        asked.count(Operation::Call, What::Memory),
        PAGES_TRANSLATED * 16 * 32
    );
    // A buffer of the heap begins anywhere, so its ends are in pages of their own.
    let mut skewed = Skewed::new(128 << 10, 16);
    assert_eq!(client.pread(disk, skewed.get(), 0), Ok(128 << 10));
    // One command each, whatever its length up to MDTS.
    let counters = rig.device().counters();
    assert_eq!(counters.dma_faults, 0);
    #[cfg(feature = "performance-counters")]
    {
        let stats = rig.stats();
        let queue = stats.queues.iter().find(|queue| queue.qid == 1).unwrap();
        let counters = queue.counters.as_ref().unwrap();
        let copied = if cfg!(feature = "zero-copy") { 0 } else { 17 << 17 };
        assert_eq!(counters.bytes_copied, copied);
        assert_eq!(counters.submitted, 17);
    }
    // What does not begin at a multiple of 4 bytes no PRP can name.
    let mut odd = Skewed::new(4096, 1);
    assert_eq!(client.pread(disk, odd.get(), 0), Ok(4096));
    client.close(disk).unwrap();
    rig.check();
}

/// One client that reads block after block: a read and a write of the socket for each, and no more.
#[test]
fn a_lone_request_costs_a_read_and_a_write_of_the_socket() {
    let rig = Rig::new("size=16MiB,lba=512");
    let client = rig.root();
    let disk = open(&client, &format!("{DISKS}/1"));
    let mut buffer = Skewed::new(4096, 0);
    assert_eq!(client.pread(disk, buffer.get(), 0), Ok(4096));
    let before = rig.machine.calls();
    let timeouts = rig.machine.timeouts_registered();
    const READS: u64 = 200;
    for round in 0..READS {
        assert_eq!(client.pread(disk, buffer.get(), round << 12), Ok(4096));
    }
    let asked = rig.machine.calls().since(&before);
    let writes = asked.count(Operation::Write, What::Socket);
    assert_eq!(writes, READS, "an answer each");
    let reads = asked.count(Operation::Read, What::Socket);
    // The kernel tells of a request once; another look is for those that came while the worker was awake.
    assert!(
        reads <= 3 * READS,
        "{reads} reads of sockets for {READS} requests"
    );
    assert_eq!(
        asked.count(Operation::Call, What::Memory),
        PAGES_TRANSLATED * READS
    );
    // They are never taken back: a timeout for each sleep would pile up.
    let timeouts = rig.machine.timeouts_registered() - timeouts;
    assert!(timeouts <= READS / 10, "{timeouts} timeouts for {READS} requests");
    client.close(disk).unwrap();
    rig.check();
}

/// Nothing to do: nothing is asked, but for the look that the admin queue's thread takes now and then.
#[test]
fn idle_costs_nothing() {
    for polling in [
        PollingMode::Adaptive,
        PollingMode::Interrupt,
        PollingMode::Polling,
    ] {
        let config = Config {
            polling: polling.into(),
            ..Config::default()
        };
        let rig = Rig::with("size=1MiB", &config);
        let client = rig.root();
        let disk = open(&client, "/scheme/nvme/1");
        assert_eq!(client.pread(disk, &mut [0; 512], 0), Ok(512));
        // Until what was begun is over, however slow this machine is. The controller's state is looked at every 100 ms: a
        // sleep, a timeout and an event each.
        let mut windows = (0..50).map(|_| {
            let before = rig.machine.calls();
            std::thread::sleep(std::time::Duration::from_millis(200));
            rig.machine.calls().since(&before)
        });
        assert!(windows.any(|asked| asked.total() <= 24), "{polling:?}");
    }
}
