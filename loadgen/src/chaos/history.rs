//! The history of a run: what clients were told, what receivers got, how rows moved, what was broken.
//!
//! One record a line (JSON), in the order in which they were written down; every time is the host's
//! clock. The checker judges by these alone, so a history that was kept can be judged again.
//!
//! Moves of one job stand in the order in which the database made them. The order of everything else
//! is told by its times.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storm_shared::models::{RequestId, Status};

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// What the run was set to, and promised: one in each kept history.
    Limits(Limits),
    /// A client was told something.
    Told(Told),
    /// A client looked at a job.
    Looked(Looked),
    /// A receiver got a callback.
    Received(Received),
    /// A row changed (the auditor's triggers wrote it down).
    Moved(Moved),
    /// A row as it stood at the end.
    Row(Row),
    /// The store's own record of something that went wrong with a job.
    Event(Event),
    /// A fault was done, and has passed.
    Fault(Fault),
    /// How large everything was at some moment.
    Footprint(Footprint),
}

/// What a run was set to, and what it may cost: the figures that the checker judges by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Callback attempts that a job has: one, and one for each of `CALLBACK_RETRY_DELAYS`.
    pub attempts: i64,
    /// `MAX_CLAIMS`: lost claims that condemn a job.
    pub max_claims: i64,
    /// The kinds of faults that the schedule promised.
    pub faults: Vec<String>,
    /// What the write-ahead log may hold once all is settled, bytes.
    pub log: u64,
    /// By how much Redis may be larger once all is settled than at the start, bytes.
    pub redis_growth: u64,
    /// What a process may grow by under a second load, beyond half of what it had, bytes.
    pub resident_growth: u64,
}

impl Limits {
    /// Limits with the sizes that a healthy run stays well below.
    pub fn new(attempts: i64, max_claims: i64, faults: Vec<String>) -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            attempts,
            max_claims,
            faults,
            log: 4 * MIB,
            redis_growth: 8 * MIB,
            resident_growth: 16 * MIB,
        }
    }
}

/// The answer to one `POST /async`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When the answer came.
    pub at: Timestamp,
    /// The name of the report that was asked for: one of its own for each request.
    pub report_name: String,
    /// How many records it has.
    pub records: u32,
    /// What was said.
    pub answer: Answer,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// `202`: this is the job from now on.
    Accepted(RequestId),
    /// Another status: there is no job, except after a `503`, whose commit may yet have happened.
    Refused(u16),
    /// No answer: there may be a job or not.
    Nothing(String),
}

/// The answer to one `GET /requests/{id}` with a 200 or a 404.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// When the request was sent.
    pub asked_at: Timestamp,
    /// When the answer came.
    pub at: Timestamp,
    /// Which job.
    pub id: RequestId,
    /// Its state; none for a `404`.
    pub status: Option<Status>,
}

/// One callback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// When its head and body had been read.
    pub at: Timestamp,
    /// Which job its body names.
    pub id: RequestId,
    /// SHA-256 of the body, hexadecimal.
    pub body_sha256: String,
    /// Whether the body is the very report that was ordered, for this id.
    pub right: bool,
    /// The status that was answered; none where the receiver hung or cut the connection.
    pub answered: Option<u16>,
}

/// One change of a row, as the database itself saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// When.
    pub at: Timestamp,
    /// Which job.
    pub id: RequestId,
    /// Before; none for the insert.
    pub before: Option<Held>,
    /// After.
    pub after: Held,
}

impl Moved {
    /// Whether this only ends the wait of a job that was put off, for its receiver has recovered: nobody
    /// holds it, and whoever knows may do so.
    pub fn is_unparking(&self) -> bool {
        let waits = self.after.status == Status::Pending && self.after.parks > 0;
        waits && self.before.as_ref() == Some(&self.after)
    }
}

/// The columns of a row that its moves are judged by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// `status`
    pub status: Status,
    /// `claim`: how often the row was claimed.
    pub claim: i64,
    /// `owner`: who holds it.
    pub owner: Option<String>,
    /// `attempts`: callback attempts with a known outcome.
    pub attempts: i64,
    /// `lost_claims`: claims whose worker died.
    pub lost_claims: i64,
    /// `result_payload`
    pub result: Option<String>,
    /// `parks`: how often it was put off for its receiver's sake.
    #[serde(default)]
    pub parks: i64,
}

/// A row at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// `id`
    pub id: RequestId,
    /// From `input_payload`.
    pub report_name: String,
    /// What the moves are judged by.
    pub held: Held,
    /// `failure_reason`
    pub failure_reason: Option<String>,
    /// `failure_detail`
    pub failure_detail: Option<String>,
    /// Whether it has a `callback_url`.
    pub called_back: bool,
    /// `completed_at`
    pub completed_at: Option<Timestamp>,
}

/// A row of the table `events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was recorded.
    pub at: Timestamp,
    /// Which job.
    pub id: RequestId,
    /// `claim_lost`, `given_back`, `attempt_failed`.
    pub event: String,
    /// The claim that it happened under.
    pub claim: i64,
    /// More, for people.
    pub detail: Option<String>,
}

/// Something that was broken on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When it was done.
    pub at: Timestamp,
    /// When it was undone, or had passed.
    pub healed_at: Timestamp,
    /// Its kind, as the schedule names it: `kill_worker`, `flushall`, …
    pub kind: String,
    /// Jobs accepted and not ended at the moment it was done.
    pub in_flight: u64,
}

/// Sizes at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// When.
    pub at: Timestamp,
    /// `start`, `storm`, `settled` (everything ended, healed and idle), `again` (after a second load).
    pub moment: String,
    /// The database file, bytes.
    pub database: u64,
    /// The write-ahead log, bytes.
    pub log: u64,
    /// Redis' `used_memory`, bytes.
    pub redis_memory: u64,
    /// Entries in the stream.
    pub redis_entries: u64,
    /// Resident memory of the api and of each worker, bytes.
    pub resident: Vec<(String, u64)>,
}
