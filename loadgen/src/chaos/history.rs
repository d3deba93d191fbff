//! The history of a run: client responses, deliveries, row transitions and injected faults.
//!
//! The format is JSON, one record per line, in the order of recording. The checker uses nothing
//! else, so a stored history can be checked again.
//!
//! The transitions of one job are in commit order. All other records are ordered by timestamp. All
//! timestamps are readings of the run's clock, which can't be set; only a row's `created_at` and
//! `completed_at` are of the services' wall clock, which the run steps.
//!
//! The database has no such clock. Its changes have two timestamps: they were committed after
//! `not_before`, when the auditor did not see them yet, and before `at`, when it saw them.

mod asked;
mod filters;
mod work;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storm_shared::models::{RequestId, Status};

pub use self::asked::{
    CancelAnswer, CancelAsked, EraseAnswer, EraseAsked, PauseAnswer, PauseAsked, RedeliveryAnswer,
    RedeliveryAsked,
};
pub use self::filters::{
    Filter, FilterAction, FilterAnswer, FilterApplied, FilterAsked, FilterCounts,
};
pub use self::work::{WorkAttempt, WorkEnd, WorkRequest, WorkStored};

/// One observation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The settings and limits of the run: exactly one per stored history.
    Limits(HistoryLimits),
    /// The response to a `POST /async`.
    // Stored histories keep the names under which they were written, here and below.
    #[serde(rename = "told")]
    Submitted(Submitted),
    /// The response to a `GET /requests/{id}`.
    #[serde(rename = "looked")]
    Polled(Polled),
    /// The response to a `POST /requests/{id}/redeliver`.
    RedeliveryAsked(RedeliveryAsked),
    /// The response to a `DELETE /requests/{id}`.
    CancelAsked(CancelAsked),
    /// The response to a `POST /requests/{id}/erase`.
    EraseAsked(EraseAsked),
    /// The response to a `POST /admin/pause` or `/admin/resume`.
    PauseAsked(PauseAsked),
    /// The response to a `POST /admin/cancel` or `/admin/redeliver`.
    FilterAsked(FilterAsked),
    /// A receiver read a callback.
    Received(Received),
    /// The endpoint of the HTTP handler read a request.
    WorkRequest(WorkRequest),
    /// The store has what came of the work of a job of the handler.
    WorkStored(WorkStored),
    /// A row of the store's `attempts` at the work of a job.
    WorkAttempt(WorkAttempt),
    /// A row changed, as recorded by the auditor's triggers.
    #[serde(rename = "moved")]
    Transition(Transition),
    /// The final state of a row.
    Row(Row),
    /// What the erasure of a row removed.
    Erased(Erased),
    /// A row of `requests` was deleted. Its final state is that before.
    Deleted(Deleted),
    /// A pause began or ended.
    PauseChanged(PauseChanged),
    /// The store's record of an action by filter.
    FilterApplied(FilterApplied),
    /// A row of the store's `events` table.
    Event(HistoryEvent),
    /// An injected fault that has healed.
    Fault(Fault),
    /// Resource sizes at one moment.
    Footprint(Footprint),
}

