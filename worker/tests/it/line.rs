//! One job through a worker with a scripted transport instead of the network.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::StatusCode;
use storm_shared::{
    config::Settings,
    models::{CallbackUrl, EventKind, FailureReason, RequestId, Status},
    services::store::Store,
};
use storm_worker::{
    delivery::{
        AttemptError, ConnectionPermit, Message, Network, Resends, SystemResolver, Transport,
    },
    handlers::{Handlers, http::HttpClient},
    metrics::Metrics,
    workers::Running,
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    program_database,
    rows::{self, Rows},
};

/// A receiver that always returns 500 and records each callback with its time.
struct AlwaysFails {
    attempts: mpsc::Sender<(Instant, Bytes)>,
}

impl Transport for AlwaysFails {
    fn attempt<'a>(
        &'a self,
        _permit: ConnectionPermit,
        _url: &'a CallbackUrl,
        message: &'a Message,
        _resends: &'a dyn Resends,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>> {
        let attempt = (Instant::now(), message.body.clone());
        self.attempts.try_send(attempt).unwrap();
        Box::pin(async {
            Err(AttemptError::Status {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                retry_after: None,
            })
        })
    }
}

/// A transport whose attempts panic.
struct Panics;

impl Transport for Panics {
    fn attempt<'a>(
        &'a self,
        _permit: ConnectionPermit,
        _url: &'a CallbackUrl,
        _message: &'a Message,
        _resends: &'a dyn Resends,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>> {
        panic!("the test asks for this panic")
    }
}

/// A job, and the running worker that claims it.
pub(crate) struct Started {
    store: Store,
    pub(crate) id: RequestId,
    _shutdown: DropGuard,
    _running: Running,
    _folder: TempDir,
}

impl Started {
    pub(crate) async fn with(
        transport: impl Transport + 'static,
        overrides: &[(&str, &str)],
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let url = program_database::url(folder.path());
        let base = [("DB_URL", url.as_str())];
        let settings = Settings::with(base.iter().chain(overrides).copied()).unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        let shutdown = CancellationToken::new();
        let network = Network::with_resolver(Arc::new(SystemResolver::new()));
        let client = HttpClient::new(network, None).unwrap();
        let handlers = Handlers::without_code(&settings, client).unwrap();
        let running = Running::start(
            &store,
            None,
            Arc::new(transport),
            &settings,
            handlers,
            &Metrics::new(),
            shutdown.clone(),
        );
        let url = "http://192.0.2.1/".to_owned();
        let id = rows::accept(&store, 1, Some(url)).await;
        Self {
            store,
            id,
            _shutdown: shutdown.drop_guard(),
            _running: running,
            _folder: folder,
        }
    }
}

impl Rows for Started {
    fn store(&self) -> &Store {
        &self.store
    }
}

#[tokio::test]
async fn each_retry_waits_its_delay_and_sends_the_same_bytes_under_a_new_claim() {
    let (record, mut recorded) = mpsc::channel(10);
    let transport = AlwaysFails { attempts: record };
    let job = Started::with(transport, &[("CALLBACK_RETRY_DELAYS", "100ms,200ms,400ms")]).await;
    let mut attempts = Vec::new();
    for _ in 0..4 {
        attempts.push(recorded.recv().await.unwrap());
    }
    let waits = attempts.windows(2).map(|pair| pair[1].0 - pair[0].0);
    for (waited, delay) in waits.zip([100, 200, 400]) {
        // The store rounds times to whole milliseconds.
        assert!(
            waited > Duration::from_millis(delay - 1),
            "{waited:?} of {delay} ms"
        );
    }
    let same = attempts.iter().all(|(_, body)| *body == attempts[0].1);
    assert!(same, "the same bytes in every attempt");
    let row = job.ended(job.id).await;
    assert_eq!(
        (row.status, row.attempts.len(), row.claims),
        (Status::Failed, 4, 4)
    );
    let events: Vec<_> = row.events.iter().map(|event| event.event).collect();
    assert_eq!(events, [EventKind::AttemptFailed; 4]);
}

#[tokio::test]
async fn a_panicking_job_fails_alone_with_a_reason() {
    let job = Started::with(Panics, &[]).await;
    let row = job.ended(job.id).await;
    assert_eq!(row.failure.unwrap().reason, FailureReason::InternalError);
}
