//! A job: as it is accepted, claimed, and settled. Value types, no SQL.

use std::{any::Any, borrow::Borrow, collections::HashSet, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{lease::OwnerId, look::is_long};
use crate::{
    memory::Reservation,
    models::{
        AttemptClass, CallbackUrl, ClientName, Failure, HandlerName, IdempotencyKey, ReportSpec,
        RequestId, Stage, Traceparent, Transition,
    },
};

/// A new async job.
#[derive(Clone)]
pub struct NewJob {
    /// The job's id.
    pub id: RequestId,
    /// When it was submitted, by the wall clock. Taken before the id is generated.
    pub created_at: Timestamp,
    /// How long the job is left to its notification: only then may it be claimed from the table.
    /// Zero without one.
    pub notification_grace: Duration,
    /// The handler that does the work.
    pub handler: HandlerName,
    /// What it gets: JSON, stored as it is.
    pub input: Arc<str>,
    /// Whether the work is expected to take long: [`is_long`]. That of every handler but the
    /// report's is.
    pub is_long: bool,
    /// The callback URL; if `None`, the client polls.
    pub callback: Option<CallbackUrl>,
    /// The caller's trace context; if `None`, the job starts a trace of its own.
    pub traceparent: Option<Traceparent>,
    /// The client name of the token; `None` without authentication.
    pub created_by: Option<ClientName>,
    /// The client's key, by which a repeated submission is recognised; `None` if it sent none.
    pub idempotency_key: Option<IdempotencyKey>,
    /// When the job should be done, by the wall clock. Kept for repeats, with the key.
    pub expected_at: Timestamp,
    /// What the job holds of the memory budget until it is committed, even if the caller is gone by
    /// then; `None` if it is not counted.
    pub memory: Option<Arc<Reservation>>,
    /// What else is held until the write is over, committed or not; `None` if nothing is.
    pub held: Option<Held>,
    /// Called once the job is known to be stored, even if the caller is gone by then; `None` if
    /// nobody is to be told. Not called for a replay or a refusal.
    pub on_stored: Option<OnStored>,
}

/// Something that is dropped when a write is over, even if its caller is gone by then.
pub type Held = Arc<dyn Any + Send + Sync>;

/// Who is told that a job is stored. The writer waits for it, so it must not block. It can be
/// called again for the same job, after a commit whose outcome was unknown.
pub type OnStored = Arc<dyn Fn() + Send + Sync>;

impl NewJob {
    /// A report that is submitted now, without a notification, a client name, a caller's trace, an
    /// idempotency key and a reservation of memory. It is expected to start at once.
    pub fn new(
        id: RequestId,
        spec: impl Borrow<ReportSpec>,
        callback: Option<CallbackUrl>,
    ) -> Self {
        let spec = spec.borrow();
        let created_at = Timestamp::now();
        Self {
            expected_at: expected_at(created_at, spec.ideal_duration()),
            is_long: is_long(spec),
            ..Self::of(
                HandlerName::REPORT,
                id,
                to_json(spec).into(),
                callback,
                created_at,
            )
        }
    }

    /// The same for another handler. When it should be done is not known: at once.
    pub fn for_handler(
        handler: HandlerName,
        id: RequestId,
        payload: &RawValue,
        callback: Option<CallbackUrl>,
    ) -> Self {
        Self::of(
            handler,
            id,
            payload.get().into(),
            callback,
            Timestamp::now(),
        )
    }

    /// The specification of a report; `None` for another handler.
    pub(super) fn report_spec(&self) -> Option<ReportSpec> {
        let is_report = self.handler == HandlerName::REPORT;
        is_report
            .then(|| serde_json::from_str(&self.input).ok())
            .flatten()
    }

    fn of(
        handler: HandlerName,
        id: RequestId,
        input: Arc<str>,
        callback: Option<CallbackUrl>,
        created_at: Timestamp,
    ) -> Self {
        Self {
            id,
            created_at,
            expected_at: created_at,
            notification_grace: Duration::ZERO,
            handler,
            input,
            is_long: true,
            callback,
            traceparent: None,
            created_by: None,
            idempotency_key: None,
            memory: None,
            held: None,
            on_stored: None,
        }
    }
}

// The input must not get into a log.
impl fmt::Debug for NewJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewJob")
            .field("id", &self.id)
            .field("created_at", &self.created_at)
            .field("handler", &self.handler)
            .field("input", &format_args!("{} bytes", self.input.len()))
            .field("is_long", &self.is_long)
            .field("callback", &self.callback)
            .field("created_by", &self.created_by)
            .finish_non_exhaustive()
    }
}

/// When a job should be done that was submitted at `created_at`, and is expected to take `takes`
/// from then on.
pub fn expected_at(created_at: Timestamp, takes: Duration) -> Timestamp {
    created_at.saturating_add(takes).unwrap_or(Timestamp::MAX)
}

/// The result of a job's work: JSON. Clones share the text.
#[derive(Clone)]
pub struct WorkResult(Arc<RawValue>);

