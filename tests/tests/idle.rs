//! An idle driver on an idle device costs next to nothing. A test program of its own: what others do must not count.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
#[test]
fn an_idle_driver_and_device_sleep() {
    use std::time::{Duration, Instant};

    use nvme_driver::Config;
    use nvme_driver::config::PollingMode;
    use nvme_tests::Rig;

    /// Processor time of all threads of this process that bear the driver's or the device's names, in nanoseconds.
    fn cpu_ns() -> u64 {
        let mut sum = 0;
        for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if name.starts_with("nvme-") || name.starts_with("emulator") {
                let schedstat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                sum += schedstat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        sum
    }

    let modes = [PollingMode::Adaptive, PollingMode::Interrupt, PollingMode::Polling];
    let rigs: Vec<Rig> =
        modes.map(|polling| Rig::new("size=1MiB,queues=4", &Config { num_queues: 4, polling, ..Config::default() })).into();
    // Let them fall asleep. What is measured is time on a processor, not time that passes, so a slow machine does not
    // matter; this is no synchronisation either, only the length of the measurement.
    std::thread::sleep(Duration::from_millis(300));
    let (begun, begun_ns) = (Instant::now(), cpu_ns());
    std::thread::sleep(Duration::from_secs(2));
    let used = (cpu_ns() - begun_ns) as f64 / begun.elapsed().as_nanos() as f64;
    // Three drivers and three devices; 2% is allowed for one.
    assert!(used < 0.02, "idle drivers used {:.1}% of a processor", used * 100.0);
    drop(rigs);
}
