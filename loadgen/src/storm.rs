//! The `storm` command: an open load model. Requests are due at a constant rate, whether or not
//! earlier ones were answered.

mod completion;
pub(crate) mod pace;
mod poller;
mod test_job;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use storm_shared::models::{Mode, Records};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::completion::Completion;
use self::{completion::CompletionTracker, pace::Pace};
use crate::{
    answers::AnswerSummary,
    cli::StormOptions,
    client::Api,
    latency::{Distribution, per_second},
    ledger::JobSummary,
    progress::{self, Sample, Span},
    requester::Requester,
    series::Series,
    signatures::Signatures,
    thresholds::{Figures, Judged, RequestFigures},
    workload::Workload,
};

/// The number of different reports in a storm: enough to detect mixed-up results, few enough to
/// compute in advance.
const REPORTS: usize = 64;

/// The result of a storm.
#[derive(Clone, Debug, Serialize)]
pub struct StormResult {
    /// The URL of the API.
    pub api: String,
    /// The endpoint.
    pub mode: Mode,
    /// Requests per second.
    pub rate: u32,
    /// The planned duration.
    #[serde(rename = "duration_ms", serialize_with = "crate::latency::as_millis")]
    pub duration: Duration,
    /// The handler of the jobs; none for reports.
    pub handler: Option<String>,
    /// The number of records in each report; none for jobs of a handler.
    pub records: Option<u32>,
    /// The size of each payload of the handler, in bytes; none for reports.
    pub payload_bytes: Option<usize>,
    /// The limit of requests in flight.
    pub max_in_flight: u32,
    /// The deadline of an answer, from when its request was due.
    #[serde(rename = "timeout_ms", serialize_with = "crate::latency::as_millis")]
    pub timeout: Duration,
    /// How long a callback may take beyond its job's ideal duration.
    #[serde(rename = "patience_ms", serialize_with = "crate::latency::as_millis")]
    pub patience: Duration,
    /// Whether a signal interrupted the run.
    pub interrupted: bool,
    /// Requests that were due.
    pub offered: u64,
    /// Requests that were sent.
    pub sent: u64,
    /// Requests in flight when the run was interrupted.
    pub unanswered: u64,
    /// The answers.
    pub answers: AnswerSummary,
    /// Successful answers per second, over the planned duration, or until the last one if that was
    /// later.
    pub ok_per_s: f64,
    /// How the ends of jobs were detected; none for `/sync`.
    pub completion: Option<Completion>,
    /// The accepted jobs; none for `/sync`.
    pub jobs: Option<JobSummary>,
    /// The run over time.
    pub series: Series,
    /// The distributions of latencies and times to completion.
    pub distribution: Distribution,
    /// The conditions of `--fail-if`; none if the run was interrupted.
    pub thresholds: Vec<Judged>,
}

impl StormResult {
    /// Whether at least one request succeeded and every answer and accepted job was correct.
    /// Refusals and timeouts do not fail a storm: it exists to measure them. Other failures do.
    /// Thresholds have a verdict of their own, [`hold`](crate::thresholds::hold).
    pub fn passed(&self) -> bool {
        let failed = &self.answers.failed;
        !self.interrupted
            && self.answers.ok > 0
            && failed.wrong_answer + failed.other_status + failed.connection == 0
            && self.jobs.as_ref().is_none_or(JobSummary::all_right)
    }
}

/// Runs the storm until every request is answered and every job has ended, the time is up, or
/// `shutdown`. `signatures` checks the callbacks. Returns none if it was shut down before its first
/// request.
///
/// # Errors
/// The callback port is in use, no API listens at the address, or the API did not accept the test
/// job.
pub async fn run(
    options: &StormOptions,
    signatures: Signatures,
    shutdown: &CancellationToken,
) -> Result<Option<StormResult>> {
    let prepared = shutdown.run_until_cancelled(Storm::prepare(options, signatures));
    let Some(storm) = prepared.await.transpose()? else {
        return Ok(None);
    };
    let storm = Arc::new(storm);
    let patience = storm.tracker.ledger.ideal() + options.callbacks.patience;
    let run = storm.run(Pace::new(options.rate, options.requests()), patience);
    // An interrupted storm still reports what it has measured.
    let interrupted = shutdown.run_until_cancelled(run).await.is_none();
    Ok(Some(storm.result(options, interrupted)))
}

fn workload(options: &StormOptions, url: Option<&str>) -> Result<Workload> {
    if let (Some(handler), Some(payload)) = (&options.handler, &options.payload) {
        return Ok(Workload::of_handler(handler.clone(), payload, url));
    }
    // The command line requires it.
    let records = options
        .records
        .context("a storm of reports needs --records")?;
    let reports = usize::try_from(options.requests())?.min(REPORTS);
    Ok(Workload::new("Storm", reports, records, url))
}