impl WorkResult {
    /// `model` as JSON.
    #[expect(clippy::expect_used, reason = "as in `to_json`")]
    pub fn of(model: &impl Serialize) -> Self {
        let json = to_raw_value(model).expect("a model serialises to JSON");
        Self(json.into())
    }

    /// A text that is JSON already.
    pub fn from_json(json: Box<RawValue>) -> Self {
        Self(json.into())
    }

    /// A stored text.
    ///
    /// # Errors
    /// The text is not JSON.
    pub(super) fn stored(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text).map(Self::from_json)
    }

    /// The JSON.
    pub fn json(&self) -> &RawValue {
        &self.0
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for WorkResult {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for WorkResult {}

// A result must not get into a log.
impl fmt::Debug for WorkResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkResult({} bytes)", self.as_str().len())
    }
}

/// What came of a job's work: its result, or why it failed for good.
pub type Worked = Result<WorkResult, Failure>;

/// The JSON of a model.
#[expect(
    clippy::expect_used,
    reason = "serialising fails only for maps with non-string keys and failing Serialize impls; no \
              model has either"
)]
pub(super) fn to_json(model: &impl Serialize) -> String {
    serde_json::to_string(model).expect("a model serialises to JSON")
}

/// What a worker claims and settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// A job: its handler's work, and then its callback.
    Job,
    /// A new series of callback attempts for a job that has ended. It is `PENDING` or `PROCESSING`
    /// until it ends; the job keeps its status meanwhile.
    Redelivery,
}

impl Work {
    pub(super) const ALL: [Self; 2] = [Self::Job, Self::Redelivery];
}

/// A claimable job or redelivery as it was read. The claim succeeds only if nobody has claimed it
/// since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The request.
    pub id: RequestId,
    /// What of it is to be claimed.
    pub work: Work,
    /// The number of claims on the request so far.
    pub claims: i64,
    /// Claims lost with their workers.
    pub lost_claims: u32,
}

impl Candidate {
    /// The job of a notification. Only jobs that were never claimed are notified.
    pub fn notified(id: RequestId) -> Self {
        Self {
            id,
            work: Work::Job,
            claims: 0,
            lost_claims: 0,
        }
    }

    /// The `candidates` without repetitions: a job can be notified twice, and must not run twice.
    pub(super) fn once_each(mut candidates: Vec<Self>) -> Vec<Self> {
        let mut seen = HashSet::with_capacity(candidates.len());
        candidates.retain(|it| seen.insert((it.id, it.work, it.claims)));
        candidates
    }

    /// Whether the job was never claimed.
    pub fn is_new(&self) -> bool {
        self.claims == 0
    }
}

/// The right to write to one job or redelivery. It ends when that is finished, released or
/// reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The request.
    pub id: RequestId,
    /// What of it is claimed.
    pub work: Work,
    /// The worker that holds the claim.
    pub owner: OwnerId,
    /// The fencing token: the request's claim counter, from 1, redeliveries included. Every write
    /// under this claim names it, so a write under an older claim changes nothing.
    pub number: i64,
}

/// A claimed job, with the state that earlier claims stored.
#[derive(Clone)]
pub struct Job {
    /// The claim that every write names.
    pub claim: Claim,
    /// The handler that does the work.
    pub handler: HandlerName,
    /// What it gets: JSON, as it was submitted.
    pub input: Bytes,
    /// The same, if it is the built-in report that is to be made.
    pub report: Option<ReportSpec>,
    /// Whether the work is still to be done, and was expected to take long.
    pub is_long: bool,
    /// What came of the work, if it is stored. `None`: it is to be done.
    pub worked: Option<Worked>,
    /// The callback URL; if `None`, the client polls.
    pub callback: Option<CallbackUrl>,
    /// The trace context. Derived from the id if the caller sent none.
    pub traceparent: Traceparent,
    /// Attempts with a known outcome: at the work, and then at the callback.
    pub attempts: u32,
    /// How many of them were made before this series of callback attempts: at the work, and in
    /// earlier series.
    pub attempts_before: u32,
    /// The client name of the token that submitted it; `None` without authentication.
    pub created_by: Option<ClientName>,
    /// When it was submitted, by the API's wall clock. `None` if the row was edited by hand.
    pub created_at: Option<Timestamp>,
    /// How long the job has been parked in all since its last attempt, or since the last pause of
    /// its receiver or of everything.
    pub parked_for: Duration,
    /// The bytes of its stored input and result.
    pub bytes: usize,
}

// The input must not get into a log.
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("claim", &self.claim)
            .field("handler", &self.handler)
            .field("input", &format_args!("{} bytes", self.input.len()))
            .field("is_long", &self.is_long)
            .field("worked", &self.worked)
            .field("callback", &self.callback)
            .field("attempts", &self.attempts)
            .field("attempts_before", &self.attempts_before)
            .field("created_by", &self.created_by)
            .field("created_at", &self.created_at)
            .field("parked_for", &self.parked_for)
            .finish_non_exhaustive()
    }
}

