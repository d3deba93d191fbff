//! Sends one request, checks its answer, and records the accepted job in the ledger.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde::Deserialize;
use storm_shared::models::{Mode, RequestId};
use tokio::time::Instant;

use crate::{
    answers::{AnswerSummary, Answers, RequestFailure},
    client::Api,
    latency::Bucket,
    ledger::{Accepted, Ledger},
    series::Outcome,
    workload::Workload,
};

/// Sends the requests of a run and counts the answers.
#[derive(Debug)]
pub struct Requester {
    api: Api,
    mode: Mode,
    workload: Arc<Workload>,
    ledger: Ledger,
    timeout: Duration,
    answers: Mutex<Answers>,
}

impl Requester {
    /// A requester that records accepted jobs in `ledger`, and every request in its recording;
    /// `/sync` creates no jobs. The deadline of an answer is `timeout` after its request was due.
    pub fn new(
        api: Api,
        mode: Mode,
        workload: Arc<Workload>,
        ledger: Ledger,
        timeout: Duration,
    ) -> Self {
        Self {
            api,
            mode,
            workload,
            ledger,
            timeout,
            answers: Mutex::default(),
        }
    }

    /// Sends request `number`, which was due at `due`, and waits for its answer. Returns the id of
    /// the accepted job.
    ///
    /// Latency is measured from `due`, not from the send, so that a slow API can't hide its latency
    /// by delaying the client (coordinated omission).
    pub async fn request(&self, number: usize, due: Instant) -> Option<RequestId> {
        let recording = self.ledger.recording();
        recording.offered(due, Some(Instant::now()));
        let body = self.workload.order(number).body();
        // The deadline counts from `due` too: a request that was sent late gets no more time.
        let answer = self.api.submit(self.mode, body, due + self.timeout).await;
        // Measured before the check, whose time is this program's own.
        let at = Instant::now();
        let latency = at.saturating_duration_since(due);
        let checked = answer.and_then(|body| self.check(&body, number, due));
        let id = checked.as_ref().ok().copied().flatten();
        if let Some(outcome) = Outcome::of(&checked) {
            recording.answered(at, outcome, latency);
        }
        self.record(checked.map(drop), latency);
        id
    }

    /// Counts a request that was due at `due` but not sent.
    pub fn skip(&self, due: Instant) {
        self.ledger.recording().offered(due, None);
        self.record(Err(RequestFailure::NotSent), Duration::ZERO);
    }

    /// The statistics of the first `requests` requests.
    pub fn summary(&self, requests: u64) -> AnswerSummary {
        self.answers().summary(requests)
    }

    /// The distribution of the latencies of successful requests.
    pub fn buckets(&self) -> Vec<Bucket> {
        self.answers().buckets()
    }

    fn record(&self, answer: Result<(), RequestFailure>, latency: Duration) {
        self.answers().record(answer, latency);
    }

    #[expect(clippy::expect_used, reason = "nothing panics while it holds the lock")]
    fn answers(&self) -> MutexGuard<'_, Answers> {
        let answers = self.answers.lock();
        answers.expect("nothing panics while it holds the lock")
    }

    fn check(
        &self,
        body: &[u8],
        number: usize,
        due: Instant,
    ) -> Result<Option<RequestId>, RequestFailure> {
        match self.mode {
            Mode::Sync => self.workload.order(number).check_sync(body).map(|()| None),
            Mode::Async => {
                let job = accepted(body)?;
                let id = job.id;
                self.ledger
                    .accepted(job, number, due)
                    .map_err(|_| RequestFailure::WrongAnswer(format!("id {id} was used twice")))?;
                Ok(Some(id))
            }
        }
    }
}

/// The job in the body of a `202`.
///
/// # Errors
/// [`RequestFailure::WrongAnswer`]: the body has no id, or the status is not `pending`.
pub fn accepted(body: &[u8]) -> Result<Accepted, RequestFailure> {
    #[derive(Deserialize)]
    struct AcceptedBody {
        request_id: RequestId,
        status: String,
        /// Any value: another API may not have it, or give it another meaning.
        expected_at: Option<serde_json::Value>,
    }
    let accepted: AcceptedBody = serde_json::from_slice(body)
        .map_err(|error| RequestFailure::WrongAnswer(format!("not the body of a 202: {error}")))?;
    if accepted.status == "pending" {
        let expected_at = accepted.expected_at.as_ref();
        Ok(Accepted {
            id: accepted.request_id,
            expected_at: expected_at.and_then(|at| at.as_str()?.parse().ok()),
        })
    } else {
        Err(RequestFailure::WrongAnswer(format!(
            "a 202 with status `{}`",
            accepted.status
        )))
    }
}
