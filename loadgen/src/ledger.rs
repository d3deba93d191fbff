//! The ledger of a run's jobs: each `202` is paired with its callback by the job's id, in whichever
//! order the two arrive, and what the callback says is compared with what was ordered.

mod callback;
mod pairs;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hyper::HeaderMap;
use serde::Serialize;
use storm_shared::{models::RequestId, services::report::Report};
use tokio::{sync::Notify, time::Instant};

use self::{callback::Callback, pairs::Pairs};
use crate::{
    latency::{Percentiles, as_millis},
    signatures::{SignatureCounts, Signatures},
    workload::Workload,
};

/// The jobs of a run. Clones share one ledger.
#[derive(Clone, Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pairs: Mutex<Pairs>,
    signatures: Signatures,
    /// Told when no job is waited for any more.
    settled: Notify,
}

/// An id that another `202` had already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdGivenTwice;

/// A body that is no callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCallback;

/// How a job ended, in the API's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// With this report.
    Completed {
        /// The report.
        report: Report,
        /// From the job's acceptance to its end, by the API's own clock.
        took: Duration,
    },
    /// Without success.
    Failed,
}

impl Ledger {
    /// An empty ledger for the orders of `workload`, whose callbacks `signatures` checks. Its clock
    /// starts now.
    pub fn new(workload: Arc<Workload>, signatures: Signatures) -> Self {
        let pairs = Mutex::new(Pairs::new(workload, signatures.new_counts()));
        Self {
            shared: Arc::new(Shared {
                pairs,
                signatures,
                settled: Notify::new(),
            }),
        }
    }

    /// Forgets everything and begins a new run with other orders.
    pub fn start_over(&self, workload: Arc<Workload>) {
        *self.pairs() = Pairs::new(workload, self.shared.signatures.new_counts());
    }

    /// How long each of its reports takes where nothing is in its way.
    pub fn ideal(&self) -> Duration {
        self.pairs().ideal()
    }

    /// Enters a `202`: the `number`-th request, due at `due`, became the job `id`.
    ///
    /// # Errors
    /// Another request became the same job.
    pub fn accepted(&self, id: RequestId, number: usize, due: Instant) -> Result<(), IdGivenTwice> {
        self.pairs().accepted(id, number, due)
    }

    /// Enters a callback that arrived now.
    ///
    /// # Errors
    /// The body is no callback.
    pub fn called_back(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), NoCallback> {
        let at = Instant::now();
        let callback = Callback::parse(body).map_err(|_| NoCallback)?;
        let signature = self.shared.signatures.check(headers, body, callback.id);
        let callback = callback.signed(signature);
        self.change(|pairs| pairs.called_back(callback, at));
        Ok(())
    }

    /// Enters the end of a job that was polled instead of called back.
    pub fn polled(&self, id: RequestId, end: &JobEnd) {
        self.change(|pairs| pairs.polled(id, end, Instant::now()));
    }

    /// How many accepted jobs are not heard of yet.
    pub fn waiting(&self) -> u64 {
        self.pairs().waiting()
    }

    /// One of the accepted jobs that are not heard of yet.
    pub fn any_waiting(&self) -> Option<RequestId> {
        self.pairs().any_waiting()
    }

