//! What one client may take, and that it comes back.

use super::super::quota::Kept;
use super::super::service::IoError;
use super::*;

/// Opens as user `uid` until it fails; says how often it worked, and why no more.
fn open_all(desk: &Desk, uid: u32) -> (Vec<HandleId>, Errno) {
    let mut handles = Vec::new();
    loop {
        match desk.open_as("1/stats", OpenFlags::READ, Caller::new(uid, uid, 1)) {
            Ok(handle) => handles.push(handle),
            Err(errno) => return (handles, errno),
        }
    }
}

#[test]
fn a_user_has_so_many_handles_all_users_more_and_root_always_some() {
    let desk = Desk::new(&[(12, 8)]);
    let (first, why) = open_all(&desk, 1000);
    assert_eq!((first.len(), why), (USER_QUOTA.handles, Errno::EMFILE));
    let mut others = 0;
    for uid in 1001.. {
        let (handles, why) = open_all(&desk, uid);
        others += handles.len();
        if why == Errno::ENFILE {
            break;
        }
    }
    assert_eq!(first.len() + others, ALL_USERS_QUOTA.handles);
    let (of_root, why) = open_all(&desk, 0);
    assert_eq!(
        (of_root.len(), why),
        (MAX_HANDLES - ALL_USERS_QUOTA.handles, Errno::ENFILE)
    );
    assert_eq!(desk.scheme.open_handles(), MAX_HANDLES);

    desk.now(Call::Close { handle: first[0] }).unwrap();
    assert!(desk.open_as("1/stats", OpenFlags::READ, USER).is_ok());
    assert_eq!(desk.open_as("1/stats", OpenFlags::READ, USER), Err(Errno::EMFILE));
    for handle in of_root {
        desk.now(Call::Close { handle }).unwrap();
    }
    assert_eq!(
        desk.open_as("1/stats", OpenFlags::READ, Caller::new(5000, 0, 1)),
        Err(Errno::ENFILE),
        "what root does not use is root's"
    );
}

#[test]
fn root_cannot_take_what_is_the_users() {
    let desk = Desk::new(&[(12, 8)]);
    let (handles, why) = open_all(&desk, 0);
    assert_eq!((handles.len(), why), (ROOT_QUOTA.handles, Errno::EMFILE));
    assert_eq!(open_all(&desk, 1000).0.len(), USER_QUOTA.handles);
}

/// A disk that user 1000 may read, opened by him and by root.
fn desk() -> (Desk, HandleId, HandleId) {
    let disk = Ownership {
        mode: 0o600,
        uid: 1000,
        gid: 1000,
    };
    let fake = Fake::new(&[(12, 8192)]);
    let desk = Desk {
        scheme: Scheme::with_ownership(Arc::clone(&fake), disk),
        ..Desk::over(fake)
    };
    let of_user = desk.open_as("1", OpenFlags::READ_WRITE, USER).unwrap();
    let of_root = desk.open("1");
    (desk, of_user, of_root)
}

#[test]
fn calls_that_are_out_are_bounded_and_an_answer_makes_room() {
    let (desk, of_user, of_root) = desk();
    for _ in 0..USER_QUOTA.calls {
        desk.read(of_user, 0, 1);
    }
    assert_eq!(desk.scheme.outstanding_calls(), USER_QUOTA.calls);
    assert!(desk.take().is_empty());
    for call in [
        Call::Sync { handle: of_user },
        Call::Stat { handle: of_user },
        Call::Open {
            path: "1/stats".to_owned(),
            flags: OpenFlags::READ,
            caller: USER,
        },
    ] {
        assert_eq!(desk.now(call), Err(Errno::EAGAIN));
    }
    assert_eq!(desk.fake.out(), USER_QUOTA.calls, "nothing was done");
    // Nobody else notices.
    assert!(desk.now(Call::Stat { handle: of_root }).is_ok());
    assert!(
        desk.open_as("1/stats", OpenFlags::READ, Caller::new(1001, 0, 1))
            .is_ok()
    );
    desk.fake.complete(7);
    assert_eq!(desk.take().len(), 1);
    assert!(desk.now(Call::Stat { handle: of_user }).is_ok());
    // To close is always possible, and what is out is still answered and given back.
    desk.read(of_user, 0, 1);
    assert_eq!(desk.now(Call::Close { handle: of_user }), Ok(Reply::Done));
    desk.fake.complete_all();
    assert_eq!(desk.take().len(), USER_QUOTA.calls);
    assert_eq!(desk.scheme.outstanding_calls(), 0);
}

#[test]
fn bytes_that_are_out_are_bounded() {
    let (desk, of_user, _) = desk();
    let piece = MAX_TRANSFER_BYTES;
    for _ in 0..USER_QUOTA.bytes / piece {
        // More than is moved costs no more than what is.
        desk.read(of_user, 0, piece + 1);
    }
    assert_eq!(desk.read_now(of_user, 0, 1), Err(Errno::EAGAIN));
    assert_eq!(
        desk.now(Call::Write {
            handle: of_user,
            offset: 0,
            data: vec![1]
        }),
        Err(Errno::EAGAIN)
    );
    desk.call(Call::Sync { handle: of_user });
    desk.fake.answer(0, Err(IoError::Lost));
    assert_eq!(desk.take().len(), 1);
    desk.write(of_user, 1, &[1]);
    assert!(desk.take().is_empty(), "a failure makes room too");
    desk.fake.complete_all();
    desk.take();
    assert!(desk.scheme.clients.of_uid(1000).charge_call(piece).is_ok());
    assert_eq!(desk.scheme.outstanding_calls(), 0);
}

