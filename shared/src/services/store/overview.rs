//! What the live page shows of the workers and of backlogs. Value types, no SQL.

use super::stats::DestinationStats;
use crate::models::WorkerReport;

/// The workers and the backlogs at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// The workers, in the order of their owner ids: up to [`Overview::WORKERS`].
    pub workers: Vec<WorkerSeen>,
    /// The destinations with the longest backlogs of scheduled and parked jobs, longest first: up
    /// to [`Overview::DESTINATIONS`]. Only [`Overview::COUNTED`] of these jobs are counted, so that
    /// the read is quick.
    pub destinations: Vec<DestinationStats>,
}

/// A worker process that has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSeen {
    /// Its owner id, as its log and its `/healthz` name it.
    pub owner: String,
    /// The time since its last heartbeat by the wall clock, in milliseconds. `None` if the row was
    /// edited by hand.
    pub heartbeat_age_ms: Option<u64>,
    /// What it says of itself. `None` if it does not, or in a form that this release does not know.
    pub report: Option<WorkerReport>,
}

impl Overview {
    /// The most workers.
    pub const WORKERS: u32 = 256;

    /// The most destinations.
    pub const DESTINATIONS: u32 = 50;

    /// The most scheduled and parked jobs of each kind that are counted.
    pub const COUNTED: u32 = 10_000;
}
