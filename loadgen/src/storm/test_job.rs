//! A test job before the storm, to find out whether callbacks arrive here.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use hyper::StatusCode;
use storm_shared::models::{Mode, Records, Status};
use tokio::time::{Instant, sleep};

use crate::{
    answers::RequestFailure, client::Api, ledger::Ledger, requester::accepted, workload::Workload,
};

/// The timeout of the callback. The report itself takes 10 ms.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The interval between checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The workload of the test job: one report of one record, the smallest size.
pub(super) fn workload(callback_url: Option<&str>) -> Workload {
    #[expect(clippy::expect_used, reason = "1 is the lower bound")]
    let records = Records::new(1, Records::MAX_SYNC).expect("1 is within the bounds");
    Workload::new("Storm_Test", 1, records, callback_url)
}

/// Submits a test job with the callback URL `url`, whose callbacks `ledger` records. The inner
/// error says why no callback arrived.
pub(super) async fn try_callback(
    api: &Api,
    ledger: &Ledger,
    url: &str,
) -> Result<Result<(), String>> {
    let workload = Arc::new(workload(Some(url)));
    ledger.start_over(Arc::clone(&workload));
    let due = Instant::now();
    let deadline = due + TIMEOUT;
    let answer = api
        .submit(Mode::Async, workload.order(0).body(), deadline)
        .await;
    let job = match answer.and_then(|body| accepted(&body)) {
        Ok(job) => job,
        // The problem body names the invalid field. Any other refusal is an error: polling would
        // not help.
        Err(RequestFailure::Status(StatusCode::UNPROCESSABLE_ENTITY, body))
            if body.contains("callback_url") =>
        {
            return Ok(Err(format!("the API refuses the callback URL {url}")));
        }
        Err(failure) => return Err(anyhow!("the API did not accept a test job: {failure}")),
    };
    // The only error is a duplicate id, and this ledger is empty.
    let _ = ledger.accepted(job, 0, due);
    while ledger.pending() > 0 {
        if Instant::now() >= deadline {
            return Ok(Err(format!(
                "no callback arrived at {url} within {TIMEOUT:?}"
            )));
        }
        // A failed job ends the wait early, for example if the SSRF policy refuses the URL. A
        // failed look-up says nothing about the job, and the deadline bounds the wait.
        if let Ok(job) = api.job(job.id, deadline).await
            && job.status == Status::Failed
        {
            return Ok(Err(format!("the callback of a test job to {url} failed")));
        }
        sleep(CHECK_INTERVAL).await;
    }
    Ok(Ok(()))
}
