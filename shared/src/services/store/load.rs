//! The load: the jobs that are unfinished, and what the workers have done. Value types, no SQL.

use std::collections::HashMap;

use super::lease::OwnerId;

/// The unfinished jobs and the work that was done, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Unfinished async jobs: `PENDING` or `PROCESSING`. Redeliveries don't count.
    pub unfinished: usize,
    /// Those of them that wait for a worker and are due.
    pub waiting: usize,
    /// How many jobs each worker has ended since it registered, as of its last heartbeat.
    pub ended: HashMap<OwnerId, u64>,
}
