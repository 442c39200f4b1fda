//! The block device against a vector.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::super::fake::namespace;
use super::super::service::{Class, IoError, Op, Priority};
use super::*;

const SIZE: usize = 8 * 4096;

fn pattern() -> Vec<u8> {
    (0..SIZE).map(|at| (at % 251) as u8).collect()
}

fn desk() -> (Desk, HandleId) {
    let desk = Desk::new(&[(12, 8)]);
    desk.fake.fill(1, &pattern());
    let handle = desk.open("1/data");
    (desk, handle)
}

#[test]
fn a_read_at_any_offset_is_one_request_of_whole_blocks() {
    let (desk, handle) = desk();
    for (offset, len, blocks) in [
        (0, 4096, (0, 1)),
        (4096, 8192, (1, 2)),
        (4095, 2, (0, 2)),
        (5000, 1, (1, 1)),
    ] {
        desk.read(handle, offset, len);
        assert_eq!(
            std::mem::take(&mut *lock(&desk.fake.seen)),
            [(Op::Read, blocks.0, blocks.1)]
        );
        desk.fake.complete_all();
        match desk.one() {
            Some(Ok(Reply::Read { buffer, len: got })) => {
                assert_eq!((got, buffer.len()), (len, len));
                assert_eq!(buffer, pattern()[offset as usize..][..len]);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn at_the_end_a_read_is_short_and_then_empty() {
    let (desk, handle) = desk();
    desk.read(handle, SIZE as u64 - 10, 5000);
    desk.fake.complete_all();
    assert_eq!(desk.one().map(bytes), Some(Ok(pattern()[SIZE - 10..].to_vec())));
    for offset in [SIZE as u64, SIZE as u64 + 1, u64::MAX] {
        assert_eq!(desk.read_now(handle, offset, 5000), Ok(vec![]));
    }
    assert_eq!(desk.read_now(handle, 17, 0), Ok(vec![]), "nothing asked");
}

#[test]
fn at_the_end_a_write_is_short_and_then_there_is_no_space() {
    let (desk, handle) = desk();
    for (offset, fits) in [(SIZE - 10, 10), (SIZE - 4096, 4096)] {
        desk.write(handle, offset as u64, &[9; 5000]);
        desk.fake.complete_all();
        assert_eq!(desk.one().map(written), Some(Ok(fits)));
        assert_eq!(desk.fake.disk(1)[offset..], vec![9; fits]);
    }
    for offset in [SIZE as u64, u64::MAX] {
        assert_eq!(
            written(desk.now(Call::Write {
                handle,
                offset,
                data: vec![1]
            })),
            Err(Errno::ENOSPC)
        );
        assert_eq!(
            written(desk.now(Call::Write {
                handle,
                offset,
                data: vec![]
            })),
            Ok(0)
        );
    }
}

#[test]
fn a_long_write_reads_its_two_ends_only() {
    let (desk, handle) = desk();
    desk.write(handle, 1, &[9; 4 * 4096]);
    desk.fake.complete_all();
    assert_eq!(desk.one().map(written), Some(Ok(4 * 4096)));
    let seen = lock(&desk.fake.seen).clone();
    assert_eq!(
        seen,
        [
            (Op::Read, 0, 1),
            (Op::Read, 4, 1),
            (Op::Write { fua: false }, 0, 5)
        ]
    );
    let mut wanted = pattern();
    wanted[1..=4 * 4096].fill(9);
    assert_eq!(desk.fake.disk(1), wanted);
}

#[test]
fn whole_blocks_are_written_without_reading_and_their_buffer_comes_back() {
    let (desk, handle) = desk();
    let data = vec![9; 8192];
    let address = data.as_ptr();
    desk.call(Call::Write {
        handle,
        offset: 4096,
        data,
    });
    desk.fake.complete_all();
    assert!(
        matches!(desk.one(), Some(Ok(Reply::Written { buffer, len: 8192 })) if buffer.as_ptr() == address)
    );
    assert_eq!(*lock(&desk.fake.seen), [(Op::Write { fua: false }, 1, 2)]);
}

#[test]
fn sync_is_a_flush_of_the_namespace() {
    let (desk, handle) = desk();
    desk.call(Call::Sync { handle });
    desk.fake.complete_all();
    assert_eq!(desk.one(), Some(Ok(Reply::Done)));
    assert_eq!(*lock(&desk.fake.seen), [(Op::Flush, 0, 0)]);
    desk.call(Call::Sync { handle });
    desk.fake.answer(0, Err(IoError::Lost));
    assert_eq!(desk.one(), Some(Err(Errno::ENODEV)));
}

#[test]
fn class_and_deadline_of_the_handle_go_with_every_request() {
    let (desk, plain) = desk();
    let urgent = desk
        .open_as("1/data?deadline_us=500&prio=high", OpenFlags::READ_WRITE, ROOT)
        .unwrap();
    let class = Class {
        priority: Priority::High,
        deadline_us: std::num::NonZeroU32::new(500),
    };
    for (handle, class) in [(urgent, class), (plain, Class::default())] {
        lock(&desk.fake.hints).clear();
        desk.read(handle, 1, 10);
        desk.write(handle, 1, &[1; 10]);
        desk.call(Call::Sync { handle });
        desk.fake.complete_all();
        desk.call(Call::Zero {
            handle,
            offset: 1,
            len_bytes: 4096,
            deallocate: true,
        });
        desk.fake.complete_all();
        assert_eq!(desk.take().len(), 4);
        let hints = std::mem::take(&mut *lock(&desk.fake.hints));
        // A read, a read and a write, a flush, a read and a write.
        assert_eq!(hints.len(), 6);
        for hint in hints {
            assert_eq!((hint.class, hint.client), (class, handle.0));
        }
    }
    assert_eq!(desk.open_as("1?prio=", OpenFlags::READ, ROOT), Err(Errno::EINVAL));
}

#[test]
fn a_call_moves_a_bounded_number_of_bytes() {
    let desk = Desk::new(&[(12, 8192)]);
    let handle = desk.open("1");
    let (all, some) = (MAX_TRANSFER_BYTES + 5000, MAX_TRANSFER_BYTES);
    desk.read(handle, 0, all);
    desk.fake.complete_all();
    assert!(
        matches!(desk.one(), Some(Ok(Reply::Read { buffer, len })) if len == some && buffer.len() == all)
    );
    desk.write(handle, 0, &vec![1; all]);
    desk.fake.complete_all();
    assert_eq!(desk.one().map(written), Some(Ok(some)));
    assert!(desk.fake.disk(1)[some..].iter().all(|byte| *byte == 0));
}

#[test]
fn where_the_queue_is_full_nothing_is_done_and_the_client_may_try_again() {
    let (desk, handle) = desk();
    desk.fake.busy.store(true, Ordering::Relaxed);
    assert_eq!(desk.read_now(handle, 0, 4096), Err(Errno::EAGAIN));
    assert_eq!(
        desk.now(Call::Write {
            handle,
            offset: 5,
            data: vec![1; 10]
        }),
        Err(Errno::EAGAIN)
    );
    assert_eq!(desk.now(Call::Sync { handle }), Err(Errno::EAGAIN));
    desk.fake.busy.store(false, Ordering::Relaxed);
    // The second step of a write finds no room: nothing was written, and its blocks are free again.
    desk.write(handle, 5, &[1; 10]);
    desk.fake.busy.store(true, Ordering::Relaxed);
    desk.fake.complete_all();
    assert_eq!(desk.one(), Some(Err(Errno::EAGAIN)));
    assert_eq!(desk.fake.disk(1), pattern());
    desk.fake.busy.store(false, Ordering::Relaxed);
    desk.write(handle, 5, &[1; 10]);
    desk.fake.complete_all();
    assert_eq!(desk.one().map(written), Some(Ok(10)));
}

#[test]
fn a_failed_step_fails_the_write_and_frees_its_blocks() {
    let (desk, handle) = desk();
    for steps in 0..3 {
        desk.write(handle, 1, &[9; 4 * 4096]);
        for _ in 0..steps {
            desk.fake.complete(0);
        }
        desk.fake
            .answer(0, Err(IoError::Status(nvme_spec::Status::UNRECOVERED_READ_ERROR)));
        assert_eq!(desk.one(), Some(Err(Errno::EIO)), "after {steps} steps");
        assert_eq!(desk.fake.disk(1), pattern());
        assert_eq!(desk.fake.out(), 0);
    }
    desk.write(handle, 1, &[9; 4 * 4096]);
    desk.fake.complete_all();
    assert_eq!(desk.one().map(written), Some(Ok(4 * 4096)));
}

/// Every writer of the block waits for the one before it. When they all fail at once nothing may nest.
#[test]
fn a_thousand_waiting_writers_do_not_use_up_the_stack() {
    let body = || {
        let (desk, handle) = desk();
        let other = desk.open("1");
        for at in 0..1000 {
            desk.write(if at % 2 == 0 { handle } else { other }, at, &[1]);
        }
        assert_eq!(desk.fake.out(), 1, "the others wait");
        desk.fake.busy.store(true, Ordering::Relaxed);
        desk.fake.answer(0, Err(IoError::Lost));
        let answers = desk.take();
        assert_eq!(answers.len(), 1000);
        assert!(
            answers.iter().map(|(id, _)| *id).is_sorted(),
            "first come, first served"
        );
    };
    let thread = std::thread::Builder::new()
        .stack_size(128 << 10)
        .spawn(body)
        .unwrap();
    thread.join().unwrap();
}

#[test]
fn too_many_waiting_writers_are_told_to_try_again() {
    let (desk, handle) = desk();
    for at in 0..1100 {
        desk.write(handle, at, &[1]);
    }
    let refused = desk.take();
    assert_eq!(refused.len(), 1100 - 1 - 1024);
    assert!(refused.iter().all(|(_, outcome)| *outcome == Err(Errno::EAGAIN)));
    desk.fake.complete_all();
    assert_eq!(desk.take().len(), 1025);
}

#[test]
fn a_namespace_that_shrinks_under_a_handle_ends_earlier() {
    let (desk, handle) = desk();
    desk.fake.set_namespaces(vec![namespace(1, 12, 2)]);
    assert_eq!(desk.read_now(handle, 8192, 10), Ok(vec![]));
    desk.read(handle, 8190, 10);
    desk.fake.complete_all();
    assert_eq!(desk.one().map(bytes), Some(Ok(pattern()[8190..8192].to_vec())));
}

#[derive(Clone, Debug)]
enum Step {
    Read { offset: usize, len: usize },
    Write { offset: usize, len: usize },
    Complete { which: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Many short ones in few blocks, so that they meet; some of whole blocks; some over the end.
    let place = prop_oneof![
        3 => (0_usize..3 * 4096, 1_usize..6000),
        2 => (0_usize..9, 1_usize..4).prop_map(|(block, blocks)| (block * 4096, blocks * 4096)),
        1 => (0..SIZE + 10, 0_usize..20_000),
    ];
    let step = prop_oneof![
        2 => place.clone().prop_map(|(offset, len)| Step::Read { offset, len }),
        3 => place.prop_map(|(offset, len)| Step::Write { offset, len }),
        4 => any::<usize>().prop_map(|which| Step::Complete { which }),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// Any number of overlapping reads and writes, completed in any order: when a write is answered its bytes
    /// are on the disk and no other byte changed, and a read shows the disk as it is when it is answered.
    #[test]
    fn concurrent_reads_and_writes_are_those_of_a_vector(steps in steps()) {
        let (desk, handle) = desk();
        let other = desk.open("1");
        let mut model = pattern();
        let mut calls: Vec<(usize, usize, Option<u8>)> = Vec::new();
        // Each write takes at most three requests.
        let finish = (0..360).map(|which| Step::Complete { which: which * 7 });
        for step in steps.into_iter().chain(finish) {
            let number = calls.len();
            let handle = if number.is_multiple_of(2) { handle } else { other };
            match step {
                Step::Read { offset, len } => {
                    calls.push((offset, len, None));
                    desk.read(handle, offset as u64, len);
                }
                Step::Write { offset, len } => {
                    let value = number as u8;
                    calls.push((offset, len, Some(value)));
                    desk.write(handle, offset as u64, &vec![value; len]);
                }
                Step::Complete { which } => {
                    desk.fake.complete(which);
                }
            }
            for (id, outcome) in desk.take() {
                // The two opens were calls too.
                let (offset, len, value) = calls[id as usize - 2];
                let end = (offset + len).min(SIZE);
                let fits = end.saturating_sub(offset);
                match value {
                    None => prop_assert_eq!(bytes(outcome), Ok(model.get(offset..end).unwrap_or(&[]).to_vec())),
                    Some(_) if len > 0 && fits == 0 => prop_assert_eq!(written(outcome), Err(Errno::ENOSPC)),
                    Some(value) => {
                        prop_assert_eq!(written(outcome), Ok(fits));
                        if fits > 0 {
                            model[offset..end].fill(value);
                        }
                    }
                }
            }
        }
        prop_assert_eq!(desk.fake.out(), 0);
        prop_assert_eq!(desk.fake.disk(1), model);
    }
}
