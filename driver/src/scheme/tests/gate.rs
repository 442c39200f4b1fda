//! A server's gate: what passes when it is shut, and what it waits for.

use std::sync::mpsc::channel;
use std::time::Duration;

use super::super::gate::Gate;
use super::*;

/// Whoever waits so long is not woken.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// A gate, and the number of a disk that was opened through it.
fn open(desk: &Desk) -> (Arc<Gate>, HandleId) {
    let gate = Gate::new(Arc::clone(&desk.scheme));
    let (sender, answers) = channel();
    let call = Call::Open {
        path: "1".to_owned(),
        flags: OpenFlags::READ_WRITE,
        caller: ROOT,
    };
    gate.call(call, move |result| sender.send(result).unwrap());
    match answers.recv().unwrap() {
        Ok(Reply::Opened(handle)) => (gate, handle),
        other => panic!("{other:?}"),
    }
}

fn read(handle: HandleId) -> Call {
    Call::Read {
        handle,
        offset: 0,
        buffer: vec![0; 512],
    }
}

#[test]
fn behind_a_shut_gate_a_handle_can_only_be_closed() {
    let desk = Desk::new(&[(9, 8)]);
    let (gate, handle) = open(&desk);
    assert_eq!(gate.outstanding(), 0);
    assert_eq!(gate.shut(FOR_EVER), 0);
    let (sender, answers) = channel();
    for call in [
        read(handle),
        Call::Sync { handle },
        Call::Stat { handle },
        Call::Close { handle },
    ] {
        let sender = sender.clone();
        gate.call(call, move |result| sender.send(result).unwrap());
    }
    let answers: Vec<_> = answers.try_iter().collect();
    let refused = || Err(Errno::ESHUTDOWN);
    assert_eq!(answers, [refused(), refused(), refused(), Ok(Reply::Done)]);
    assert_eq!((gate.outstanding(), desk.scheme.open_handles()), (0, 0));
}

#[test]
fn it_waits_for_what_is_out_and_no_longer() {
    // Again and again, so that some of the answers come while it sleeps.
    for _ in 0..200 {
        let desk = Desk::new(&[(9, 8)]);
        let (gate, handle) = open(&desk);
        let (sender, answers) = channel();
        gate.call(read(handle), move |result| sender.send(result).unwrap());
        assert_eq!(gate.outstanding(), 1);
        assert_eq!(gate.shut(Duration::ZERO), 1, "the patience ends before the read");
        std::thread::scope(|scope| {
            let (sender, about_to_sleep) = channel();
            let gate = &gate;
            let shut = scope.spawn(move || {
                sender.send(()).unwrap();
                gate.shut(FOR_EVER)
            });
            about_to_sleep.recv().unwrap();
            std::thread::yield_now();
            assert!(answers.try_recv().is_err());
            assert!(desk.fake.complete(0));
            assert!(matches!(
                answers.recv().unwrap(),
                Ok(Reply::Read { len: 512, .. })
            ));
            assert_eq!(shut.join().unwrap(), 0);
        });
    }
}
