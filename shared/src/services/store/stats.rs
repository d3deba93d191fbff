//! Counts for operators. Value types, no SQL.

use serde::Serialize;

/// Where each count ends: a count of as many rows stands for that many or more.
pub const COUNTED: u32 = 1_000_000;

/// What is in the store. Its JSON is the output of `storm-api stats --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The store's id.
    pub store: String,
    /// The most rows that each count counts: [`COUNTED`].
    pub counted_up_to: u32,
    /// The requests.
    pub requests: RequestStats,
    /// The workers, in the order of their owner ids.
    pub workers: Vec<WorkerStats>,
    /// The destinations with the longest backlogs of scheduled and parked jobs, longest first.
    pub destinations: Vec<DestinationStats>,
    /// The database's files.
    pub files: FileStats,
}

/// Counts of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestStats {
    /// `PENDING` ones.
    pub pending: u32,
    /// The `PENDING` ones that a worker may claim now.
    pub due: u32,
    /// For how long the oldest of these, or of the redeliveries, has been due, in milliseconds.
    pub oldest_due_ms: Option<u64>,
    /// `PENDING` jobs that have lost a claim with its worker.
    pub suspects: u32,
    /// `PROCESSING` ones.
    pub processing: u32,
    /// `COMPLETED` ones.
    pub completed: u32,
    /// `FAILED` ones.
    pub failed: u32,
    /// Redeliveries in progress, of `COMPLETED` and `FAILED` ones.
    pub redeliveries: u32,
}

/// A worker process that has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerStats {
    /// Its owner id, as its log names it.
    pub owner: String,
    /// The time since its last heartbeat by the wall clock, in milliseconds. `None` if the row was
    /// edited by hand.
    pub heartbeat_age_ms: Option<u64>,
    /// The jobs and redeliveries that it holds.
    pub jobs: u32,
}

/// A destination with a backlog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DestinationStats {
    /// The client's name, if there are tokens.
    pub tenant: Option<String>,
    /// Scheme, host and port.
    pub origin: String,
    /// Jobs that wait for a retry or are parked.
    pub backlog: u32,
}

/// The sizes of the database's files, in bytes. Of a database on a server only the first is known:
/// the others are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileStats {
    /// The database.
    pub database_bytes: u64,
    /// The part of it in free pages, which are used again.
    pub free_bytes: u64,
    /// The write-ahead log.
    pub log_bytes: u64,
}
