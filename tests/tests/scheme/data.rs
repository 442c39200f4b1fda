//! The block device: any offset, any length, many clients, against a model.

use fastrand::Rng;
use nvme_driver::embedded::Handle;

use super::*;

/// Bytes of a stripe: shares no divisor with a block.
const STRIPE_BYTES: usize = 337;
const WRITERS: usize = 4;
const DISK_BYTES: usize = 1 << 20;

/// Each writer owns every fourth stripe, so that nearly all blocks are shared by several: whatever one writes
/// must not undo what another has written beside it.
#[test]
fn writers_of_neighbouring_bytes_do_not_undo_each_other() {
    for (lba, zero_copy, seed) in [(512, true, 1), (4096, true, 2), (4096, false, 3)] {
        let config = Config {
            num_queues: 2,
            zero_copy,
            ..Config::default()
        };
        let driver = embedded::start(&format!("size={DISK_BYTES},lba={lba}"), &config).unwrap();
        let client = root(&driver);
        let written: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|number| {
                    let handle = client.open("1", OpenFlags::READ_WRITE).unwrap();
                    scope.spawn(move || {
                        write_stripes(&handle, number, Rng::with_seed(seed * 100 + number as u64))
                    })
                })
                .collect();
            writers
                .into_iter()
                .map(|writer| writer.join().expect("no writer finds a foreign byte"))
                .collect()
        });
        let mut disk = vec![0; DISK_BYTES];
        assert_eq!(
            client
                .open("1/data", OpenFlags::READ)
                .unwrap()
                .read_at(&mut disk, 0),
            Ok(DISK_BYTES)
        );
        for (at, byte) in disk.iter().enumerate() {
            let owner = at / STRIPE_BYTES % WRITERS;
            assert_eq!(
                *byte, written[owner][at],
                "seed {seed}, byte {at} of writer {owner}"
            );
        }
        driver.shutdown().unwrap();
    }
}

/// Writes and reads back parts of a writer's own stripes; returns what it has written, 0 where it has not.
fn write_stripes(handle: &Handle, number: usize, mut rng: Rng) -> Vec<u8> {
    let mut model = vec![0; DISK_BYTES];
    // Few stripes, so that the writers meet.
    let stripes = 40 * WRITERS;
    for _ in 0..400 {
        let stripe = rng.usize(0..stripes / WRITERS) * WRITERS + number;
        let start = stripe * STRIPE_BYTES + rng.usize(0..STRIPE_BYTES);
        let end = rng.usize(start..(stripe + 1) * STRIPE_BYTES) + 1;
        if rng.bool() {
            rng.fill(&mut model[start..end]);
            assert_eq!(handle.write_at(&model[start..end], start as u64), Ok(end - start));
        } else {
            let mut back = vec![0; end - start];
            assert_eq!(handle.read_at(&mut back, start as u64), Ok(end - start));
            assert_eq!(back, model[start..end], "writer {number} at {start}");
        }
    }
    model
}

/// What is out in a cell: where, and what it writes if it does.
type Out = (std::ops::Range<usize>, Option<Vec<u8>>);

/// Many requests of one handle at once, each in a cell of its own, from a byte to several transfers of the
/// device.
#[test]
fn one_handle_has_many_requests_out() {
    const CELLS: usize = 40;
    const CELL_BYTES: usize = 49_999;
    for (lba, seed) in [(512, 7), (4096, 8)] {
        let driver = start(&format!("size=4MiB,lba={lba},mdts=16KiB"));
        let handle = root(&driver).open("1", OpenFlags::READ_WRITE).unwrap();
        let (desk, mut rng) = (Desk::new(&driver), Rng::with_seed(seed));
        let mut model = vec![0_u8; CELLS * CELL_BYTES];
        let mut out: Vec<Option<Out>> = vec![None; CELLS];
        let mut left = 1500;
        loop {
            for (cell, out) in out.iter_mut().enumerate() {
                if left == 0 || out.is_some() {
                    continue;
                }
                left -= 1;
                let start = cell * CELL_BYTES + rng.usize(0..CELL_BYTES);
                let end = rng.usize(start..(cell + 1) * CELL_BYTES) + 1;
                let mut data = None;
                if rng.bool() {
                    let mut bytes = vec![0; end - start];
                    rng.fill(&mut bytes);
                    desk.write(cell as u64, handle.id(), start as u64, bytes.clone());
                    data = Some(bytes);
                } else {
                    desk.read(cell as u64, handle.id(), start as u64, end - start);
                }
                *out = Some((start..end, data));
            }
            if out.iter().all(Option::is_none) {
                break;
            }
            let (cell, outcome) = desk.next();
            let (bytes, data) = out[cell as usize].take().expect("asked once, answered once");
            match (outcome, data) {
                (Ok(Reply::Written { buffer, len }), Some(data)) => {
                    assert_eq!((len, &buffer), (bytes.len(), &data));
                    model[bytes].copy_from_slice(&data);
                }
                (Ok(Reply::Read { buffer, len }), None) => {
                    assert_eq!(len, bytes.len());
                    assert!(buffer == model[bytes.clone()], "seed {seed}, {bytes:?}");
                }
                (other, _) => panic!("{other:?}"),
            }
        }
        let mut disk = vec![0; model.len()];
        assert_eq!(handle.read_at(&mut disk, 0), Ok(model.len()));
        assert!(disk == model, "seed {seed}");
    }
}

#[test]
fn the_end_of_the_device_is_where_it_says() {
    let driver = start("size=1MiB,lba=512");
    let handle = root(&driver).open("1", OpenFlags::READ_WRITE).unwrap();
    let size = handle.stat().unwrap().size_bytes;
    assert_eq!(size, 1 << 20);
    assert_eq!(handle.write_at(&[9; 1000], size - 100), Ok(100));
    assert_eq!(handle.write_at(&[9; 1000], size), Err(Errno::ENOSPC));
    let mut back = [0; 1000];
    assert_eq!(handle.read_at(&mut back, size - 101), Ok(101));
    assert_eq!(back[..102], [[0].as_slice(), &[9; 100], &[0]].concat());
    assert_eq!(handle.read_at(&mut back, size), Ok(0));
    assert_eq!(handle.sync(), Ok(()));
}

#[test]
fn several_namespaces_are_several_devices() {
    let driver = start("size=1MiB,namespaces=3,lba=512/4096/512");
    let client = root(&driver);
    let handles: Vec<_> = (1..=3)
        .map(|nsid| {
            client
                .open(&format!("{nsid}/data"), OpenFlags::READ_WRITE)
                .unwrap()
        })
        .collect();
    for (number, handle) in (1_u8..).zip(&handles) {
        assert_eq!(handle.write_at(&[number; 5000], 333), Ok(5000));
    }
    for (number, handle) in (1_u8..).zip(&handles) {
        let mut back = [0; 5002];
        assert_eq!(handle.read_at(&mut back, 332), Ok(5002));
        assert!(back[0] == 0 && back[5001] == 0 && back[1..5001].iter().all(|byte| *byte == number));
    }
    assert_eq!(handles[1].stat().map(|stat| stat.block_bytes), Ok(4096));
}
