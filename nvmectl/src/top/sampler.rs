//! Reading documents, each driver's on a thread of its own: one that hangs is in nobody's way.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use stats_proto::stats::StatsDocument;

use super::model::Absence;
use crate::error::Error;
use crate::snapshot;
use crate::tree::Tree;

/// Something that gives the tree of a driver, anew each time: the last one may have been of a driver that is gone.
pub type OpenTree = Box<dyn Fn() -> Result<Box<dyn Tree>, Error> + Send>;

/// What one driver answered.
pub struct Answer {
    /// Which driver.
    pub source: usize,
    /// Its document, or why there is none.
    pub document: Result<Box<StatsDocument>, Error>,
}

/// Threads that read.
pub struct Sampler {
    wishes: Vec<SyncSender<()>>,
    answers: Receiver<Answer>,
}

impl Sampler {
    /// A reader for each of `trees`. They end when this is dropped, except for those that hang, which the end of the
    /// process ends.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(trees: Vec<OpenTree>) -> Result<Self, Error> {
        let (answer, answers) = channel();
        let mut wishes = Vec::new();
        for (source, open) in trees.into_iter().enumerate() {
            // One wish at a time: nobody asks again before the answer.
            let (wish, heard) = sync_channel::<()>(1);
            let answer = answer.clone();
            thread::Builder::new()
                .name(format!("top-{source}"))
                .spawn(move || {
                    while heard.recv().is_ok() {
                        let document = read(&open);
                        if answer.send(Answer { source, document }).is_err() {
                            return;
                        }
                    }
                })?;
            wishes.push(wish);
        }
        Ok(Self { wishes, answers })
    }

    /// Has the driver `source` asked for a document.
    pub fn ask(&self, source: usize) {
        if let Some(wish) = self.wishes.get(source) {
            // Full only if it was asked before, which will be answered.
            let _ = wish.try_send(());
        }
    }

    /// The next answer, if one comes within `patience`.
    pub fn answer(&self, patience: Duration) -> Option<Answer> {
        match self.answers.recv_timeout(patience) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                // Every reader has panicked. The caller goes on at its own pace.
                thread::sleep(patience);
                None
            }
        }
    }
}

fn read(open: &OpenTree) -> Result<Box<StatsDocument>, Error> {
    let tree = open()?;
    snapshot::read(&*tree, &snapshot::path(None, false))
        .map(|(_, document)| Box::new(document))
        .map_err(|error| error.in_scheme(tree.scheme()))
}

/// What the screen says of a driver that gave no document.
pub fn absence(error: &Error) -> Absence {
    let state = match error {
        Error::Malformed { .. } => "unreadable",
        error if error.exit_code() == 3 => "refused",
        _ => "gone",
    };
    Absence {
        state,
        why: error.to_string(),
    }
}
