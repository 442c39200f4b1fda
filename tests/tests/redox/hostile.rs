//! Whatever comes through a socket is answered, and does no harm.

use super::rig::{Rig, open};
use syscall::schemev2::{Sqe, SqeFlags};

#[test]
fn any_request_is_answered_and_the_next_client_is_served() {
    let rig = Rig::new("size=1MiB,namespaces=2");
    let client = rig.root();
    let disk = open(&client, "/scheme/nvme/1");
    let file = client
        .open("/scheme/nvme/controller/stats", syscall::flag::O_RDONLY)
        .unwrap();
    let known = [
        0,
        client.number(disk).unwrap() as u64,
        client.number(file).unwrap() as u64,
    ];
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = &client;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                for _ in 0..600 {
                    let scheme = if random.bool() {
                        "nvme"
                    } else {
                        "disk.pci-0000-00-02.0-nvme"
                    };
                    let opcode = random.u8(..40);
                    // Those that nobody waits for are not answered: as notices only.
                    let oneway = matches!(opcode, 21 | 24 | 25 | 27 | 34) || random.u8(..10) == 0;
                    let mut args = [0; 6];
                    for arg in &mut args {
                        *arg = match random.u8(..4) {
                            0 => known[random.usize(..known.len())],
                            1 => random.u64(..16),
                            2 => random.u64(..1 << 21),
                            _ => random.u64(..),
                        };
                    }
                    if opcode == 27 && known.contains(&args[0]) {
                        continue;
                    }
                    let sqe = Sqe {
                        opcode,
                        sqe_flags: if oneway {
                            SqeFlags::ONEWAY
                        } else {
                            SqeFlags::empty()
                        },
                        args,
                        ..Sqe::default()
                    };
                    if oneway {
                        // The memory that it names would not be there.
                        let sqe = Sqe {
                            args: [args[0], 0, 0, args[3], args[4], args[5]],
                            ..sqe
                        };
                        if !matches!(opcode, 5 | 6) {
                            let _ = client.raw(scheme, sqe);
                        }
                        continue;
                    }
                    let mut payload = vec![random.u8(..); random.usize(..9000)];
                    let _ = client.raw_with(scheme, sqe, &mut payload);
                }
            });
        }
    });
    assert_eq!(client.pread(disk, &mut [0; 4096], 0), Ok(4096));
    assert_eq!(rig.machine.violations(), []);
    for server in rig.daemon.servers() {
        assert_eq!(server.outstanding(), 0, "{server:?}");
    }
}