/// The settings of a run and its resource limits, for the checker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what a run does, by kind; stored histories have these names"
)]
pub struct HistoryLimits {
    /// Maximum callback attempts per job, and per redelivery: one, plus one per entry of
    /// `CALLBACK_RETRY_DELAYS`.
    pub attempts: i64,
    /// `MAX_CLAIMS`: the number of lost claims that makes a job a poison job.
    pub max_claims: i64,
    /// The kinds of fault that the plan must inject.
    pub faults: Vec<String>,
    /// Maximum size of the write-ahead log after the run has settled, in bytes.
    pub log: u64,
    /// Maximum growth of Redis between the start and the settled state, in bytes.
    pub redis_growth: u64,
    /// `CALLBACK_RETRY_DELAYS` in milliseconds: the wait after each failed attempt. Without them,
    /// as in histories from before clock steps, the rule `waits` does not judge when jobs were due.
    #[serde(default)]
    pub retry_delays: Vec<u64>,
    /// The longest wait of a parked job, in milliseconds.
    #[serde(default)]
    pub longest_park: u64,
    /// Whether the clients ask for redeliveries.
    #[serde(default)]
    pub redeliveries: bool,
    /// Whether the clients cancel jobs and redeliveries.
    #[serde(default)]
    pub cancellations: bool,
    /// How long a callback of what was cancelled, erased or paused may still be read, in
    /// milliseconds.
    #[serde(default)]
    pub cancel_grace: u64,
    /// Whether the clients erase requests.
    #[serde(default)]
    pub erasures: bool,
    /// Whether operators pause everything, and origins.
    #[serde(default)]
    pub pauses: bool,
    /// Whether operators cancel and redeliver by filter.
    #[serde(default)]
    pub filters: bool,
    /// The longest wait of a job that is parked because its receiver is paused, in milliseconds.
    #[serde(default)]
    pub longest_paused: u64,
    /// `RETENTION` in milliseconds. Histories from before it have none, and no row is deleted.
    #[serde(default)]
    pub retention: u64,
    /// Whether the run is long enough that some rows must be deleted.
    #[serde(default)]
    pub deletions: bool,
    /// Whether some jobs are those of an HTTP handler.
    #[serde(default)]
    pub handlers: bool,
    /// The handler's `retry_delays` in milliseconds.
    #[serde(default)]
    pub work_retry_delays: Vec<u64>,
    /// How long after the end of the work the endpoint may still read a request for it that had
    /// begun before, in milliseconds.
    #[serde(default)]
    pub work_grace: u64,
    /// Memory that a process may gain under the second load, in bytes, in addition to 50 % of its
    /// memory before it.
    pub resident_growth: u64,
}

impl HistoryLimits {
    /// Default size limits. A healthy run stays well below them.
    pub fn new(retry_delays: &[Duration], max_claims: i64, faults: Vec<String>) -> Self {
        const MIB: u64 = 1 << 20;
        let retry_delays: Vec<_> = retry_delays.iter().map(|it| millis(*it)).collect();
        Self {
            attempts: retry_delays.iter().fold(1, |attempts, _| attempts + 1),
            max_claims,
            faults,
            // The store truncates a WAL of more than 1 MiB once few writes arrive
            // (`store/sqlite/checkpoint.rs`).
            log: 4 * MIB,
            redis_growth: 8 * MIB,
            retry_delays,
            // The worker's own limit (`workers/origins/breaker.rs`). Other parks are shorter.
            longest_park: 30_000,
            redeliveries: true,
            cancellations: true,
            cancel_grace: 0,
            erasures: true,
            pauses: true,
            filters: true,
            // As the docs have it (docs/API.md). A resumption ends it.
            longest_paused: 300_000,
            retention: 0,
            deletions: false,
            handlers: false,
            work_retry_delays: Vec::new(),
            work_grace: 0,
            resident_growth: 16 * MIB,
        }
    }

    /// How long after the answer a callback of what was cancelled or erased may still be read.
    #[must_use]
    pub fn with_cancel_grace(mut self, grace: Duration) -> Self {
        self.cancel_grace = millis(grace);
        self
    }

    /// Jobs of a handler with these `retry_delays`. A request for one may be read this long after
    /// it has begun.
    #[must_use]
    pub fn with_handlers(mut self, retry_delays: &[Duration], grace: Duration) -> Self {
        self.handlers = true;
        self.work_retry_delays = retry_delays.iter().map(|it| millis(*it)).collect();
        self.work_grace = millis(grace);
        self
    }

