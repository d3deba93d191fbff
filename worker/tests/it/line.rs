//! The line of a job over a stand-in for the network, on a clock that only moves when everybody waits.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::StatusCode;
use storm_shared::{
    config::Settings,
    models::{
        CallbackUrl, FailureReason, Records, ReportName, ReportSpec, Request, RequestId, Status,
    },
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

/// A network that takes the whole attempt down.
struct Panics;

impl Attempt for Panics {
    fn attempt<'a>(
        &'a self,
        _url: &'a CallbackUrl,
        _body: Bytes,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>> {
        panic!("as this test wants")
    }
}

/// A job that a worker with that network has taken on.
struct Started {
    store: Store,
    id: RequestId,
    _worker: Arc<CallbackWorker>,
    _folder: TempDir,
}

impl Started {
    /// With the contract's settings.
    async fn over(network: impl Attempt + 'static) -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite:{}", folder.path().join("storm.db").display());
        let settings = Settings::with([("DB_URL", url.as_str())]).unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        let worker = CallbackWorker::new(
            store.clone(),
            Arc::new(network),
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
        let url = Some("http://192.0.2.1/".to_owned());
        store.accept(id, &spec, url).await.unwrap();
        worker.take_on(vec![id], Source::Table).await.unwrap();
        Self {
            store,
            id,
            _worker: worker,
            _folder: folder,
        }
    }

    /// The row when it has ended. Without a timer: the paused clock would jump to it while the
    /// database works.
    async fn ended(&self) -> Request {
        loop {
            let row = self.store.find(self.id).await.unwrap().unwrap();
            if row.status != Status::Processing {
                return row;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn three_retries_follow_after_two_four_and_eight_seconds() {
    let (tell, mut hear) = mpsc::channel(10);
    let job = Started::over(AlwaysFails { heard: tell }).await;
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(hear.recv().await.unwrap());
    }
    let waits: Vec<_> = heard.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert_eq!(waits, [2, 4, 8].map(Duration::from_secs));
    let same = heard.iter().all(|(_, body)| *body == heard[0].1);
    assert!(same, "the same bytes on every try");
    let row = job.ended().await;
    assert_eq!((row.status, row.attempts), (Status::Failed, 4));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_panics_fails_alone_and_says_so() {
    let job = Started::over(Panics).await;
    let row = job.ended().await;
    assert_eq!(row.failure.unwrap().reason, FailureReason::InternalError);
}