/// A server that calls once more from within an answer.
struct Chain {
    scheme: Arc<Scheme>,
    handle: HandleId,
}

impl Answers for Chain {
    fn answer(&self, id: u64, result: Outcome) {
        if result.is_ok() && id < 100_000 {
            let again: Arc<dyn Answers> = Arc::new(Self {
                scheme: Arc::clone(&self.scheme),
                handle: self.handle,
            });
            let call = Call::Read {
                handle: self.handle,
                offset: 0,
                buffer: vec![0; 10],
            };
            self.scheme.call(id + 100_000, call, &again);
        }
    }
}

#[test]
fn who_calls_from_within_an_answer_has_the_room_of_what_was_answered() {
    let (desk, of_user, _) = desk();
    let answers: Arc<dyn Answers> = Arc::new(Chain {
        scheme: Arc::clone(&desk.scheme),
        handle: of_user,
    });
    for id in 0..USER_QUOTA.calls as u64 {
        let call = Call::Read {
            handle: of_user,
            offset: 0,
            buffer: vec![0; 10],
        };
        desk.scheme.call(id, call, &answers);
    }
    for _ in 0..USER_QUOTA.calls {
        desk.fake.complete(0);
    }
    assert_eq!(desk.fake.out(), USER_QUOTA.calls, "each was followed by another");
    desk.fake.complete_all();
    assert_eq!(desk.scheme.outstanding_calls(), 0);
}

/// A client who keeps all that he may but `left` bytes, somewhere else.
fn keeps_all_but(desk: &Desk, uid: u32, left: usize) -> Kept {
    let mut kept = Kept::new(desk.scheme.clients.of_uid(uid));
    let all = match uid {
        0 => ROOT_QUOTA,
        _ => USER_QUOTA,
    };
    kept.set(all.kept_bytes - left).unwrap();
    kept
}

#[test]
fn what_handles_keep_for_their_readers_is_bounded_and_comes_back() {
    let desk = Desk::new(&[(12, 8)]);
    let elsewhere = keeps_all_but(&desk, USER.uid, 5000);
    let open = || {
        let flags = OpenFlags::READ;
        desk.open_as("controller/identify", flags, USER).unwrap()
    };
    let (first, second) = (open(), open());
    assert_eq!(desk.read_now(first, 0, 9).map(|it| it.len()), Ok(9));
    assert_eq!(desk.read_now(second, 0, 9), Err(Errno::EAGAIN));
    assert_eq!(
        desk.read_now(second, 9, 9),
        Err(Errno::EAGAIN),
        "nothing was kept"
    );
    for offset in [0, 9, 0] {
        assert_eq!(
            desk.read_now(first, offset, 9).map(|it| it.len()),
            Ok(9),
            "a new snapshot replaces the old one"
        );
    }
    let of_root = desk.open("controller/identify");
    assert!(desk.read_now(of_root, 0, 9).is_ok(), "nor is it others' loss");
    desk.now(Call::Close { handle: first }).unwrap();
    assert!(desk.read_now(second, 0, 9).is_ok());
    desk.now(Call::Close { handle: second }).unwrap();
    desk.now(Call::Close { handle: of_root }).unwrap();
    drop(elsewhere);
    assert!(desk.scheme.clients.are_idle());
}

#[test]
fn events_that_were_not_read_are_kept_at_their_readers_cost() {
    let desk = Desk::new(&[(12, 8)]);
    for number in 0..20 {
        desk.fake.events.push(super::events::failed(number));
    }
    let handle = desk.open_as("controller/events", OpenFlags::READ, USER).unwrap();
    let elsewhere = keeps_all_but(&desk, USER.uid, 300);
    assert_eq!(desk.read_now(handle, 0, 9), Err(Errno::EAGAIN));
    drop(elsewhere);
    let text = desk.read_now(handle, 0, 1 << 20).unwrap();
    assert!(text.len() > 300, "no event was lost");
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 20);
    let elsewhere = Kept::new(desk.scheme.clients.of_uid(USER.uid)).set(USER_QUOTA.kept_bytes);
    assert_eq!(elsewhere, Err(Errno::EAGAIN), "it costs something");
    desk.now(Call::Close { handle }).unwrap();
    assert!(desk.scheme.clients.are_idle());
}

#[test]
fn all_users_together_keep_no_more_than_theirs() {
    let desk = Desk::new(&[(12, 8)]);
    let users: Vec<Kept> = (1..=2).map(|uid| keeps_all_but(&desk, uid, 0)).collect();
    let mut third = Kept::new(desk.scheme.clients.of_uid(3));
    assert_eq!(third.set(1), Err(Errno::EAGAIN));
    let root = keeps_all_but(&desk, 0, 0);
    drop(users);
    assert_eq!(third.set(1), Ok(()));
    drop((third, root));
    assert!(desk.scheme.clients.are_idle());
}
