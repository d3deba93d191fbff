//! The `demo` command: the same concurrent requests to `/sync`, then to `/async`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use serde::Serialize;
use storm_shared::models::Mode;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    answers::AnswerSummary,
    cli::DemoOptions,
    client::Api,
    latency::{Distribution, per_second},
    ledger::{JobSummary, Ledger},
    listen::Listener,
    progress::{self, Sample, Span},
    receiver,
    requester::Requester,
    series::Series,
    signatures::Signatures,
    thresholds::{Figures, Judged, RequestFigures},
    workload::Workload,
};

/// The result of a demo.
#[derive(Clone, Debug, Serialize)]
pub struct DemoResult {
    /// The URL of the API.
    pub api: String,
    /// The callback URL.
    pub callback_url: String,
    /// Whether a signal interrupted the run.
    pub interrupted: bool,
    /// The number of requests to each endpoint.
    pub requests: u32,
    /// The number of records in each report.
    pub records: u32,
    /// The deadline of an answer, from when its request was due.
    #[serde(rename = "timeout_ms", serialize_with = "crate::latency::as_millis")]
    pub timeout: Duration,
    /// How long a callback may take beyond its job's ideal duration.
    #[serde(rename = "patience_ms", serialize_with = "crate::latency::as_millis")]
    pub patience: Duration,
    /// The requests to `/sync`, whose answers have the reports.
    pub sync: Side,
    /// The requests to `/async`, whose answers are acknowledgements.
    #[serde(rename = "async")]
    pub ack: Side,
    /// The accepted jobs.
    pub jobs: JobSummary,
    /// The status of one lost job, as the API reports it.
    pub why_lost: Option<String>,
    /// The conditions of `--fail-if`; none if the run was interrupted.
    pub thresholds: Vec<Judged>,
}

/// The requests to one endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// The answers.
    #[serde(flatten)]
    pub answers: AnswerSummary,
    /// Successful answers per second, until the last one.
    pub ok_per_s: f64,
    /// The requests over time, and the jobs that they became.
    pub series: Series,
    /// The distributions of latencies and times to completion.
    pub distribution: Distribution,
}

impl Side {
    fn figures(&self) -> RequestFigures {
        RequestFigures {
            answers: self.answers.clone(),
            ok_per_s: self.ok_per_s,
        }
    }
}

impl DemoResult {
    /// Whether every async job was correct, and `/sync` returned no wrong report. Refused and timed
    /// out `/sync` requests do not fail the demo: it exists to show them. Thresholds have a verdict
    /// of their own, [`hold`](crate::thresholds::hold).
    pub fn passed(&self) -> bool {
        // `all_right` covers accepted jobs only, and a demo also fails if one was refused.
        !self.interrupted
            && self.jobs.right == u64::from(self.requests)
            && self.jobs.all_right()
            && self.sync.answers.failed.wrong_answer == 0
    }
}

/// Runs the demo until every job has ended, the time is up, or `shutdown`. `signatures` checks its
/// callbacks. Returns none if it was shut down before its first request.
///
/// # Errors
/// The callback port is in use, or no API listens at the address.
pub async fn run(
    options: &DemoOptions,
    signatures: Signatures,
    shutdown: &CancellationToken,
) -> Result<Option<DemoResult>> {
    let prepared = shutdown.run_until_cancelled(Demo::prepare(options, signatures));
    let Some(demo) = prepared.await.transpose()? else {
        return Ok(None);
    };
    // An interrupted demo still reports what it has measured.
    let why_lost = shutdown.run_until_cancelled(demo.compare()).await;
    let interrupted = why_lost.is_none();
    Ok(Some(demo.result(interrupted, why_lost.flatten())))
}

/// A demo in progress.
#[derive(Debug)]
struct Demo<'a> {
    options: &'a DemoOptions,
    api: Api,
    callback_url: String,
    sync: Phase,
    ack: Phase,
    ledger: Ledger,
    /// The receiver of the callbacks.
    _receiving: DropGuard,
}

impl<'a> Demo<'a> {
    async fn prepare(options: &'a DemoOptions, signatures: Signatures) -> Result<Self> {
        // Bound first, so that a port in use fails the demo before any request is sent.
        let listener = Listener::bind(options.callbacks.listen)?;
        let api = Api::connect(&options.target.api, options.target.authorization()).await?;
        let (callback_url, path) = options.callbacks.url(&listener);
        // Each request has its own report, so that a mixed-up result is detected.
        let names = usize::try_from(options.requests)?;
        let workload = |prefix, callback_url| {
            Arc::new(Workload::new(prefix, names, options.records, callback_url))
        };

        let reports = workload("Sync", None);
        // `/sync` creates no jobs, so this ledger stays empty.
        let no_jobs = Ledger::new(Arc::clone(&reports), Signatures::default());
        let sync = Phase::new(options, &api, Mode::Sync, reports, no_jobs);

        let reports = workload("Async", Some(&callback_url));
        let ledger = Ledger::new(Arc::clone(&reports), signatures);
        let receiving = receiver::receive(listener, &path, &ledger, receiver::MAX_CALLBACK);
        let ack = Phase::new(options, &api, Mode::Async, reports, ledger.clone());
        Ok(Self {
            options,
            api,
            callback_url,
            sync,
            ack,
            ledger,
            _receiving: receiving,
        })
    }

