//! The retry schedule, to the millisecond, on a clock that only moves when everybody waits.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::StatusCode;
use storm_shared::{
    config::Settings,
    models::{CallbackUrl, Records, ReportName, ReportSpec, RequestId, Status},
    services::store::{OwnerId, Store},
};
use storm_worker::{
    delivery::AttemptError,
    metrics::Metrics,
    workers::{Attempt, CallbackWorker, Drain, Source},
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// A receiver that always answers 500, and tells at which moment it heard what.
struct AlwaysFails {
    heard: mpsc::Sender<(Instant, Bytes)>,
}

impl Attempt for AlwaysFails {
    fn attempt<'a>(
        &'a self,
        _url: &'a CallbackUrl,
        body: Bytes,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>> {
        self.heard.try_send((Instant::now(), body)).unwrap();
        Box::pin(async { Err(AttemptError::Status(StatusCode::INTERNAL_SERVER_ERROR)) })
    }
}

#[tokio::test(start_paused = true)]
async fn three_retries_follow_after_two_four_and_eight_seconds() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}", folder.path().join("storm.db").display());
    let settings = Settings::with([("DB_URL", url.as_str())]).unwrap(); // the contract's delays
    let store = Store::open(&settings.store).await.unwrap();
    let (tell, mut hear) = mpsc::channel(10);
    let worker = CallbackWorker::new(
        store.clone(),
        Arc::new(AlwaysFails { heard: tell }),
        OwnerId::generate(),
        &settings,
        Metrics::new(),
        Drain::new(CancellationToken::new(), settings.drain_timeout),
    );
    let id = RequestId::generate();
    let spec = ReportSpec {
        report_name: ReportName::try_from("Q1_Finance".to_owned()).unwrap(),
        records: Records::new(1, Records::MAX_ASYNC).unwrap(),
    };
    store
        .accept(id, &spec, Some("http://192.0.2.1/".to_owned()))
        .await
        .unwrap();

    worker.take_on(vec![id], Source::Table).await.unwrap();
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(hear.recv().await.unwrap());
    }
    let waits: Vec<_> = heard.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert_eq!(waits, [2, 4, 8].map(Duration::from_secs));
    assert!(
        heard.iter().all(|(_, body)| *body == heard[0].1),
        "the same bytes on every try"
    );

    // No timer may be set here: the paused clock would jump to it while the database works.
    let row = loop {
        let row = store.find(id).await.unwrap().unwrap();
        if row.status != Status::Processing {
            break row;
        }
    };
    assert_eq!((row.status, row.attempts), (Status::Failed, 4));
}
