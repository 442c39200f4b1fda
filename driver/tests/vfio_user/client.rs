//! The client under servers that do not do their part: each is an error with a reason, at once or after the client's
//! patience, and never a hang.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nvme_driver::backend::vfio_user::{ConnectError, VfioUserBackend};
use nvme_driver::backend::{Backend, Departure};
use nvme_driver::vfio_user::channel::{Channel, Message, Others};
use nvme_driver::vfio_user::wire::{
    Capabilities, Command, DeviceInfo, Header, IrqInfo, RegionAccess, RegionInfo, SetIrqs, SparseArea,
    Version,
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use zerocopy::{FromBytes, IntoBytes};

use crate::rig::{PATIENCE, memfd};

/// A server's answers, of which a test changes one.
#[derive(Default)]
struct Script {
    /// For the command with this number, instead of what a good server does.
    instead: Option<(Command, Instead)>,
    capabilities: Option<Capabilities>,
    version: Version,
    device: Option<DeviceInfo>,
    /// BAR 0's information and areas, and how many descriptors.
    bar: Option<(RegionInfo, Vec<SparseArea>, usize)>,
    doorbells: Option<OwnedFd>,
    irqs: Option<IrqInfo>,
    class: u32,
    msix_at: u8,
    /// That have got an eventfd.
    vectors: AtomicU32,
}

#[derive(Clone, Copy, Debug)]
enum Instead {
    Error(u32),
    Empty,
    Short(usize),
    WrongId,
    WrongCommand,
    Twice,
    Silence,
    Close,
    Half,
    Huge,
    NotAReply,
    ManyDescriptors,
    AskFirst,
}

impl Script {
    fn good() -> Self {
        Self {
            class: 0x01_08_02,
            msix_at: 0x50,
            ..Self::default()
        }
    }

    fn payload(&self, message: &Message) -> (Vec<u8>, usize) {
        let asked = &message.payload;
        let none = || (Vec::new(), 0);
        match Command::new(message.header.command).expect("a command that there is") {
            Command::Version => {
                let capabilities = self.capabilities.unwrap_or_default();
                ([self.version.as_bytes(), &capabilities.encode()].concat(), 0)
            }
            Command::DeviceGetInfo => {
                let info = DeviceInfo {
                    argsz: 16,
                    flags: DeviceInfo::PCI,
                    num_regions: 9,
                    num_irqs: 5,
                };
                (self.device.unwrap_or(info).as_bytes().to_vec(), 0)
            }
            Command::DeviceGetRegionInfo => {
                let info = RegionInfo {
                    flags: RegionInfo::READ | RegionInfo::WRITE | RegionInfo::MMAP,
                    size: 0x4000,
                    ..RegionInfo::default()
                };
                let area = SparseArea {
                    offset: 0x1000,
                    size: 0x1000,
                };
                let (info, areas, files) = self.bar.clone().unwrap_or((info, vec![area], 1));
                (info.encode(&areas, u32::MAX).0, files)
            }
            Command::DeviceGetIrqInfo => {
                let info = IrqInfo {
                    argsz: 16,
                    flags: IrqInfo::EVENTFD,
                    index: 2,
                    count: 20,
                };
                (self.irqs.unwrap_or(info).as_bytes().to_vec(), 0)
            }
            Command::RegionRead => {
                let access = RegionAccess::read_from_bytes(asked).unwrap();
                let mut data = vec![0; access.count as usize];
                if access.region == 7 {
                    let mut space = [0; 256];
                    space[8..12].copy_from_slice(&(self.class << 8).to_le_bytes());
                    space[0x34] = self.msix_at;
                    // A list that goes round in circles, if MSI-X is not at its start.
                    space[0x40..0x42].copy_from_slice(&[1, 0x40]);
                    space[0x50..0x54].copy_from_slice(&[0x11, 0, 19, 0]);
                    let at = access.offset as usize;
                    data.copy_from_slice(&space[at..at + access.count as usize]);
                }
                ([access.as_bytes(), &data].concat(), 0)
            }
            Command::RegionWrite => (asked[..16].to_vec(), 0),
            Command::DmaUnmap => (asked.clone(), 0),
            _ => none(),
        }
    }

    /// Serves until the client leaves or the script says to stop.
    fn serve(&self, channel: &Channel, mut raw: UnixStream) {
        let doorbells = match &self.doorbells {
            Some(file) => file.try_clone().unwrap(),
            None => memfd(0x4000),
        };
        let max_fds = self.capabilities.unwrap_or_default().max_msg_fds;
        while let Ok(message) = channel.receive(Some(PATIENCE), Others::default()) {
            assert!(message.descriptors.len() <= max_fds, "{message:?}");
            if message.header.command == Command::DeviceSetIrqs as u16 {
                let set = SetIrqs::read_from_bytes(&message.payload).unwrap();
                assert_eq!(set.count as usize, message.descriptors.len());
                self.vectors.fetch_add(set.count, Ordering::Relaxed);
            }
            let (payload, files) = self.payload(&message);
            let mut files: Vec<BorrowedFd<'_>> = (0..files).map(|_| doorbells.as_fd()).collect();
            let header = message.header.reply(payload.len());
            let instead = self
                .instead
                .filter(|(command, _)| *command as u16 == message.header.command);
            let sent = match instead.map(|(_, instead)| instead) {
                None => channel.send(&header, &payload, &files),
                Some(Instead::Error(errno)) => channel.send(&message.header.error_reply(errno), &[], &[]),
                Some(Instead::Empty) => channel.send(&message.header.reply(0), &[], &files),
                Some(Instead::Short(len)) => {
                    channel.send(&message.header.reply(len), &payload[..len], &files)
                }
                Some(Instead::WrongId) => {
                    let id = header.id.wrapping_add(1);
                    channel.send(&Header { id, ..header }, &payload, &files)
                }
                Some(Instead::WrongCommand) => {
                    let command = header.command + 1;
                    channel.send(&Header { command, ..header }, &payload, &files)
                }
                Some(Instead::Twice) => {
                    channel.send(&header, &payload, &files).unwrap();
                    channel.send(&header, &payload, &files)
                }
                Some(Instead::Silence) => Ok(()),
                Some(Instead::Close) => return channel.shut_down(),
                Some(Instead::Half) => {
                    raw.write_all(&header.as_bytes()[..7]).unwrap();
                    Ok(())
                }
                Some(Instead::Huge) => {
                    let size = u32::MAX;
                    raw.write_all(Header { size, ..header }.as_bytes()).unwrap();
                    Ok(())
                }
                Some(Instead::NotAReply) => channel.send(&Header { flags: 5, ..header }, &payload, &files),
                Some(Instead::ManyDescriptors) => {
                    files = vec![doorbells.as_fd(); 100];
                    channel.send(&header, &payload, &files)
                }
                Some(Instead::AskFirst) => {
                    // Commands of the server's own are refused, and disturb nothing.
                    let mut asks = Header::command(header.id, Command::DmaRead, 16);
                    channel.send(&asks, &[0; 16], &[]).unwrap();
                    let refused = channel.receive(Some(PATIENCE), Others::default()).unwrap();
                    assert!(refused.header.failure().is_some());
                    asks.flags |= Header::NO_REPLY;
                    channel.send(&asks, &[0; 16], &[]).unwrap();
                    channel.send(&header, &payload, &files)
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    /// What the client makes of it. The server is there until `with` returns.
    fn meet<R>(
        &self,
        patience: Duration,
        with: impl FnOnce(Result<std::sync::Arc<VfioUserBackend>, ConnectError>) -> R,
    ) -> R {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let raw = theirs.try_clone().unwrap();
        let channel = Channel::new(theirs.into(), PATIENCE);
        std::thread::scope(|scope| {
            scope.spawn(|| self.serve(&channel, raw));
            with(VfioUserBackend::over(
                ours.into(),
                Path::new("/a/socket"),
                patience,
            ))
        })
    }

    fn refused(&self) -> String {
        self.meet(PATIENCE, |met| met.expect_err("an error").to_string())
    }
}

const SHORT: Duration = Duration::from_millis(100);

#[test]
fn a_good_server_is_accepted() {
    Script::good().meet(PATIENCE, |met| {
        let backend = met.unwrap();
        assert_eq!(backend.vectors(), 20);
        assert_eq!(backend.read32(0x1C), 0);
        backend.doorbell(0x1FFC).unwrap();
        assert!(backend.doorbell(0x2000).is_err(), "not mapped");
        let region = backend.allocate(8192).unwrap();
        assert!(region.iova().is_multiple_of(4096));
        assert_eq!(backend.departure(), None);
    });
}

#[test]
fn whatever_goes_wrong_in_whatever_step_is_an_error_with_a_reason() {
    let steps = [
        Command::Version,
        Command::DeviceGetInfo,
        Command::DeviceGetRegionInfo,
        Command::DeviceGetIrqInfo,
        Command::DeviceSetIrqs,
        Command::RegionRead,
        Command::RegionWrite,
    ];
    for command in steps {
        for (instead, reason) in [
            (Instead::Error(22), "Invalid argument"),
            (Instead::Error(0), "no reason given"),
            (Instead::Error(u32::MAX), "no reason given"),
            (Instead::Empty, "the answer has 0 bytes"),
            (Instead::Short(3), "the answer has 3 bytes"),
            (Instead::WrongId, "nobody waits for"),
            (Instead::WrongCommand, "nobody waits for"),
            (Instead::Close, "has closed the connection"),
            (Instead::Huge, "4294967295 bytes long"),
            (Instead::NotAReply, "neither a command nor a reply"),
        ] {
            let has_answer = command != Command::DeviceSetIrqs;
            if !has_answer && matches!(instead, Instead::Empty | Instead::Short(_)) {
                continue;
            }
            let script = Script {
                instead: Some((command, instead)),
                ..Script::good()
            };
            let error = script.refused();
            let reasons = match (command, instead) {
                (Command::Version, Instead::Close) => vec!["has hung up"],
                (_, Instead::Short(_) | Instead::Empty) => {
                    vec![reason, "cannot be read", "is 0 bytes long", "is 3 bytes long"]
                }
                _ => vec![reason],
            };
            assert!(
                reasons.iter().any(|reason| error.contains(reason)),
                "{command:?} {instead:?}: {error}"
            );
        }
    }
}

#[test]
fn a_server_that_says_nothing_or_half_of_it_has_the_clients_patience_and_no_more() {
    for command in [Command::Version, Command::RegionRead, Command::DeviceSetIrqs] {
        for instead in [Instead::Silence, Instead::Half] {
            let script = Script {
                instead: Some((command, instead)),
                ..Script::good()
            };
            let begin = Instant::now();
            let error = script.meet(SHORT, |met| met.expect_err("an error").to_string());
            assert!(begin.elapsed() >= SHORT);
            let known = ["has not answered", "stopped in the middle"];
            assert!(
                known.iter().any(|known| error.contains(known)),
                "{command:?} {instead:?}: {error}"
            );
        }
    }
}

#[test]
fn what_a_server_asks_is_refused_and_disturbs_nothing() {
    let script = Script {
        instead: Some((Command::RegionRead, Instead::AskFirst)),
        ..Script::good()
    };
    script.meet(PATIENCE, |met| assert_eq!(met.unwrap().read32(0x1C), 0));
}

#[test]
fn an_answer_that_comes_twice_ends_the_connection() {
    let script = Script {
        instead: Some((Command::DmaMap, Instead::Twice)),
        ..Script::good()
    };
    script.meet(PATIENCE, |met| {
        let backend = met.unwrap();
        let mut waiter = backend.waiter(0).unwrap();
        let _ = backend.allocate(4096);
        while backend.departure().is_none() {
            waiter.wait(Some(PATIENCE), &mut || backend.departure().is_some());
        }
        assert_eq!(backend.departure(), Some(Departure::Gone));
    });
}

#[test]
fn memory_that_is_refused_is_an_error_and_the_connection_goes_on() {
    let script = Script {
        instead: Some((Command::DmaMap, Instead::Error(12))),
        ..Script::good()
    };
    script.meet(PATIENCE, |met| {
        let backend = met.unwrap();
        let error = backend.allocate(4096).unwrap_err().to_string();
        assert!(error.contains("Cannot allocate memory"), "{error}");
        assert_eq!(backend.departure(), None);
    });
}

#[test]
fn functions_that_cannot_be_driven_are_refused_with_the_reason() {
    let info = RegionInfo {
        flags: RegionInfo::READ | RegionInfo::WRITE | RegionInfo::MMAP,
        size: 0x4000,
        ..RegionInfo::default()
    };
    let area = |offset, size| SparseArea { offset, size };
    let bar = |info, areas: &[SparseArea], files| Script {
        bar: Some((info, areas.to_vec(), files)),
        ..Script::good()
    };
    let device = |flags, num_regions| Script {
        device: Some(DeviceInfo {
            argsz: 16,
            flags,
            num_regions,
            num_irqs: 5,
        }),
        ..Script::good()
    };
    let capabilities = |capabilities| Script {
        capabilities: Some(capabilities),
        ..Script::good()
    };
    let irqs = |flags, count| Script {
        irqs: Some(IrqInfo {
            argsz: 16,
            flags,
            index: 2,
            count,
        }),
        ..Script::good()
    };
    let short = memfd_create("short", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&short, 0x1800).unwrap();
    for (script, reason) in [
        (
            Script {
                version: Version { major: 1, minor: 0 },
                ..Script::good()
            },
            "speaks version 1.0",
        ),
        (
            Script {
                version: Version { major: 0, minor: 9 },
                ..Script::good()
            },
            "speaks version 0.9",
        ),
        (
            capabilities(Capabilities {
                page_sizes: 1 << 21,
                ..Capabilities::default()
            }),
            "pages of 4 KiB",
        ),
        (
            capabilities(Capabilities {
                max_msg_fds: 0,
                ..Capabilities::default()
            }),
            "takes no descriptors",
        ),
        (device(0, 9), "not a PCI function"),
        (device(DeviceInfo::PCI, 7), "not a PCI function"),
        (
            Script {
                class: 0x02_00_00,
                ..Script::good()
            },
            "class 020000",
        ),
        (
            Script {
                msix_at: 0x40,
                ..Script::good()
            },
            "no MSI-X capability",
        ),
        (
            Script {
                msix_at: 0,
                ..Script::good()
            },
            "no MSI-X capability",
        ),
        (irqs(IrqInfo::EVENTFD, 0), "no MSI-X"),
        (irqs(0, 20), "no MSI-X"),
        (bar(RegionInfo { size: 0x1000, ..info }, &[], 1), "no doorbells"),
        (bar(info, &[area(0x2000, 0x1000)], 1), "cannot be mapped"),
        (bar(info, &[area(0x1000, 0)], 1), "cannot be mapped"),
        (
            bar(
                RegionInfo {
                    flags: RegionInfo::READ,
                    ..info
                },
                &[],
                0,
            ),
            "cannot be mapped",
        ),
        (bar(info, &[area(0x1000, 0x1000)], 0), "0 descriptors"),
        (bar(info, &[area(0x1000, 0x1000)], 3), "3 descriptors"),
        (bar(info, &[area(0x1000, 0x4000)], 1), "not made of pages"),
        (bar(info, &[area(0x1000, 0x800)], 1), "not made of pages"),
        (bar(info, &[area(0x1000, u64::MAX)], 1), "not made of pages"),
        (
            bar(
                RegionInfo {
                    offset: !4095,
                    ..info
                },
                &[area(0x1000, 0x1000)],
                1,
            ),
            "beyond the end",
        ),
        (
            Script {
                doorbells: Some(short),
                ..Script::good()
            },
            "shorter than the server says",
        ),
    ] {
        let error = script.refused();
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn one_descriptor_for_all_areas_and_one_for_each_are_both_taken() {
    let info = RegionInfo {
        flags: RegionInfo::READ | RegionInfo::WRITE | RegionInfo::MMAP,
        size: 0x4000,
        ..RegionInfo::default()
    };
    let areas = vec![
        SparseArea {
            offset: 0x3000,
            size: 0x1000,
        },
        SparseArea {
            offset: 0,
            size: 0x2000,
        },
    ];
    for files in [1, 2] {
        let script = Script {
            bar: Some((info, areas.clone(), files)),
            ..Script::good()
        };
        script.meet(PATIENCE, |met| met.unwrap().doorbell(0x1000).unwrap().ring(1));
    }
}

#[test]
fn more_descriptors_than_areas_are_closed_and_refused() {
    let script = Script {
        instead: Some((Command::DeviceGetRegionInfo, Instead::ManyDescriptors)),
        ..Script::good()
    };
    assert!(script.refused().contains("100 descriptors"));
}

#[test]
fn eventfds_are_sent_as_many_at_a_time_as_the_server_takes() {
    let script = Script {
        capabilities: Some(Capabilities {
            max_msg_fds: 8,
            ..Capabilities::default()
        }),
        ..Script::good()
    };
    script.meet(PATIENCE, |met| assert_eq!(met.unwrap().vectors(), 20));
    assert_eq!(script.vectors.load(Ordering::Relaxed), 20);
}