    /// How long finished requests are kept, and whether some must be deleted.
    #[must_use]
    pub fn with_retention(mut self, retention: Duration, deletions: bool) -> Self {
        self.retention = millis(retention);
        self.deletions = deletions;
        self
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The response to one `POST /async`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// When the response arrived.
    pub at: Timestamp,
    /// The requested report's name, unique per request, but for repeats with an idempotency key.
    pub report_name: String,
    /// The requested number of records.
    pub records: u32,
    /// Whether it had an idempotency key: its report name. Such a request is sent more than once.
    #[serde(default)]
    pub keyed: bool,
    /// The handler that is to do the work; none: it is a report.
    #[serde(default)]
    pub handler: Option<String>,
    /// The client that sent it.
    #[serde(default)]
    pub client: Option<String>,
    /// The origin of its callback; none: it has no callback.
    #[serde(default)]
    pub origin: Option<String>,
    /// The outcome.
    pub answer: SubmitAnswer,
}

/// The outcome of one `POST /async`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubmitAnswer {
    /// `202` with the job's id.
    Accepted(RequestId),
    /// Another status. No job exists.
    Refused(u16),
    /// `422` `idempotency-key-reused`. The job of this key exists, and was erased.
    KeyReused,
    /// `503` `outcome-unknown`. The job may or may not exist.
    OutcomeUnknown,
    /// No response. The job may or may not exist.
    #[serde(rename = "nothing")]
    NoAnswer(String),
}

/// The response to one `GET /requests/{id}`, if it was `200` or `404`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Polled {
    /// When the request was sent.
    pub asked_at: Timestamp,
    /// When the response arrived.
    pub at: Timestamp,
    /// The job.
    pub id: RequestId,
    /// Its status; none for a `404`.
    pub status: Option<Status>,
    /// Whether it was shown as erased.
    #[serde(default)]
    pub erased: bool,
    /// What was shown of its contents: `payload`, `result`, …
    #[serde(default)]
    pub shown: Vec<String>,
}

/// One callback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// When the headers and the body had been read.
    pub at: Timestamp,
    /// The job that the body names.
    pub id: RequestId,
    /// SHA-256 of the body, in hexadecimal.
    pub body_sha256: String,
    /// Whether the body is the requested report, for this id, with a valid signature.
    pub right: bool,
    /// The status of the response; none if the receiver hung or disconnected.
    pub answered: Option<u16>,
    /// The origin of the receiver.
    #[serde(default)]
    pub origin: Option<String>,
    /// What it says of the work, for a job of a handler.
    #[serde(default)]
    pub work: Option<WorkEnd>,
}

/// What a row stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// A job: a row of `requests`.
    // Histories from before redeliveries have no others.
    #[default]
    Job,
    /// A redelivery of a job: a row of `redeliveries`, from its beginning to its end.
    Redelivery,
}

/// One change of a row, as the database itself saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// What the row stands for.
    #[serde(default)]
    pub kind: RowKind,
    /// The latest moment of its commit.
    pub at: Timestamp,
    /// The earliest; the same if there is none.
    #[serde(default)]
    pub not_before: Option<Timestamp>,
    /// The job.
    pub id: RequestId,
    /// The state before; none for the insert.
    pub before: Option<RowState>,
    /// The state after. A redelivery ends by the deletion of its row: this is the deleted row, as
    /// `COMPLETED` if a successful attempt is recorded under its last claim, and else as `FAILED`.
    pub after: RowState,
    /// When the row had been due, by the store's clock.
    #[serde(default)]
    pub was_due: Option<Timestamp>,
    /// When it is due now.
    #[serde(default)]
    pub due: Option<Timestamp>,
    /// Whether this is the erasure of a request. The rule `erased` judges it, and no other.
    #[serde(default)]
    pub erases: bool,
    /// `failure_reason` of the job after it.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whether an operator's action by filter made it, as a cancellation or the beginning of a
    /// redelivery.
    #[serde(default)]
    pub by_filter: bool,
}

impl Transition {
    /// The earliest moment of its commit.
    pub fn earliest(&self) -> Timestamp {
        self.not_before.unwrap_or(self.at)
    }

    /// Whether this only makes a parked job due, because its receiver has recovered. No worker
    /// holds a parked job, so this needs no fencing token.
    pub fn is_unpark(&self) -> bool {
        let waits = self.after.status == Status::Pending && self.after.parks > 0;
        waits && self.before.as_ref() == Some(&self.after)
    }
}