/// What came of a claim.
#[derive(Debug)]
pub struct Claimed {
    /// The jobs that were won, in the order of the candidates.
    pub jobs: Vec<Result<Job, InvalidJob>>,
    /// The candidates that were not tried for want of room, in order.
    pub left: Vec<Candidate>,
    /// Whether none was tried because everything is paused.
    pub is_paused: bool,
}

/// A claimed row that can't be parsed, because it was edited by hand.
#[derive(Clone, Debug)]
pub struct InvalidJob {
    /// The claim on it.
    pub claim: Claim,
    /// Why it fails.
    pub failure: Failure,
}

/// An attempt to record together with the job's new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Number of the attempt within its request, from 1, including redeliveries.
    pub number: u32,
    /// What it was an attempt at.
    pub stage: Stage,
    /// Start time.
    pub started_at: Timestamp,
    /// Duration.
    pub duration: Duration,
    /// Outcome class.
    pub class: AttemptClass,
    /// HTTP status code, if there was a response.
    pub status: Option<u16>,
    /// Error text that the job's owner may see.
    pub error: Option<String>,
    /// Full error text for operators. It can name internal addresses.
    pub internal_detail: Option<String>,
}

impl AttemptRecord {
    /// Whether the receiver may have received this callback and may receive it again.
    pub(super) fn may_repeat(&self) -> bool {
        self.stage == Stage::Callback
            && !matches!(self.class, AttemptClass::Success | AttemptClass::Refused)
    }
}

/// How a claim on a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The job, or its redelivery, is over, with the last attempt if one was made. A `COMPLETED`
    /// job stays `COMPLETED`, even if its redelivery fails.
    Finish {
        /// The last attempt.
        attempt: Option<AttemptRecord>,
        /// What came of the job.
        outcome: Outcome,
    },
    /// The attempt failed. The job is `PENDING`, and the next one is due after `wait`.
    Retry {
        /// The failed attempt.
        attempt: AttemptRecord,
        /// The time from this write to the next attempt.
        wait: Duration,
    },
    /// No attempt was made, because the destination's circuit is open, its concurrency limit is
    /// reached, or the worker lacks what an attempt needs. The job is `PENDING`, and tried again
    /// after `wait`. The retry schedule does not advance.
    Park {
        /// The time from this write to the next try.
        wait: Duration,
    },
    /// Like [`Settlement::Park`], because an operator has paused the receiver. The time until the
    /// next claim does not count as parked, nor does what was before it.
    ParkPaused {
        /// The time from this write to the next try.
        wait: Duration,
    },
    /// The worker stopped before an attempt. The job is `PENDING`, and due at once.
    GiveBack,
}

impl Settlement {
    /// The change of state that it is.
    pub(super) const fn transition(&self) -> Transition {
        match self {
            Self::Finish { outcome, .. } => outcome.transition(),
            Self::Retry { .. } => Transition::Retry,
            Self::Park { .. } | Self::ParkPaused { .. } => Transition::Park,
            Self::GiveBack => Transition::GiveBack,
        }
    }

    /// The attempt to record with it.
    pub(super) fn attempt(&self) -> Option<&AttemptRecord> {
        match self {
            Self::Finish { attempt, .. } => attempt.as_ref(),
            Self::Retry { attempt, .. } => Some(attempt),
            Self::Park { .. } | Self::ParkPaused { .. } | Self::GiveBack => None,
        }
    }
}

/// The final outcome of a claimed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver answered 2xx, or the job has no callback.
    Completed,
    /// The job was not, or can't be, delivered.
    Failed(Failure),
}

impl Outcome {
    pub(super) const fn transition(&self) -> Transition {
        match self {
            Self::Completed => Transition::Complete,
            Self::Failed(_) => Transition::Fail,
        }
    }

    /// Why the job failed; `None` if it did not.
    pub(super) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Completed => None,
            Self::Failed(failure) => Some(failure),
        }
    }

    /// `completed`, or the reason of the failure as the API names it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed(failure) => failure.reason.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::value::RawValue;

    use super::{Claim, Job, NewJob, Work};
    use crate::{
        models::{RequestId, Traceparent},
        services::store::OwnerId,
    };

    #[test]
    fn a_payload_does_not_get_into_a_log() {
        let (id, handler) = (RequestId::generate(), "pdf".parse().unwrap());
        let payload = RawValue::from_string(r#"{"iban":"hunter2"}"#.to_owned()).unwrap();
        let new = NewJob::for_handler(handler, id, &payload, None);
        let claimed = Job {
            claim: Claim {
                id,
                work: Work::Job,
                owner: OwnerId::NOBODY,
                number: 1,
            },
            handler: new.handler.clone(),
            input: payload.get().to_owned().into(),
            report: None,
            is_long: true,
            worked: None,
            callback: None,
            traceparent: Traceparent::of(id),
            attempts: 0,
            attempts_before: 0,
            created_by: None,
            created_at: None,
            parked_for: Duration::ZERO,
            bytes: 0,
        };
        for shown in [format!("{new:?}"), format!("{claimed:?}")] {
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(
                shown.contains(&id.to_string()) && shown.contains("18 bytes"),
                "{shown}"
            );
        }
    }
}
