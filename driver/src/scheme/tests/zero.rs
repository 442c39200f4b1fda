//! Bytes that are to read as zeroes, with what each controller has for it.

use nvme_spec::Status;
use nvme_spec::identify::Oncs;
use proptest::prelude::*;

use super::super::service::{IoError, Op};
use super::*;

const SIZE: usize = 8 * 4096;

/// One namespace of eight blocks, none of whose bytes are 0, on a controller with `oncs`.
fn desk(oncs: Oncs) -> (Desk, HandleId) {
    let mut identify = [0; 4096];
    identify[520..522].copy_from_slice(&u16::from(oncs).to_le_bytes());
    let desk = Desk::over(Fake::with(&[(12, 8)], identify, 1 << 20));
    desk.fake.fill(1, &[7; SIZE]);
    let handle = desk.open("1");
    (desk, handle)
}

fn all() -> Oncs {
    Oncs::new().with_write_zeroes(true).with_dataset_management(true)
}

fn zero(desk: &Desk, handle: HandleId, offset: u64, len_bytes: u64, deallocate: bool) -> u64 {
    desk.call(Call::Zero {
        handle,
        offset,
        len_bytes,
        deallocate,
    })
}

fn seen(desk: &Desk) -> Vec<(Op, u64, u64)> {
    std::mem::take(&mut *lock(&desk.fake.seen))
}

#[test]
fn whole_blocks_are_zeroed_by_commands_and_only_those_promise_zeroes() {
    let (desk, handle) = desk(all());
    zero(&desk, handle, 4096, 8192, false);
    desk.fake.complete_all();
    assert_eq!(desk.one(), Some(Ok(Reply::Done)));
    assert_eq!(seen(&desk), [(Op::WriteZeroes { deallocate: false }, 1, 2)]);

    zero(&desk, handle, 8192, 8192, true);
    desk.fake.complete_all();
    assert_eq!(desk.one(), Some(Ok(Reply::Done)));
    // The namespace does not say that Write Zeroes may deallocate (DLFEAT).
    assert_eq!(
        seen(&desk),
        [
            (Op::Deallocate, 2, 2),
            (Op::WriteZeroes { deallocate: false }, 2, 2)
        ]
    );
    let mut wanted = vec![7; SIZE];
    wanted[4096..16384].fill(0);
    assert_eq!(desk.fake.disk(1), wanted);
}

#[test]
fn write_zeroes_deallocates_where_the_namespace_says_that_it_can() {
    let (desk, handle) = desk(Oncs::new().with_write_zeroes(true));
    let mut namespace = super::super::fake::namespace(1, 12, 8);
    namespace.identify[33] = 0b1001;
    desk.fake.set_namespaces(vec![namespace]);
    for deallocate in [true, false] {
        zero(&desk, handle, 0, 4096, deallocate);
        desk.fake.complete_all();
        assert_eq!(desk.one(), Some(Ok(Reply::Done)));
        assert_eq!(seen(&desk), [(Op::WriteZeroes { deallocate }, 0, 1)]);
    }
}

#[test]
fn a_controller_without_write_zeroes_is_written_to_in_pieces() {
    let desk = Desk::new(&[(12, 1024)]);
    desk.fake.fill(1, &[7; 1024 * 4096]);
    let handle = desk.open("1");
    zero(&desk, handle, 4096, 600 * 4096, false);
    while desk.fake.out() > 0 {
        assert_eq!(desk.fake.out(), 1, "one piece at a time");
        desk.fake.complete(0);
    }
    assert_eq!(desk.one(), Some(Ok(Reply::Done)));
    let write = Op::Write { fua: false };
    assert_eq!(
        seen(&desk),
        [(write, 1, 256), (write, 257, 256), (write, 513, 88)]
    );
    let disk = desk.fake.disk(1);
    assert!(
        disk.iter()
            .enumerate()
            .all(|(at, byte)| (*byte == 0) == (4096..601 * 4096).contains(&at))
    );
}