    /// Sends all requests and waits for the callbacks. Returns the status of one lost job.
    async fn compare(&self) -> Option<String> {
        let work = async {
            self.sync.send_all().await;
            self.ack.send_all().await;
            let patience = self.ledger.ideal() + self.options.callbacks.patience;
            self.ledger.settled_within(patience).await;
        };
        progress::during("demo", Span::SoFar, || self.sample(), work).await;
        why_lost(&self.api, &self.ledger, self.options.target.timeout).await
    }

    /// What the side that is in progress has done.
    fn sample(&self) -> Sample {
        if !self.sync.is_done() {
            return self.sync.sample("POST /sync");
        }
        let jobs = self.ledger.so_far();
        let mut sample = self.ack.sample("POST /async");
        if self.ack.is_done() {
            (sample.stage, sample.total) = ("callbacks", jobs.accepted);
            sample.done = jobs.accepted - jobs.open;
        }
        sample.jobs = Some(jobs);
        sample
    }

    fn result(&self, interrupted: bool, why_lost: Option<String>) -> DemoResult {
        let (sync, ack, jobs) = (self.sync.result(), self.ack.result(), self.ledger.summary());
        let figures = Figures {
            sync: Some(sync.figures()),
            ack: Some(ack.figures()),
            jobs: Some((&jobs).into()),
            ..Figures::default()
        };
        DemoResult {
            thresholds: figures.judge(&self.options.fail_if, interrupted),
            api: self.options.target.api.to_string(),
            callback_url: self.callback_url.clone(),
            interrupted,
            requests: self.options.requests,
            records: self.options.records.count(),
            timeout: self.options.target.timeout,
            patience: self.options.callbacks.patience,
            sync,
            ack,
            jobs: if interrupted {
                jobs.interrupted()
            } else {
                jobs
            },
            why_lost,
        }
    }
}

/// The requests to one endpoint.
#[derive(Debug)]
struct Phase {
    workload: Arc<Workload>,
    ledger: Ledger,
    requester: Arc<Requester>,
    requests: u32,
    /// The number of requests that were due so far: none or all.
    due: AtomicU64,
    /// Whether all are answered.
    done: AtomicBool,
}

impl Phase {
    fn new(
        options: &DemoOptions,
        api: &Api,
        mode: Mode,
        workload: Arc<Workload>,
        ledger: Ledger,
    ) -> Self {
        let (api, timeout) = (api.clone(), options.target.timeout);
        let reports = Arc::clone(&workload);
        let requester = Requester::new(api, mode, reports, ledger.clone(), timeout);
        Self {
            workload,
            ledger,
            requester: Arc::new(requester),
            requests: options.requests,
            due: AtomicU64::new(0),
            done: AtomicBool::new(false),
        }
    }

    /// Sends all requests concurrently and waits for the answers.
    async fn send_all(&self) {
        let requests = self.requests.into();
        self.due.store(requests, Ordering::Relaxed);
        // The ledger is older than this phase, whose clock starts now.
        self.ledger.start_over(Arc::clone(&self.workload));
        let mut answers = JoinSet::new();
        // All requests are due now. Time that a request waits for a connection counts as latency.
        let due = Instant::now();
        self.ledger.recording().start_over(due);
        for number in 0..self.requests as usize {
            let requester = Arc::clone(&self.requester);
            answers.spawn(async move { requester.request(number, due).await });
        }
        while answers.join_next().await.is_some() {}
        self.done.store(true, Ordering::Relaxed);
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn sample(&self, stage: &'static str) -> Sample {
        let (answers, failed) = self.requester.so_far();
        Sample {
            stage,
            done: answers.count() + failed.total(),
            total: self.requests.into(),
            offered: self.due.load(Ordering::Relaxed),
            answers,
            failed,
            jobs: None,
        }
    }

    fn result(&self) -> Side {
        let answers = self.requester.summary(self.due.load(Ordering::Relaxed));
        let recording = self.ledger.recording();
        Side {
            ok_per_s: per_second(answers.ok, recording.last_ok()),
            answers,
            series: recording.series(),
            distribution: Distribution {
                answer: self.requester.buckets(),
                completion: self.ledger.buckets(),
            },
        }
    }
}

async fn why_lost(api: &Api, ledger: &Ledger, timeout: Duration) -> Option<String> {
    let id = ledger.any_pending()?;
    Some(match api.job(id, Instant::now() + timeout).await {
        Ok(job) => match job.failure {
            Some(failure) => format!("{id} is {}: {failure}", job.status),
            None => format!("{id} is {}", job.status),
        },
        Err(failure) => format!("the look-up of {id} failed: {failure}"),
    })
}
