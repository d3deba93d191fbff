//! Looking for work: which jobs are due. Value types, no SQL.

use std::time::Duration;

use super::job::Candidate;

/// Due jobs, and when the next one will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueJobs {
    /// Claimable jobs that have lost no claim, in the order in which they became due.
    pub due: Vec<Candidate>,
    /// The time until the next job that was claimed before becomes due. New jobs don't count: their
    /// notifications are on the way.
    pub next_due: Option<Duration>,
}