#[test]
fn a_hint_that_is_refused_does_not_keep_the_zeroes_away() {
    let (desk, handle) = desk(all());
    zero(&desk, handle, 0, 4096, true);
    desk.fake.answer(0, Err(IoError::Status(Status::INVALID_OPCODE)));
    desk.fake.complete_all();
    assert_eq!(desk.one(), Some(Ok(Reply::Done)));
    assert_eq!(desk.fake.disk(1)[..4096], [0; 4096]);
    // But a controller that is gone is gone.
    zero(&desk, handle, 0, 4096, true);
    desk.fake.answer(0, Err(IoError::Lost));
    assert_eq!(desk.one(), Some(Err(Errno::ENODEV)));
    assert_eq!(desk.fake.out(), 0);
    // Every step can fail, and none leaves its blocks locked.
    for steps in 0..6 {
        zero(&desk, handle, 10, 3 * 4096, true);
        for _ in 0..steps {
            desk.fake.complete(0);
        }
        desk.fake.answer(0, Err(IoError::Lost));
        assert_eq!(desk.one(), Some(Err(Errno::ENODEV)), "after {steps}");
        assert_eq!(desk.fake.out(), 0);
    }
    desk.write(handle, 5, &[1; 20_000]);
    desk.fake.complete_all();
    assert_eq!(desk.one().map(written), Some(Ok(20_000)));
}

#[test]
fn ends_are_those_of_fallocate() {
    let (desk, handle) = desk(all());
    let size = SIZE as u64;
    for (offset, len_bytes) in [
        (0, 0),
        (size, 1),
        (size + 1, 5),
        (u64::MAX, u64::MAX),
        (size, u64::MAX),
    ] {
        zero(&desk, handle, offset, len_bytes, true);
        assert_eq!(
            desk.one(),
            Some(Err(Errno::EINVAL)),
            "{len_bytes} bytes from {offset}"
        );
    }
    zero(&desk, handle, size - 4100, u64::MAX, false);
    desk.fake.complete_all();
    assert_eq!(desk.one(), Some(Ok(Reply::Done)));
    let mut wanted = vec![7; SIZE];
    wanted[SIZE - 4100..].fill(0);
    assert_eq!(desk.fake.disk(1), wanted);
}

#[test]
fn only_a_block_device_that_is_open_to_write_is_zeroed() {
    let (desk, _) = desk(all());
    let reader = desk.open_as("1", OpenFlags::READ, ROOT).unwrap();
    let document = desk.open("1/stats");
    let admin = desk.open("controller/admin");
    for (handle, errno) in [
        (reader, Errno::EBADF),
        (document, Errno::EBADF),
        (HandleId(99), Errno::EBADF),
        (admin, Errno::EOPNOTSUPP),
    ] {
        zero(&desk, handle, 0, 4096, false);
        assert_eq!(desk.one(), Some(Err(errno)));
    }
    assert_eq!(desk.fake.out(), 0);
}

#[test]
fn only_the_piece_at_hand_keeps_writers_out() {
    let (desk, handle) = desk(all());
    // Its first and its last block are changed in part: nobody else may write there meanwhile, not even the
    // whole of it.
    zero(&desk, handle, 1, 4 * 4096, false);
    desk.write(handle, 0, &[9; 4096]);
    assert_eq!(desk.fake.out(), 1, "the first block is being changed");
    desk.write(handle, 2 * 4096, &[8; 4096]);
    desk.write(handle, 6 * 4096 + 1, &[8; 5]);
    assert_eq!(desk.fake.out(), 3, "the others are free");
    desk.fake.complete_all();
    assert_eq!(desk.take().len(), 4);
    let mut wanted = vec![7; SIZE];
    wanted[..4096].fill(9);
    wanted[4096..=4 * 4096].fill(0);
    wanted[6 * 4096 + 1..][..5].fill(8);
    assert_eq!(desk.fake.disk(1), wanted);
}

/// A disk of ten pieces on a controller that has to be written to.
fn large() -> (Desk, HandleId) {
    let desk = Desk::new(&[(12, 10 * 256)]);
    desk.fake.fill(1, &[7; 10 << 20]);
    let handle = desk.open("1");
    (desk, handle)
}

/// Bytes from the start that are zeroes.
fn zeroed_bytes(desk: &Desk) -> usize {
    let disk = desk.fake.disk(1);
    disk.iter().take_while(|byte| **byte == 0).count()
}