    /// Completes when every job accepted so far has been heard of.
    pub async fn settled(&self) {
        loop {
            // Registered before the look: what changes in between wakes it too.
            let changed = self.shared.settled.notified();
            if self.waiting() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// What the ledger says now. A job that is still waited for counts as lost.
    pub fn summary(&self) -> JobSummary {
        self.pairs().summary()
    }

    fn change(&self, change: impl FnOnce(&mut Pairs)) {
        let mut pairs = self.pairs();
        change(&mut pairs);
        if pairs.waiting() == 0 {
            self.shared.settled.notify_waiters();
        }
    }

    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.shared
            .pairs
            .lock()
            .expect("nothing panics while it holds the ledger")
    }
}

/// What became of a run's jobs. Durations are milliseconds in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobSummary {
    /// Jobs with a `202`.
    pub accepted: u64,
    /// Jobs whose first callback (or polled result) was exactly right.
    pub right: u64,
    /// Accepted jobs that were not heard of.
    pub lost: u64,
    /// Callbacks that said the same bytes again: legal, for delivery is at least once.
    pub repeated: u64,
    /// Callbacks with a wrong checksum or another wrong field, or that contradicted the first one.
    pub wrong: u64,
    /// Jobs that the API calls `FAILED`. Seen only where jobs are polled.
    pub failed: u64,
    /// Callbacks for ids that no `202` had: of requests whose answer was not read, or a stranger's.
    pub unexpected: u64,
    /// The callbacks' signatures. A job whose first callback is not to be believed is not right.
    pub signatures: SignatureCounts,
    /// How long a report takes where nothing is in its way.
    #[serde(rename = "ideal_ms", serialize_with = "as_millis")]
    pub ideal: Duration,
    /// For the right ones, from the moment the request was due to the callback's arrival. For
    /// polled jobs, from acceptance to completion by the API's clock.
    pub time_to_completion: Option<Percentiles>,
    /// The same, less the ideal.
    pub lateness: Option<Percentiles>,
    /// Right ones per second, from the run's start to the last of them.
    pub completed_per_s: f64,
}

