//! Looking for work: which jobs are due. Value types, no SQL.

use std::time::Duration;

use jiff::Timestamp;

use super::job::Candidate;

/// Which due jobs to read.
#[derive(Clone, Copy, Debug)]
pub struct DueQuery {
    /// A job that was never claimed is left to its notification for this long after acceptance.
    pub notification_grace: Duration,
    /// The longest delay that a job can be scheduled with.
    pub longest_wait: Duration,
    /// The maximum number of jobs to return.
    pub limit: usize,
}

/// The result of a [`DueQuery`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueJobs {
    /// Claimable jobs. Scheduled jobs come before jobs that were never claimed; oldest first within
    /// each kind.
    pub due: Vec<Candidate>,
    /// When the next scheduled job becomes due.
    pub next_due: Option<Timestamp>,
}