#[test]
fn a_zeroing_ends_at_its_next_piece_if_somebody_says_so() {
    type End = fn(&Desk, HandleId);
    let ends: [(&str, End); 3] = [
        ("the handle is woken", |desk, handle| {
            assert_eq!(desk.now(Call::Wake { handle }), Ok(Reply::Done));
        }),
        ("all are woken", |desk, _| desk.scheme.wake_readers()),
        ("the handle is closed", |desk, handle| {
            assert_eq!(desk.now(Call::Close { handle }), Ok(Reply::Done));
        }),
    ];
    for (why, end) in ends {
        let (desk, handle) = large();
        zero(&desk, handle, 0, u64::MAX, false);
        desk.fake.complete(0);
        end(&desk, handle);
        assert_eq!(desk.one(), None, "{why}: a piece is with the device");
        desk.fake.complete(0);
        assert_eq!(desk.one(), Some(Err(Errno::EINTR)), "{why}");
        assert_eq!((desk.fake.out(), zeroed_bytes(&desk)), (0, 2 << 20), "{why}");
        // It was for those who asked before, and no lock was left behind.
        let handle = desk.open("1");
        zero(&desk, handle, 0, u64::MAX, false);
        desk.fake.complete_all();
        assert_eq!(
            (desk.one(), zeroed_bytes(&desk)),
            (Some(Ok(Reply::Done)), 10 << 20)
        );
        assert_eq!(desk.scheme.outstanding_calls(), 0);
    }
}

#[test]
fn the_last_piece_is_not_interrupted_and_other_handles_are_not() {
    let (desk, handle) = large();
    let other = desk.open("1");
    zero(&desk, handle, 9 << 20, 1 << 20, false);
    zero(&desk, other, 0, 2 << 20, false);
    assert_eq!(desk.now(Call::Wake { handle }), Ok(Reply::Done));
    desk.fake.complete_all();
    let outcomes: Vec<_> = desk.take().into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes, [Ok(Reply::Done), Ok(Reply::Done)]);
}

#[test]
fn a_zeroing_that_waits_for_its_blocks_is_ended_when_they_are_free() {
    let (desk, handle) = large();
    let writer = desk.open("1");
    desk.write(writer, 1, &[9; 1]);
    zero(&desk, handle, 0, 4096, false);
    desk.now(Call::Close { handle }).unwrap();
    desk.fake.complete_all();
    let outcomes: Vec<_> = desk.take().into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes[1], Err(Errno::EINTR));
    assert_eq!(desk.fake.disk(1)[..3], [7, 9, 7], "nothing was zeroed");
}

#[test]
fn a_namespace_that_is_formatted_meanwhile_is_not_zeroed_elsewhere() {
    let (desk, handle) = large();
    zero(&desk, handle, 0, 4 << 20, false);
    desk.fake.complete(0);
    // The piece that is out is inside in either shape.
    desk.fake
        .set_namespaces(vec![super::super::fake::namespace(1, 11, 20 * 256)]);
    desk.fake.complete(0);
    assert_eq!(desk.one(), Some(Err(Errno::ENODEV)));
    assert_eq!(desk.fake.out(), 0);
    desk.fake.set_namespaces(vec![]);
    zero(&desk, handle, 0, 4096, false);
    assert_eq!(desk.one(), Some(Err(Errno::ENODEV)));
}

#[test]
fn however_many_wait_what_has_begun_is_not_refused() {
    let (desk, handle) = large();
    let writer = desk.open("1");
    // Behind the first piece, which is out, everybody wants the beginning of the second.
    zero(&desk, handle, 0, 2 << 20, false);
    let writes = (0..).take_while(|_| {
        desk.write(writer, (1 << 20) + 1, &[9; 1]);
        desk.one().is_none()
    });
    assert_eq!(
        writes.count(),
        1025,
        "one is out and the others wait, but no more"
    );
    desk.fake.complete_all();
    let answers = desk.take();
    assert_eq!(answers.len(), 1026);
    assert!(answers.iter().all(|(_, outcome)| outcome.is_ok()));
}

proptest! {
    #[test]
    fn exactly_the_bytes_asked_for_become_zero(
        offset in 0..SIZE,
        len in prop_oneof![1_usize..9000, 1..SIZE + 10],
        aligned: bool,
        deallocate: bool,
        bits in 0_u16..16,
    ) {
        // Write Zeroes and Dataset Management, in all combinations.
        let (desk, handle) = desk(Oncs::from(bits & 0b1100));
        let offset = if aligned { offset & !4095 } else { offset };
        zero(&desk, handle, offset as u64, len as u64, deallocate);
        desk.fake.complete_all();
        prop_assert_eq!(desk.one(), Some(Ok(Reply::Done)));
        let mut wanted = vec![7; SIZE];
        wanted[offset..(offset + len).min(SIZE)].fill(0);
        prop_assert_eq!(desk.fake.disk(1), wanted);
    }
}
