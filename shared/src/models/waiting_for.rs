//! What an unfinished request waits for.

use serde::{Deserialize, Serialize};

/// Why a job, or a redelivery, is not done yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingFor {
    /// The reason, from a documented list to which words may be added.
    pub reason: WaitReason,
    /// One sentence for a person.
    pub detail: String,
    /// When it goes on at the earliest, if that is known: RFC 3339, UTC, with milliseconds.
    pub until: Option<String>,
}

/// The kind of thing that an unfinished job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// It is due, and waits for a free slot of a worker.
    Capacity,
    /// A worker works on it.
    Running,
    /// An operator has paused everything, or the callbacks to its receiver.
    Paused,
    /// An attempt failed, and the next one is scheduled.
    Retry,
    /// It is parked: its receiver is overloaded or down, or the worker lacked something.
    Receiver,
    /// No running worker serves its handler, the handler's circuit breaker is open, or the worker
    /// lacked something.
    Handler,
    /// It is a suspected poison job, and waits for as many slots as such a job takes.
    Quarantine,
    /// Its worker is silent: it is reclaimed when the lease ends.
    Lease,
}

impl WaitReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Capacity,
        Self::Running,
        Self::Paused,
        Self::Retry,
        Self::Receiver,
        Self::Handler,
        Self::Quarantine,
        Self::Lease,
    ];
}
