//! Clients and controllers that end in the middle of something.

use super::rig::{DISKS, Rig, open};
use syscall::error::ENODEV;

/// Whoever is killed while the device works on his memory: it stays until the device is done with it.
#[test]
fn the_memory_of_a_killed_client_is_kept_until_the_device_is_done() {
    let rig = Rig::new("size=16MiB");
    for _ in 0..3 {
        let client = rig.root();
        let disk = open(&client, &format!("{DISKS}/1"));
        let _held = rig.machine.controller(0).hold();
        std::thread::scope(|scope| {
            for thread in 0..16 {
                let client = &client;
                scope.spawn(move || {
                    let mut bytes = vec![0; 16384];
                    client.pread(disk, &mut bytes, thread * 16384)
                });
            }
            client.wait_until_taken(16);
            client.kill();
        });
    }
    // The next one is served, and by then the device is done with the last of them.
    let client = rig.root();
    let disk = open(&client, &format!("{DISKS}/1"));
    assert_eq!(client.pread(disk, &mut [0; 4096], 0), Ok(4096));
    while rig.daemon.servers().iter().any(|server| server.outstanding() > 0) {
        std::thread::yield_now();
    }
    rig.check();
}

/// A controller that fails: everybody gets an answer, and what there is to know can still be read.
#[test]
fn a_failed_controller_leaves_nobody_without_an_answer() {
    let rig = Rig::new("size=16MiB");
    let client = rig.root();
    let disk = open(&client, "/scheme/nvme/1");
    let held = rig.machine.controller(0).hold();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let client = &client;
            scope.spawn(move || {
                let mut bytes = vec![0; 4096];
                loop {
                    match client.pread(disk, &mut bytes, thread * 4096) {
                        Ok(len) => assert_eq!(len, 4096),
                        Err(error) => return assert_eq!(error.errno, ENODEV),
                    }
                }
            });
        }
        client.wait_until_taken(16);
        rig.device().fail();
        drop(held);
    });
    let stats = rig.stats();
    assert_ne!(stats.controller.state.as_str(), "live");
    let error = client.pread(disk, &mut [0; 512], 0).unwrap_err();
    assert_eq!(error.errno, ENODEV);
    client.close(disk).unwrap();
    rig.check();
}

#[test]
fn a_handle_that_is_closed_during_a_read_does_not_disturb_it() {
    let rig = Rig::new("size=16MiB");
    let client = rig.root();
    for _ in 0..5 {
        let disk = open(&client, &format!("{DISKS}/1"));
        let held = rig.machine.controller(0).hold();
        std::thread::scope(|scope| {
            let read = scope.spawn(|| client.pread(disk, &mut [0; 4096], 0));
            client.wait_until_taken(1);
            client.close(disk).unwrap();
            drop(held);
            assert_eq!(read.join().unwrap(), Ok(4096));
        });
    }
    rig.check();
}
