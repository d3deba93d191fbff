//! A load run at an open arrival rate: requests fall due by the clock, whether or not earlier ones
//! were answered.

mod completion;
pub(crate) mod pace;
mod poller;
mod probe;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use serde::Serialize;
use storm_shared::models::Mode;
use tokio::time::{Instant, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::completion::Completion;
use self::{completion::Hearing, pace::Pace};
use crate::{
    answers::AnswerSummary, cli::StormOptions, client::Api, ledger::JobSummary, progress,
    requester::Requester, signatures::Signatures, workload::Workload,
};

/// How many reports a storm asks for by turns: enough for a mix-up to show, few enough to compute.
const NAMES: usize = 64;

/// What a storm measured.
#[derive(Clone, Debug, Serialize)]
pub struct StormResult {
    /// The API.
    pub api: String,
    /// The endpoint.
    pub mode: Mode,
    /// Requests due per second.
    pub rate: u32,
    /// How long requests were to fall due.
    #[serde(rename = "duration_ms", serialize_with = "crate::latency::as_millis")]
    pub duration: Duration,
    /// The size of each report.
    pub records: u32,
    /// Whether a signal ended the run early.
    pub interrupted: bool,
    /// Requests that fell due.
    pub offered: u64,
    /// Requests that were sent.
    pub sent: u64,
    /// Requests whose answer was still on its way when the run was interrupted.
    pub unanswered: u64,
    /// The answers.
    pub answers: AnswerSummary,
    /// How the jobs' ends were heard of; none of `/sync`.
    pub completion: Option<Completion>,
    /// What became of the jobs; none of `/sync`.
    pub jobs: Option<JobSummary>,
}

impl StormResult {
    /// Whether every good answer was right and every accepted job came back right, and there was one
    /// at least. Refusals and timeouts are what a storm is there to measure; other failures are not.
    pub fn passed(&self) -> bool {
        let failed = &self.answers.failed;
        self.answers.ok > 0
            && failed.wrong_answer + failed.other_status + failed.connection == 0
            && self.jobs.as_ref().is_none_or(JobSummary::all_right)
    }
}

/// Runs the storm until everything is answered and heard of, time is up, or `stop`; `signatures` checks
/// the callbacks.
///
/// # Errors
/// It could not begin: the callbacks' port is taken, nobody listens at the API's address, or the
/// API didn't take the job that is tried beforehand.
pub async fn run(
    options: &StormOptions,
    signatures: Signatures,
    stop: &CancellationToken,
) -> Result<StormResult> {
    let api = Api::connect(&options.target.api, options.target.authorization()).await?;
    let hearing = Hearing::prepare(options, &api, signatures).await?;
    let total = options.requests();
    let names = usize::try_from(total)?.min(NAMES);
    let url = hearing.callback_url.as_deref();
    let workload = Arc::new(Workload::new("Storm", names, options.records, url));
    hearing.ledger.start_over(Arc::clone(&workload));

    let patience = workload.ideal() + options.callbacks.patience;
    let storm = Arc::new(Storm {
        requester: Requester::new(
            api,
            options.mode,
            workload,
            hearing.ledger.clone(),
            options.target.timeout,
        ),
        hearing,
        requests: TaskTracker::new(),
        in_flight: options.in_flight as usize,
        offered: AtomicU64::new(0),
    });
    let everything = storm.run(Pace::new(options.rate, total), patience);
    let interrupted = stop.run_until_cancelled(everything).await.is_none();
    Ok(storm.result(options, interrupted))
}

/// A run under way.
#[derive(Debug)]
struct Storm {
    requester: Requester,
    hearing: Hearing,
    requests: TaskTracker,
    in_flight: usize,
    offered: AtomicU64,
}

impl Storm {
    async fn run(self: &Arc<Self>, pace: Pace, patience: Duration) {
        let total = pace.total();
        progress::during("requests", total, || self.offered(), async {
            pace.run(|number, due| self.fire(number, due)).await;
            self.requests.close();
            self.requests.wait().await;
        })
        .await;

        let ledger = &self.hearing.ledger;
        let accepted = ledger.summary().accepted;
        let heard_of = || accepted - ledger.waiting();
        // Whether time ran out stands in the ledger: it is then still waiting for some.
        let _ = progress::during(
            "jobs",
            accepted,
            heard_of,
            timeout(patience, ledger.settled()),
        )
        .await;
    }

    fn fire(self: &Arc<Self>, number: u64, due: Instant) {
        self.offered.store(number + 1, Ordering::Relaxed);
        if self.requests.len() >= self.in_flight {
            self.requester.skip();
            return;
        }
        let storm = Arc::clone(self);
        self.requests.spawn(async move {
            let number = usize::try_from(number).unwrap_or(usize::MAX); // two million at most
            if let Some(id) = storm.requester.request(number, due).await {
                storm.hearing.watch(id, due);
            }
        });
    }

    fn offered(&self) -> u64 {
        self.offered.load(Ordering::Relaxed)
    }

    fn result(&self, options: &StormOptions, interrupted: bool) -> StormResult {
        let offered = self.offered();
        let answers = self.requester.summary(offered);
        let completion = self.hearing.completion();
        StormResult {
            api: options.target.api.to_string(),
            mode: options.mode,
            rate: options.rate,
            duration: options.duration,
            records: options.records.count(),
            interrupted,
            offered,
            sent: offered - answers.failed.not_sent,
            unanswered: offered.saturating_sub(answers.ok + answers.failed.total()),
            jobs: (options.mode == Mode::Async).then(|| self.hearing.ledger.summary()),
            completion,
            answers,
        }
    }
}