/// The columns of a row that the rules for transitions use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowState {
    /// `status`
    pub status: Status,
    /// `claim`: the fencing token, incremented by each claim.
    pub claim: i64,
    /// `owner`: the worker that holds the claim.
    pub owner: Option<String>,
    /// `attempts`: callback attempts with a known outcome.
    pub attempts: i64,
    /// `lost_claims`: claims that ended by lease expiry.
    pub lost_claims: i64,
    /// `result_payload`; of a redelivery, that of its job.
    pub result: Option<String>,
    /// `parks`: how often the job was parked because its receiver's circuit was open.
    // Histories from before jobs could be parked have no `parks`.
    #[serde(default)]
    pub parks: i64,
}

/// The final state of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// `id`
    pub id: RequestId,
    /// From `input_payload`.
    pub report_name: String,
    /// `handler`; none: it is a report.
    #[serde(default)]
    pub handler: Option<String>,
    /// The columns that transitions change.
    #[serde(rename = "held")]
    pub state: RowState,
    /// `failure_reason`
    pub failure_reason: Option<String>,
    /// `failure_detail`
    pub failure_detail: Option<String>,
    /// Whether it has a `callback_url`.
    pub called_back: bool,
    /// `completed_at`, by the wall clock.
    pub completed_at: Option<Timestamp>,
    /// `created_at`, by the wall clock.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
}

/// What an erasure did to the row of a request, and what is left of it in the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// The job.
    pub id: RequestId,
    /// `erased_at`, by the wall clock.
    pub erased_at: String,
    /// Whether the outcome stayed as it was: status, reason, times, counts and client.
    pub outcome_kept: bool,
    /// The columns that still have contents: `requests.callback_url`, …
    pub left: Vec<String>,
}

/// The deletion of a finished request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The latest moment of its commit.
    pub at: Timestamp,
    /// The earliest.
    pub not_before: Timestamp,
    /// The job.
    pub id: RequestId,
    /// `ended`: when it had ended, by the store's clock.
    pub ended: Option<Timestamp>,
    /// Whether a redelivery of it was in progress.
    pub redelivering: bool,
}

/// A change of the table `pauses`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseChanged {
    /// The latest moment of its commit.
    pub at: Timestamp,
    /// The earliest.
    pub not_before: Timestamp,
    /// The origin; none for everything.
    pub origin: Option<String>,
    /// Whether it is paused now.
    pub paused: bool,
    /// How often the store's table `audit` has it.
    pub audited: u64,
}

/// A row of the table `events`, or of `resends`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEvent {
    /// The latest moment of its commit.
    pub at: Timestamp,
    /// The earliest; the same if there is none.
    #[serde(default)]
    pub not_before: Option<Timestamp>,
    /// The job.
    pub id: RequestId,
    /// `claim_lost`, `given_back`, `attempt_failed`, `resent`.
    pub event: String,
    /// The claim that it belongs to.
    pub claim: i64,
    /// Details for the reader.
    pub detail: Option<String>,
}

impl HistoryEvent {
    /// The earliest moment of its commit.
    pub fn earliest(&self) -> Timestamp {
        self.not_before.unwrap_or(self.at)
    }
}

/// An injected fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When it was injected.
    pub at: Timestamp,
    /// When it was healed.
    pub healed_at: Timestamp,
    /// Its kind, as the plan names it: `kill_worker`, `flushall`, …
    pub kind: String,
    /// Unfinished jobs when it was injected.
    pub in_flight: u64,
}

/// Resource sizes at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// The time of the record.
    pub at: Timestamp,
    /// `start`, `storm`, `settled` (all jobs finished, all faults healed, the stack idle) or
    /// `again` (settled after a second load).
    pub moment: String,
    /// The database file, in bytes.
    pub database: u64,
    /// The write-ahead log, in bytes.
    pub log: u64,
    /// Redis' `used_memory`, in bytes.
    pub redis_memory: u64,
    /// Entries in the stream.
    pub redis_entries: u64,
    /// Resident memory of the api and of each worker, in bytes.
    pub resident: Vec<(String, u64)>,
}
