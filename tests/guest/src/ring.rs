//! A client of a ring: writes and reads blocks through memory that it shares with the driver, also by the addresses that the
//! device has for it, and asks for what it must not have.
//!
//! `nvme-guest-ring RING DATA` opens the ring `RING` (a file `N/ring` of a daemon) and looks at the blocks through `DATA`
//! (`N/data`). It prints how many bytes it moved; whatever is not as it should be ends it with a message and status 1.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::Arc;

use nvme_driver::dma::{RegisteredBuffer, SharedMemory};
use nvme_driver::ring::client::{Client, Settings};
use nvme_driver::ring::layout::{Entry, Place};

const BLOCK: usize = 512;
const LEN: usize = 64 << 10;
const BLOCKS: u32 = (LEN / BLOCK) as u32;
/// Not aligned to anything but what an entry asks for.
const SKEW: usize = 516;
const EFAULT: u32 = 14;

type Failure = Box<dyn std::error::Error>;

/// Whether an entry was done.
fn ask(ring: &mut Client, entry: &Entry) -> Result<u32, Failure> {
    ring.prepare(entry)?;
    ring.submit()?;
    Ok(ring.wait()?.errno)
}

fn done(ring: &mut Client, what: &str, entry: &Entry) -> Result<(), Failure> {
    match ask(ring, entry)? {
        0 => Ok(()),
        errno => Err(format!("{what}: errno {errno}").into()),
    }
}

fn pattern(seed: u8) -> Vec<u8> {
    (0..LEN).map(|byte| (byte % 253) as u8 ^ seed).collect()
}

/// What the blocks from `slba` on hold, as another client sees it.
fn compare(data: &File, slba: u64, wanted: &[u8]) -> Result<(), Failure> {
    let mut seen = vec![0; wanted.len()];
    data.read_exact_at(&mut seen, slba * BLOCK as u64)?;
    if seen == wanted {
        Ok(())
    } else {
        Err(format!("the blocks from {slba} on hold something else").into())
    }
}

fn run(ring: &str, data: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().read(true).write(true).open(ring)?;
    let data = File::open(data)?;
    let mut ring = Client::open(Box::new(file), Settings::default())?;
    // By their names.
    let from = ring.buffer(SKEW, LEN).ok_or("no room")?;
    let into = ring.buffer(SKEW + LEN, LEN).ok_or("no room")?;
    if !from.copy_in(0, &pattern(1)) {
        return Err("no room".into());
    }
    let entry = Entry::write(0, BLOCKS, ring.place_of(&from));
    done(&mut ring, "a write", &entry)?;
    compare(&data, 0, &pattern(1))?;
    let entry = Entry::read(0, BLOCKS, ring.place_of(&into));
    done(&mut ring, "a read", &entry)?;
    let mut seen = vec![0; LEN];
    if !into.copy_out(0, &mut seen) || seen != pattern(1) {
        return Err("what was read is not what was written".into());
    }
    // By the device's addresses, in memory that is registered now.
    let memory = Arc::new(SharedMemory::create(4 << 20)?);
    let registered = ring.register(1, &memory, true)?;
    let (runs, all) = ring.runs();
    let whole: u64 = runs.iter().map(|(_, len)| len).sum();
    if !all || whole != 4 << 20 {
        return Err(format!("not all of the memory has addresses: {runs:x?}").into());
    }
    let Some(&(address, len)) = runs.iter().find(|(_, len)| *len >= 2 * LEN as u64) else {
        return Err(format!("no run is long enough: {runs:x?}").into());
    };
    // Which part of the memory that is: what was before it in order.
    let before: u64 = runs
        .iter()
        .take_while(|run| run.0 != address)
        .map(|run| run.1)
        .sum();
    let at = before as usize + LEN;
    let buffer = RegisteredBuffer::new(registered, at, LEN).ok_or("no room")?;
    if !buffer.copy_in(0, &pattern(2)) {
        return Err("no room".into());
    }
    let physical = |address: u64| Place {
        buffer: 0,
        address: address | 1,
    };
    let entry = Entry::write(1000, BLOCKS, physical(address + LEN as u64));
    done(&mut ring, "a write by the device's address", &entry)?;
    compare(&data, 1000, &pattern(2))?;
    let entry = Entry::read(0, BLOCKS, physical(address + LEN as u64));
    done(&mut ring, "a read by the device's address", &entry)?;
    if !buffer.copy_out(0, &mut seen) || seen != pattern(1) {
        return Err("what was read by the device's address is not what was written".into());
    }
    // Before it, across its end, behind it, and nowhere.
    let end = address + len;
    for outside in [
        address.wrapping_sub(4096),
        end - LEN as u64 + 4,
        end,
        0,
        0x1000,
        !7,
    ] {
        if runs.iter().any(|run| (run.0..run.0 + run.1).contains(&outside)) && outside != end - LEN as u64 + 4
        {
            continue;
        }
        let errno = ask(&mut ring, &Entry::write(2000, BLOCKS, physical(outside)))?;
        if errno != EFAULT {
            return Err(format!("address {outside:#x}, which is not ours: errno {errno}").into());
        }
    }
    compare(&data, 2000, &vec![0; LEN])?;
    ring.unregister(1)?;
    match ask(&mut ring, &Entry::write(2000, BLOCKS, physical(address)))? {
        EFAULT => {}
        errno => return Err(format!("memory that was taken back: errno {errno}").into()),
    }
    println!("{}", 4 * LEN);
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ring, data] = arguments.as_slice() else {
        eprintln!("usage: nvme-guest-ring RING DATA");
        return ExitCode::from(2);
    };
    match run(ring, data) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
