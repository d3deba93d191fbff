//! The show: the same requests at once to `/sync` and to `/async`.

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

/// What a demo showed.
#[derive(Clone, Debug, Serialize)]
pub struct DemoResult {
    /// The API.
    pub api: String,
    /// Where the worker called back.
    pub callback_url: String,
    /// How many requests each endpoint got.
    pub requests: u32,
    /// The size of each report.
    pub records: u32,
    /// The answers of `/sync`: reports.
    pub sync: AnswerSummary,
    /// The answers of `/async`: acknowledgements.
    #[serde(rename = "async")]
    pub ack: AnswerSummary,
    /// What became of the acknowledged jobs.
    pub jobs: JobSummary,
    /// For one of the lost jobs, what the API says about it.
    pub why_lost: Option<String>,
}

impl DemoResult {
    /// Whether every async job came back exactly right, and `/sync` gave no wrong report.
    pub fn passed(&self) -> bool {
        self.jobs.right == u64::from(self.requests)
            && self.jobs.all_right()
            && self.sync.failed.wrong_answer == 0
    }
}

/// Runs the demo; `signatures` checks its callbacks.
///
/// # Errors
/// It could not begin: the callbacks' port is taken, or nobody listens at the API's address.
pub async fn run(options: &DemoOptions, signatures: Signatures) -> Result<DemoResult> {
    let listener = Listener::bind(options.callbacks.listen).await?;
    let api = Api::connect(&options.target.api, options.target.authorization()).await?;
    let (callback_url, path) = options.callbacks.url(&listener);
    let names = usize::try_from(options.requests)?;
    let workload = |prefix, callback_url| {
        Arc::new(Workload::new(prefix, names, options.records, callback_url))
    };

    let reports = workload("Sync", None);
    let no_jobs = Ledger::new(Arc::clone(&reports), Signatures::default());
    let sync = volley(options, &api, Mode::Sync, reports, no_jobs).await;

    let reports = workload("Async", Some(&callback_url));
    let ledger = Ledger::new(Arc::clone(&reports), signatures);
    let receiving = receiver::receive(listener, &path, &ledger);
    let ideal = reports.ideal();
    let ack = volley(options, &api, Mode::Async, reports, ledger.clone()).await;
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

/// Sends every request at once and waits for all the answers.
async fn volley(
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
    let what = match mode {
        Mode::Sync => "POST /sync",
        Mode::Async => "POST /async",
    };
    progress::during(what, requests, || answered.load(Ordering::Relaxed), all).await;
    requester.summary(requests)
}

async fn wait_for_callbacks(ledger: &Ledger, patience: Duration) {
    let accepted = ledger.summary().accepted;
    let heard_of = || accepted - ledger.waiting();
    // Whether time ran out stands in the ledger: it is then still waiting for some.
    let _ = progress::during(
        "callbacks",
        accepted,
        heard_of,
        timeout(patience, ledger.settled()),
    )
    .await;
}

async fn why_lost(api: &Api, ledger: &Ledger, timeout: Duration) -> Option<String> {
    let id = ledger.any_waiting()?;
    Some(match api.job(id, Instant::now() + timeout).await {
        Ok(job) => match job.failure {
            Some(failure) => format!("{id} is {}: {failure}", job.status),
            None => format!("{id} is {}", job.status),
        },
        Err(failure) => format!("{id} can't be looked up: {failure}"),
    })
}