/// A storm in progress.
#[derive(Debug)]
struct Storm {
    mode: Mode,
    requester: Requester,
    tracker: CompletionTracker,
    requests: TaskTracker,
    in_flight: usize,
    offered: AtomicU64,
    /// Whether nothing but jobs is awaited.
    all_answered: AtomicBool,
}

impl Storm {
    async fn prepare(options: &StormOptions, signatures: Signatures) -> Result<Self> {
        let api = Api::connect(&options.target.api, options.target.authorization()).await?;
        let tracker = CompletionTracker::prepare(options, &api, signatures).await?;
        let url = tracker.callback_url.as_deref();
        let workload = Arc::new(workload(options, url)?);
        let api = match &options.handler {
            Some(handler) => api.for_handler(handler)?,
            None => api,
        };
        // The test job must not count.
        tracker.ledger.start_over(Arc::clone(&workload));
        let (ledger, timeout) = (tracker.ledger.clone(), options.target.timeout);
        Ok(Self {
            mode: options.mode,
            requester: Requester::new(api, options.mode, workload, ledger, timeout),
            tracker,
            requests: TaskTracker::new(),
            in_flight: options.in_flight as usize,
            offered: AtomicU64::new(0),
            all_answered: AtomicBool::new(false),
        })
    }

    async fn run(self: &Arc<Self>, pace: Pace, patience: Duration) {
        let total = pace.total();
        let work = async {
            pace.run(|number, due| self.send(number, due)).await;
            // `TaskTracker::wait` completes only once the tracker is closed.
            self.requests.close();
            self.requests.wait().await;
            self.all_answered.store(true, Ordering::Relaxed);
            self.tracker.ledger.settled_within(patience).await;
        };
        progress::during("storm", Span::Recent, || self.sample(total), work).await;
    }

    /// What the storm has done of its `total` requests and their jobs.
    fn sample(&self, total: u64) -> Sample {
        let (answers, failed) = self.requester.so_far();
        let offered = self.offered();
        let jobs = (self.mode == Mode::Async).then(|| self.tracker.ledger.so_far());
        let (stage, done, total) = match &jobs {
            Some(jobs) if self.all_answered.load(Ordering::Relaxed) => {
                ("jobs", jobs.accepted - jobs.open, jobs.accepted)
            }
            _ => ("requests", offered, total),
        };
        Sample {
            stage,
            done,
            total,
            offered,
            answers,
            failed,
            jobs,
        }
    }

    fn send(self: &Arc<Self>, number: u64, due: Instant) {
        self.offered.store(number + 1, Ordering::Relaxed);
        // Over the limit, a request is dropped and not delayed: the rate of an open load model must
        // not depend on the API's answers.
        if self.requests.len() >= self.in_flight {
            self.requester.skip(due);
            return;
        }
        let storm = Arc::clone(self);
        self.requests.spawn(async move {
            let number = usize::try_from(number).unwrap_or(usize::MAX); // at most two million
            if let Some(id) = storm.requester.request(number, due).await {
                storm.tracker.watch(id, due);
            }
        });
    }

    fn offered(&self) -> u64 {
        self.offered.load(Ordering::Relaxed)
    }

    fn result(&self, options: &StormOptions, interrupted: bool) -> StormResult {
        let offered = self.offered();
        let answers = self.requester.summary(offered);
        let jobs = self.tracker.ledger.summary();
        let jobs = if interrupted {
            jobs.interrupted()
        } else {
            jobs
        };
        let jobs = (options.mode == Mode::Async).then_some(jobs);
        let recording = self.tracker.ledger.recording();
        let ok_per_s = per_second(answers.ok, options.duration.max(recording.last_ok()));
        let requests = RequestFigures {
            answers: answers.clone(),
            ok_per_s,
        };
        let figures = Figures {
            requests: Some(requests),
            jobs: jobs.as_ref().map(Into::into),
            ..Figures::default()
        };
        StormResult {
            thresholds: figures.judge(&options.fail_if, interrupted),
            api: options.target.api.to_string(),
            mode: options.mode,
            rate: options.rate,
            duration: options.duration,
            handler: options.handler.as_ref().map(ToString::to_string),
            records: options.records.map(Records::count),
            payload_bytes: options.payload.as_ref().map(|it| it.as_bytes().len()),
            max_in_flight: options.in_flight,
            timeout: options.target.timeout,
            patience: options.callbacks.patience,
            interrupted,
            offered,
            sent: offered - answers.failed.not_sent,
            unanswered: answers.unanswered(),
            completion: self.tracker.completion(),
            jobs,
            ok_per_s,
            series: recording.series(),
            distribution: Distribution {
                answer: self.requester.buckets(),
                completion: self.tracker.ledger.buckets(),
            },
            answers,
        }
    }
}
