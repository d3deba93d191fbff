//! One job tried before a storm: does its callback arrive here?

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use hyper::StatusCode;
use storm_shared::models::{Mode, Records, Status};
use tokio::time::{Instant, sleep};

use crate::{
    answers::RequestFailure, client::Api, ledger::Ledger, requester::accepted_id,
    workload::Workload,
};

/// How long the callback of a 10 ms report may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The smallest report there is.
pub(super) fn workload(callback_url: Option<&str>) -> Workload {
    let records = Records::new(1, Records::MAX_SYNC).expect("1 is within the bounds");
    Workload::new("Storm_Probe", 1, records, callback_url)
}

/// Tries one job that is to call back at `url`, where `ledger` receives. The inner error says why
/// no callback can be had.
pub(super) async fn try_callback(
    api: &Api,
    ledger: &Ledger,
    url: &str,
) -> Result<Result<(), String>> {
    let workload = Arc::new(workload(Some(url)));
    ledger.start_over(Arc::clone(&workload));
    let due = Instant::now();
    let deadline = due + PATIENCE;
    let answer = api
        .submit(Mode::Async, workload.order(0).body(), deadline)
        .await;
    let id = match answer.and_then(|body| accepted_id(&body)) {
        Ok(id) => id,
        Err(RequestFailure::Status(StatusCode::UNPROCESSABLE_ENTITY, words))
            if words.contains("callback_url") =>
        {
            return Ok(Err(format!("the API refuses the callback URL {url}")));
        }
        Err(failure) => return Err(anyhow!("the API did not take a first job: {failure}")),
    };
    // It can't be there already: this ledger is new.
    let _ = ledger.accepted(id, 0, due);
    while ledger.waiting() > 0 {
        if Instant::now() >= deadline {
            return Ok(Err(format!(
                "no callback arrived at {url} within {PATIENCE:?}"
            )));
        }
        if let Ok(job) = api.job(id, deadline).await
            && job.status == Status::Failed
        {
            return Ok(Err(format!("the callback of a first job to {url} failed")));
        }
        sleep(PAUSE).await;
    }
    Ok(Ok(()))
}
