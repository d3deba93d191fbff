//! One request of a run: sent, its answer judged, the job it became entered into the ledger.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::Deserialize;
use storm_shared::models::{Mode, RequestId};
use tokio::time::Instant;

use crate::{
    answers::{AnswerSummary, Answers, RequestFailure},
    client::Api,
    ledger::Ledger,
    workload::Workload,
};

/// Sends a run's requests and keeps account of the answers.
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
    /// A requester whose jobs, if its mode makes any, enter `ledger`. An answer must be here
    /// `timeout` after its request was due.
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

    /// Sends the `number`-th request now, which was due at `due`, and waits for its answer. Gives
    /// the job that it became.
    ///
    /// The latency counts from `due`: a request that had to wait here for its turn waited for the
    /// API, as a user would have (no coordinated omission).
    pub async fn request(&self, number: usize, due: Instant) -> Option<RequestId> {
        let body = self.workload.order(number).body();
        let answer = self.api.submit(self.mode, body, due + self.timeout).await;
        let latency = due.elapsed();
        let judged = answer.and_then(|body| self.judge(&body, number, due));
        let id = judged.as_ref().ok().copied().flatten();
        self.record(judged.map(drop), latency);
        id
    }

    /// Counts a request that was due and could not be sent.
    pub fn skip(&self) {
        self.record(Err(RequestFailure::NotSent), Duration::ZERO);
    }

    /// What came of the `requests` that were due so far.
    pub fn summary(&self, requests: u64) -> AnswerSummary {
        self.answers.lock().expect(NO_PANIC).summary(requests)
    }

    fn record(&self, answer: Result<(), RequestFailure>, latency: Duration) {
        self.answers.lock().expect(NO_PANIC).record(answer, latency);
    }

    fn judge(
        &self,
        body: &[u8],
        number: usize,
        due: Instant,
    ) -> Result<Option<RequestId>, RequestFailure> {
        match self.mode {
            Mode::Sync => self.workload.order(number).check_sync(body).map(|()| None),
            Mode::Async => {
                let id = accepted_id(body)?;
                self.ledger.accepted(id, number, due).map_err(|_| {
                    RequestFailure::WrongAnswer(format!("the id {id} was given twice"))
                })?;
                Ok(Some(id))
            }
        }
    }
}

const NO_PANIC: &str = "nothing panics while it holds the answers";

/// The id in the body of a `202`.
///
/// # Errors
/// [`RequestFailure::WrongAnswer`]: there is none, or the job is not pending.
pub fn accepted_id(body: &[u8]) -> Result<RequestId, RequestFailure> {
    #[derive(Deserialize)]
    struct Accepted {
        request_id: RequestId,
        status: String,
    }
    let accepted: Accepted = serde_json::from_slice(body)
        .map_err(|error| RequestFailure::WrongAnswer(format!("no acceptance: {error}")))?;
    if accepted.status == "pending" {
        Ok(accepted.request_id)
    } else {
        Err(RequestFailure::WrongAnswer(format!(
            "accepted with status `{}`",
            accepted.status
        )))
    }
}
