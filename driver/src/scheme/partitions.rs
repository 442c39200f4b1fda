//! The partition table of a namespace: read when somebody asks, kept until something may have changed it.

mod table;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::data::{Geometry, Volume};
use super::service::{Answer, Buffer, Finished, Hint, IoError, Op};
use super::{Errno, lock};

pub(crate) use table::{Partition, Table};
use table::{Step, TableReader};

/// Writes that come so near to an end of the namespace may have changed the table. A GPT of 1024 entries and
/// its header are smaller, also with blocks of 64 KiB.
const NEAR_BYTES: u64 = 1 << 20;

/// The most calls that wait for the table of one namespace.
const MAX_WAITING: usize = 4096;

/// What is done with the table: `EAGAIN` if the driver had no room to read it. A namespace that cannot be
/// read has no partitions.
type Then = Box<dyn FnOnce(Result<Arc<Table>, Errno>) + Send>;

/// The table of one namespace, as far as it is known.
#[derive(Default)]
pub(crate) struct Partitions {
    /// Writes far from the namespace's ends matter: the table is being read, or is in blocks there too.
    watching: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    /// The last reading failed, which has been said: who looks at the root again and again shall not fill the log.
    failed: bool,
    reading: Option<Reading>,
}

struct Known {
    table: Arc<Table>,
    /// A namespace that is resized or formatted differently has another table, and so may one that went and came back.
    geometry: Geometry,
}

/// What is being read, and for whom. Once something has changed the namespace what comes out is for those in
/// `waiting` only, who asked before; `later` may want another.
#[derive(Default)]
struct Reading {
    waiting: Vec<Then>,
    later: Vec<Then>,
    /// Something was written where a table may be.
    changed: bool,
    /// Something was written elsewhere: it matters if the table is in blocks there too.
    changed_elsewhere: bool,
}

impl Partitions {
    /// To be told of every change, of `bytes` from the namespace's start, when it has been made and before
    /// anybody is told: forgets the table if it may be another now.
    pub(crate) fn changed(&self, bytes: &Range<u64>, size_bytes: u64) {
        let near = bytes.start < NEAR_BYTES || bytes.end > size_bytes.saturating_sub(NEAR_BYTES);
        // Set before the first block is asked for: if it is not set, whoever reads will see the change.
        if !near && !self.watching.load(Ordering::SeqCst) {
            return;
        }
        let mut state = lock(&self.state);
        let State { known, reading, .. } = &mut *state;
        if near
            || known
                .as_ref()
                .is_some_and(|known| known.touches_far_blocks(bytes))
        {
            *known = None;
        }
        if let Some(reading) = reading {
            reading.changed |= near;
            reading.changed_elsewhere = true;
        }
    }

    /// Forgets the table.
    pub(crate) fn forget(&self) {
        self.changed(&(0..u64::MAX), 0);
    }
}

impl Known {
    fn touches_far_blocks(&self, bytes: &Range<u64>) -> bool {
        let block_bytes = u64::from(self.geometry.block_bytes());
        self.table.far_blocks.iter().any(|blocks| {
            let (start, end) = (blocks.start * block_bytes, blocks.end * block_bytes);
            bytes.start < end && start < bytes.end
        })
    }
}

/// Hands the table of `volume` to `then`: at once if it is known, otherwise when it has been read.
pub(crate) fn with_table(volume: &Arc<Volume>, then: Then) {
    let geometry = match volume.geometry() {
        Ok(geometry) => geometry,
        Err(errno) => return then(Err(errno)),
    };
    let answer = {
        let mut state = lock(&volume.partitions.state);
        let State { known, reading, .. } = &mut *state;
        match (reading, known) {
            (Some(reading), _) => {
                let line = match reading.changed_elsewhere {
                    true => &mut reading.later,
                    false => &mut reading.waiting,
                };
                if line.len() < MAX_WAITING {
                    return line.push(then);
                }
                Err(Errno::EAGAIN)
            }
            (None, Some(known)) if known.geometry == geometry => Ok(Arc::clone(&known.table)),
            (reading, _) => {
                *reading = Some(Reading {
                    waiting: vec![then],
                    ..Reading::default()
                });
                volume.partitions.watching.store(true, Ordering::SeqCst);
                drop(state);
                return read(volume, geometry);
            }
        }
    };
    then(answer);
}

