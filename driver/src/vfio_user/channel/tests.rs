//! Both ends of a socket pair.

use std::io::Write;
use std::os::unix::net::UnixStream;

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

fn pair(patience: Duration) -> (Channel, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Channel::new(ours.into(), patience), theirs)
}

#[test]
fn a_listener_that_takes_no_calls_is_not_waited_for_without_an_end() {
    let folder = std::env::temp_dir().join(format!("nvme-channel-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("full.sock");
    let _ = std::fs::remove_file(&path);
    assert_eq!(connect(&path, SHORT).unwrap_err(), Errno::NOENT);
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    // The one that may wait, and one too many.
    let first = connect(&path, PATIENCE).unwrap();
    assert_eq!(connect(&path, SHORT).unwrap_err(), Errno::AGAIN);
    let (taken, _) = listener.accept().unwrap();
    let ours = Channel::new(first, PATIENCE);
    ours.command(1, Command::DeviceReset, &[], &[]).unwrap();
    let theirs = Channel::new(taken.into(), PATIENCE);
    assert_eq!(theirs.receive(None, Others::default()).unwrap().header.id, 1);
    drop(listener);
    assert_eq!(connect(&path, SHORT).unwrap_err(), Errno::CONNREFUSED);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_message_arrives_with_its_descriptors() {
    let (ours, theirs) = pair(PATIENCE);
    let theirs = Channel::new(theirs.into(), PATIENCE);
    let memory = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    let many: Vec<_> = (0..MAX_MESSAGE_FDS).map(|_| memory.as_fd()).collect();
    ours.command(7, Command::DmaMap, &[5; 32], &many).unwrap();
    ours.command(8, Command::DeviceReset, &[], &[]).unwrap();
    let message = theirs.receive(None, Others::default()).unwrap();
    assert_eq!(message.header, Header::command(7, Command::DmaMap, 32));
    assert_eq!(
        (message.payload, message.descriptors.len()),
        (vec![5; 32], MAX_MESSAGE_FDS)
    );
    let flags = rustix::io::fcntl_getfd(&message.descriptors[0]).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    let message = theirs.receive(None, Others::default()).unwrap();
    assert_eq!((message.header.id, message.descriptors.len()), (8, 0));
    drop(ours);
    assert_eq!(
        theirs.receive(None, Others::default()).unwrap_err(),
        ChannelError::Closed
    );
}

#[test]
fn a_large_message_comes_through_a_small_socket() {
    let (ours, theirs) = pair(PATIENCE);
    let theirs = Channel::new(theirs.into(), PATIENCE);
    let payload: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| ours.command(1, Command::RegionWrite, &payload, &[]).unwrap());
        assert_eq!(theirs.receive(None, Others::default()).unwrap().payload, payload);
    });
}

#[test]
fn a_peer_that_stops_in_the_middle_or_takes_nothing_is_an_error() {
    let (ours, mut theirs) = pair(SHORT);
    assert_eq!(
        ours.receive(Some(SHORT), Others::default()).unwrap_err(),
        ChannelError::Silent(SHORT)
    );
    theirs.write_all(&[1, 0, 13]).unwrap();
    assert_eq!(
        ours.receive(None, Others::default()).unwrap_err(),
        ChannelError::Stalled(SHORT)
    );
    let sent = (0..100).try_for_each(|id| ours.command(id, Command::RegionWrite, &[0; 1 << 20], &[]));
    assert_eq!(sent, Err(ChannelError::Stalled(SHORT)));
}

#[test]
fn what_is_no_message_is_an_error() {
    for (bytes, error) in [
        (Header::default(), WireError::Size { bytes: 0 }),
        (
            Header {
                size: u32::MAX,
                ..Header::default()
            },
            WireError::Size { bytes: u32::MAX },
        ),
        (
            Header {
                size: 16,
                flags: 7,
                ..Header::default()
            },
            WireError::Type { flags: 7 },
        ),
    ] {
        let (ours, mut theirs) = pair(PATIENCE);
        theirs.write_all(bytes.as_bytes()).unwrap();
        assert_eq!(
            ours.receive(None, Others::default()).unwrap_err(),
            ChannelError::Wire(error)
        );
    }
}

#[test]
fn more_descriptors_than_a_message_has_are_an_error() {
    let (ours, theirs) = pair(PATIENCE);
    let memory = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    let many: Vec<_> = (0..=MAX_MESSAGE_FDS).map(|_| memory.as_fd()).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_MESSAGE_FDS + 1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
    let header = Header::command(1, Command::DeviceReset, 0);
    let bytes = [IoSlice::new(header.as_bytes())];
    sendmsg(&theirs, &bytes, &mut control, SendFlags::empty()).unwrap();
    assert_eq!(
        ours.receive(None, Others::default()).unwrap_err(),
        ChannelError::TooManyDescriptors
    );
}

#[test]
fn a_wait_ends_when_something_else_is_there() {
    let (ours, mut theirs) = pair(PATIENCE);
    let (stop, mut stopper) = UnixStream::pair().unwrap();
    let (aside, mut asider) = UnixStream::pair().unwrap();
    let others = Others {
        stop: Some(stop.as_fd()),
        aside: Some(aside.as_fd()),
    };
    asider.write_all(&[0]).unwrap();
    let elsewhere = |other| ChannelError::Elsewhere(other);
    assert_eq!(ours.receive(None, others).unwrap_err(), elsewhere(Other::Aside));
    // A message goes before that, but not before the stop.
    theirs
        .write_all(Header::command(1, Command::DeviceReset, 0).as_bytes())
        .unwrap();
    theirs
        .write_all(Header::command(2, Command::DeviceReset, 0).as_bytes())
        .unwrap();
    assert_eq!(ours.receive(None, others).unwrap().header.id, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| stopper.write_all(&[0]).unwrap());
        let told = Others {
            aside: None,
            ..others
        };
        ours.wait(PollFlags::empty(), None, told).unwrap();
        assert_eq!(ours.receive(None, others).unwrap_err(), elsewhere(Other::Stop));
    });
}
