//! The `demo` command: the same concurrent requests to `/sync`, then to `/async`.

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
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    answers::AnswerSummary,
    cli::DemoOptions,
    client::Api,
    ledger::{JobSummary, Ledger},
    listen::Listener,
    progress, receiver,
    requester::Requester,
    signatures::Signatures,
    workload::Workload,
};

/// The result of a demo.
#[derive(Clone, Debug, Serialize)]
pub struct DemoResult {
    /// The URL of the API.
    pub api: String,
    /// The callback URL.
    pub callback_url: String,
    /// The number of requests to each endpoint.
    pub requests: u32,
    /// The number of records in each report.
    pub records: u32,
    /// The answers of `/sync`, with the reports.
    pub sync: AnswerSummary,
    /// The answers of `/async`, the acknowledgements.
    #[serde(rename = "async")]
    pub ack: AnswerSummary,
    /// The accepted jobs.
    pub jobs: JobSummary,
    /// The status of one lost job, as the API reports it.
    pub why_lost: Option<String>,
}

impl DemoResult {
    /// Whether every async job was correct, and `/sync` returned no wrong report. Refused and timed
    /// out `/sync` requests do not fail the demo: it exists to show them.
    pub fn passed(&self) -> bool {
        // `all_right` covers accepted jobs only, and a demo also fails if one was refused.
        self.jobs.right == u64::from(self.requests)
            && self.jobs.all_right()
            && self.sync.failed.wrong_answer == 0
    }
}

/// Runs the demo. `signatures` checks its callbacks.
///
/// # Errors
/// The callback port is in use, or no API listens at the address.
pub async fn run(options: &DemoOptions, signatures: Signatures) -> Result<DemoResult> {
    // Bound first, so that a port in use fails the demo before any request is sent.
    let listener = Listener::bind(options.callbacks.listen).await?;
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
    let sync = send_all(options, &api, Mode::Sync, reports, no_jobs).await;

    let reports = workload("Async", Some(&callback_url));
    let ledger = Ledger::new(Arc::clone(&reports), signatures);
    let receiving = receiver::receive(listener, &path, &ledger);
    let ideal = reports.ideal();
    let ack = send_all(options, &api, Mode::Async, reports, ledger.clone()).await;
    wait_for_callbacks(&ledger, ideal + options.callbacks.patience).await;
    let jobs = ledger.summary();
    drop(receiving);

    Ok(DemoResult {
        api: options.target.api.to_string(),
        callback_url,
        requests: options.requests,
        records: options.records.count(),
        sync,
        ack,
        jobs,
        why_lost: why_lost(&api, &ledger, options.target.timeout).await,
    })
}

/// Sends all requests concurrently and waits for the answers.
async fn send_all(
    options: &DemoOptions,
    api: &Api,
    mode: Mode,
    workload: Arc<Workload>,
    ledger: Ledger,
) -> AnswerSummary {
    let timeout = options.target.timeout;
    let requester = Arc::new(Requester::new(api.clone(), mode, workload, ledger, timeout));
    let requests = options.requests.into();
    let mut answers = JoinSet::new();
    // All requests are due now. Time that a request waits for a connection counts as latency.
    let due = Instant::now();
    for number in 0..options.requests as usize {
        let requester = Arc::clone(&requester);
        answers.spawn(async move { requester.request(number, due).await });
    }
    let answered = AtomicU64::new(0);
    let all = async {
        while answers.join_next().await.is_some() {
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    let label = match mode {
        Mode::Sync => "POST /sync",
        Mode::Async => "POST /async",
    };
    progress::during(label, requests, || answered.load(Ordering::Relaxed), all).await;
    requester.summary(requests)
}

async fn wait_for_callbacks(ledger: &Ledger, patience: Duration) {
    let accepted = ledger.summary().accepted;
    let done = || accepted - ledger.pending();
    // The result of the timeout is not needed: the ledger counts pending jobs as lost.
    let _ = progress::during(
        "callbacks",
        accepted,
        done,
        timeout(patience, ledger.settled()),
    )
    .await;
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
