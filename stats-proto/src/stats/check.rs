use super::StatsDocument;

/// What does not fit together in a document that claims to be consistent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// Placeholder until the checks exist.
    #[error("queue {qid}: {what}")]
    Queue {
        /// The queue.
        qid: u16,
        /// What is wrong.
        what: String,
    },
}

impl StatsDocument {
    /// Checks the equations.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), Inconsistency> {
        todo!()
    }
}