/// Begins to read the table.
fn read(volume: &Arc<Volume>, geometry: Geometry) {
    match TableReader::new(geometry.blocks(), geometry.block_bytes()) {
        Some((reader, step)) => go_on(volume, geometry, reader, step),
        None => finish(volume, geometry, Ok(Table::default())),
    }
}

fn go_on(volume: &Arc<Volume>, geometry: Geometry, reader: TableReader, step: Step) {
    let (slba, blocks) = match step {
        Step::Read { slba, blocks } => (slba, blocks),
        Step::Done(table) => return finish(volume, geometry, Ok(table)),
    };
    let len_bytes = blocks.saturating_mul(geometry.block_bytes().into());
    let bytes = vec![0; usize::try_from(len_bytes).unwrap_or(0)];
    let arrived_ns = volume.now_ns();
    let sink = Arc::new(Out {
        volume: Arc::clone(volume),
        geometry,
        reader: Mutex::new(Some(reader)),
    });
    let buffer = Buffer::Heap { bytes, offset: 0 };
    volume.submit(
        Op::Read,
        Hint::default(),
        (slba, blocks),
        buffer,
        arrived_ns,
        sink,
    );
}

/// The reading has come to an end.
fn finish(volume: &Arc<Volume>, geometry: Geometry, result: Result<Table, IoError>) {
    let result = result.map(Arc::new);
    let (waiting, again, failed_before) = {
        let mut state = lock(&volume.partitions.state);
        let Some(mut reading) = state.reading.take() else {
            return;
        };
        let has_far_blocks = result.as_ref().is_ok_and(|table| !table.far_blocks.is_empty());
        let changed = reading.changed || reading.changed_elsewhere && has_far_blocks;
        let failed_before = std::mem::replace(&mut state.failed, result.is_err());
        if !changed {
            reading.waiting.append(&mut reading.later);
            // A failure is not kept: the next who asks has it tried again.
            state.known = result.as_ref().ok().map(|table| Known {
                table: Arc::clone(table),
                geometry,
            });
        }
        let again = !reading.later.is_empty();
        if again {
            state.reading = Some(Reading {
                waiting: reading.later,
                ..Reading::default()
            });
        }
        let watching = again || has_far_blocks;
        volume.partitions.watching.store(watching, Ordering::SeqCst);
        (reading.waiting, again, failed_before)
    };
    let answer = match result {
        Ok(table) => Ok(table),
        Err(IoError::Busy) => Err(Errno::EAGAIN),
        Err(error) => {
            if !failed_before {
                log::warn!(
                    "namespace {}: its partition table cannot be read: {error}",
                    volume.nsid()
                );
            }
            Ok(Arc::default())
        }
    };
    for then in waiting {
        then(answer.clone());
    }
    if again {
        match volume.geometry() {
            Ok(geometry) => read(volume, geometry),
            Err(_) => finish(volume, geometry, Err(IoError::NoNamespace)),
        }
    }
}

/// Blocks of the table on their way.
struct Out {
    volume: Arc<Volume>,
    geometry: Geometry,
    reader: Mutex<Option<TableReader>>,
}

impl Answer for Out {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        let Some(reader) = lock(&self.reader).take() else {
            return;
        };
        match (finished.result, finished.buffer) {
            (Ok(()), Buffer::Heap { bytes, .. }) => {
                let (reader, step) = reader.turn(&bytes);
                go_on(&self.volume, self.geometry, reader, step);
            }
            (Ok(()), _) => finish(&self.volume, self.geometry, Err(IoError::Lost)),
            (Err(error), _) => finish(&self.volume, self.geometry, Err(error)),
        }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if lock(&self.reader).take().is_some() {
            finish(&self.volume, self.geometry, Err(IoError::Lost));
        }
    }
}