impl JobSummary {
    /// Whether every accepted job came back exactly right, and no callback was signed wrongly.
    pub fn all_right(&self) -> bool {
        self.right == self.accepted && self.wrong == 0 && self.signatures.bad() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use hyper::HeaderMap;
    use serde_json::json;
    use storm_shared::{
        models::{Records, RequestId},
        services::report::{Report, expected},
    };
    use tokio::time::Instant;

    use super::{IdGivenTwice, JobEnd, Ledger, NoCallback};
    use crate::{signatures::Signatures, workload::Workload};

    const DUE: Duration = Duration::from_millis(100);

    fn workload() -> Arc<Workload> {
        Arc::new(Workload::new("Test", 3, Records::new(5, 49).unwrap(), None))
    }

    fn report(number: usize) -> Report {
        expected(workload().order(number).spec())
    }

    fn callback(id: RequestId, number: usize) -> String {
        let workload = workload();
        let (spec, report) = (workload.order(number).spec(), report(number));
        json!({
            "request_id": id, "report_id": report.report_id, "status": "completed",
            "checksum": report.checksum, "report_name": spec.report_name, "records": spec.records,
        })
        .to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn a_callback_is_paired_with_its_202_in_either_order() {
        let ledger = Ledger::new(workload(), Signatures::default());
        let due = Instant::now();
        let (first, second) = (RequestId::generate(), RequestId::generate());

        ledger.accepted(first, 0, due).unwrap();
        assert_eq!(ledger.waiting(), 1);
        tokio::time::advance(DUE).await;
        ledger
            .called_back(&HeaderMap::new(), callback(first, 0).as_bytes())
            .unwrap();
        ledger
            .called_back(&HeaderMap::new(), callback(second, 1).as_bytes())
            .unwrap();
        assert_eq!((ledger.waiting(), ledger.summary().unexpected), (0, 1));
        tokio::time::advance(DUE).await;
        ledger.accepted(second, 1, due).unwrap();

        let summary = ledger.summary();
        assert_eq!(
            (summary.accepted, summary.right, summary.unexpected),
            (2, 2, 0)
        );
        assert!(summary.all_right());
        let slowest = summary.time_to_completion.unwrap().max;
        assert!(
            slowest < DUE * 2,
            "an early callback counts from its arrival, not its 202's"
        );
        assert!((summary.completed_per_s - 20.0).abs() < 1e-6);
    }

    #[test]
    fn a_callback_with_another_jobs_report_is_wrong() {
        let ledger = Ledger::new(workload(), Signatures::default());
        let (first, second) = (RequestId::generate(), RequestId::generate());
        ledger.accepted(first, 0, Instant::now()).unwrap();
        ledger
            .called_back(&HeaderMap::new(), callback(first, 1).as_bytes())
            .unwrap();
        ledger
            .called_back(&HeaderMap::new(), callback(second, 0).as_bytes())
            .unwrap();
        ledger.accepted(second, 1, Instant::now()).unwrap();
        let summary = ledger.summary();
        assert_eq!((summary.accepted, summary.right, summary.wrong), (2, 0, 2));
        assert!(!summary.all_right() && summary.time_to_completion.is_none());
    }

    #[test]
    fn a_repeat_with_equal_bytes_is_legal_and_one_with_others_is_wrong() {
        let ledger = Ledger::new(workload(), Signatures::default());
        let id = RequestId::generate();
        let right = callback(id, 0);
        ledger
            .called_back(&HeaderMap::new(), right.as_bytes())
            .unwrap();
        ledger
            .called_back(&HeaderMap::new(), right.as_bytes())
            .unwrap();
        ledger.accepted(id, 0, Instant::now()).unwrap();
        ledger
            .called_back(&HeaderMap::new(), right.as_bytes())
            .unwrap();
        let summary = ledger.summary();
        assert_eq!((summary.right, summary.repeated, summary.wrong), (1, 2, 0));
        assert!(summary.all_right());

        ledger
            .called_back(&HeaderMap::new(), right.replace(':', ": ").as_bytes())
            .unwrap();
        assert_eq!(ledger.summary().wrong, 1);
        assert!(!ledger.summary().all_right());
    }

    #[test]
    fn an_accepted_job_that_is_not_heard_of_is_lost() {
        let ledger = Ledger::new(workload(), Signatures::default());
        let id = RequestId::generate();
        ledger.accepted(id, 0, Instant::now()).unwrap();
        assert_eq!(
            ledger.called_back(&HeaderMap::new(), b"{}"),
            Err(NoCallback)
        );
        assert_eq!(ledger.accepted(id, 1, Instant::now()), Err(IdGivenTwice));
        let summary = ledger.summary();
        assert_eq!((summary.accepted, summary.lost), (1, 1));
        assert_eq!(ledger.any_waiting(), Some(id));
        assert!(!summary.all_right());
    }

    #[test]
    fn a_polled_job_is_judged_like_a_callback() {
        let ledger = Ledger::new(workload(), Signatures::default());
        let ids: Vec<_> = (0..3).map(|_| RequestId::generate()).collect();
        for (number, id) in ids.iter().enumerate() {
            ledger.accepted(*id, number, Instant::now()).unwrap();
        }
        let took = Duration::from_millis(60);
        ledger.polled(
            ids[0],
            &JobEnd::Completed {
                report: report(0),
                took,
            },
        );
        ledger.polled(
            ids[1],
            &JobEnd::Completed {
                report: report(2),
                took,
            },
        );
        ledger.polled(ids[2], &JobEnd::Failed);
        let summary = ledger.summary();
        assert_eq!(
            (summary.right, summary.wrong, summary.failed, summary.lost),
            (1, 1, 1, 0)
        );
        assert!(
            summary.lateness.unwrap().max < Duration::from_millis(11),
            "60 ms less 50"
        );
    }

    #[tokio::test]
    async fn whoever_waits_for_the_jobs_is_woken_by_the_last_one() {
        let ledger = Ledger::new(workload(), Signatures::default());
        let id = RequestId::generate();
        ledger.accepted(id, 0, Instant::now()).unwrap();
        let waiter = tokio::spawn({
            let ledger = ledger.clone();
            async move { ledger.settled().await }
        });
        tokio::task::yield_now().await;
        ledger
            .called_back(&HeaderMap::new(), callback(id, 0).as_bytes())
            .unwrap();
        waiter.await.unwrap();
    }
}
