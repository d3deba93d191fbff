//! How a claim on a job ends.

use jiff::Timestamp;
use storm_shared::services::store::{AttemptRecord, Outcome};

/// What delivering a job came to. Settling writes it to the job's row and ends the claim.
pub(super) enum Settlement {
    /// The job is over, with the last attempt if one was made.
    Finish {
        attempt: Option<AttemptRecord>,
        outcome: Outcome,
    },
    /// The attempt failed. The job is `PENDING` until the next one is due.
    Retry {
        attempt: AttemptRecord,
        due: Timestamp,
    },
    /// No attempt was made, because the origin's circuit is open, its concurrency limit is reached,
    /// or this worker lacks what an attempt needs. The job is `PENDING` until `due`, and the retry
    /// schedule does not advance.
    Park { due: Timestamp },
    /// No attempt was made, because this worker lost its lease. There is nothing to write: the
    /// worker that expires the lease makes the row `PENDING`.
    GiveBack,
}
