//! What one client may take, and that it comes back.

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
