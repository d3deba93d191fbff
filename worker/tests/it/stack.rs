//! An in-process worker with its own database.

use std::{sync::Arc, time::Duration};

use storm_shared::{
    config::Settings,
    models::{FailureReason, Request},
    services::{
        queue::{Notifier, Queue},
        store::Store,
    },
};
use storm_worker::{Builder, delivery::SystemResolver};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    program_database::{self, Direct},
    rows::Rows,
};

/// A worker with its own database.
pub(crate) struct Stack {
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    addr: std::net::SocketAddr,
    pub(crate) shutdown: CancellationToken,
    worker: JoinHandle<Result<(), storm_worker::Error>>,
    folder: Arc<TempDir>,
}

/// A Redis URL at which nothing listens.
pub(crate) const NO_REDIS: &str = "redis://127.0.0.1:1";

/// Far longer than a test takes.
pub(crate) const NO_TIMEOUT: (&str, &str) = ("CALLBACK_TIMEOUT", "1h");

/// The drain does not wait for hanging attempts.
pub(crate) const NO_DRAIN: (&str, &str) = ("DRAIN_TIMEOUT", "1ms");

/// Fast retries, and loopback allowed by the SSRF policy.
const QUICK: [(&str, &str); 3] = [
    ("CALLBACK_ALLOW", "127.0.0.1/32"),
    ("CALLBACK_RETRY_DELAYS", "10ms,20ms,40ms"),
    ("DB_SYNCHRONOUS", "normal"),
];

impl Stack {
    /// A worker with `REDIS_URL=none`.
    pub(crate) async fn without_redis(overrides: &[(&str, &str)]) -> Self {
        Self::start(Arc::new(TempDir::new().unwrap()), "none", overrides).await
    }

    /// Like `without_redis`, with `resolver` for the names.
    pub(crate) async fn with_names(resolver: SystemResolver, overrides: &[(&str, &str)]) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        Self::begin(folder, "none", resolver, Builder::new(), overrides, |_| {}).await
    }

    pub(crate) async fn start(
        folder: Arc<TempDir>,
        redis: &str,
        overrides: &[(&str, &str)],
    ) -> Self {
        let resolver = SystemResolver::new();
        Self::begin(folder, redis, resolver, Builder::new(), overrides, |_| {}).await
    }

    /// Like `without_redis`, with the handlers of `builder`.
    pub(crate) async fn with_handlers(builder: Builder, overrides: &[(&str, &str)]) -> Self {
        Self::with_handlers_and_redis(builder, "none", overrides).await
    }

    pub(crate) async fn with_handlers_and_redis(
        builder: Builder,
        redis: &str,
        overrides: &[(&str, &str)],
    ) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let resolver = SystemResolver::new();
        Self::begin(folder, redis, resolver, builder, overrides, |_| {}).await
    }

    /// Like `start`, with a memory budget that no setting accepts.
    pub(crate) async fn with_memory(bytes: usize, redis: &str) -> Self {
        Self::with_memory_and(bytes, redis, &[]).await
    }

    pub(crate) async fn with_memory_and(
        bytes: usize,
        redis: &str,
        overrides: &[(&str, &str)],
    ) -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let change = |settings: &mut Settings| settings.memory_budget = bytes;
        let resolver = SystemResolver::new();
        Self::begin(folder, redis, resolver, Builder::new(), overrides, change).await
    }

    async fn begin(
        folder: Arc<TempDir>,
        redis: &str,
        resolver: SystemResolver,
        builder: Builder,
        overrides: &[(&str, &str)],
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let url = program_database::url(folder.path());
        let base = [("DB_URL", url.as_str()), ("REDIS_URL", redis)];
        let all = QUICK.iter().chain(&base).chain(overrides).copied();
        let mut settings = Settings::with(all).unwrap();
        change(&mut settings);
        let store = Store::open(&settings.store).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let worker = tokio::spawn(builder.run(
            listener,
            settings.clone(),
            Arc::new(resolver),
            shutdown.clone(),
        ));
        Self {
            store,
            settings,
            addr,
            shutdown,
            worker,
            folder,
        }
    }

    /// Another program's connection to the database.
    pub(crate) async fn database(&self) -> Direct {
        Direct::open(self.folder.path()).await
    }

    /// A notifier as the API uses it.
    pub(crate) fn notifier(&self) -> Notifier {
        let queue = self.settings.queue.as_ref().unwrap();
        Notifier::start(Queue::new(queue, self.store.id()).unwrap())
    }

    /// Shuts the worker down gracefully and waits for its end. Dropping the folder deletes the
    /// store's files.
    pub(crate) async fn stop(self) -> (Store, Arc<TempDir>) {
        self.shutdown.cancel();
        self.worker.await.unwrap().unwrap();
        (self.store, self.folder)
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        self.get_with_header(path, "accept: */*").await
    }

    /// Polls `path` until the answer contains `part`.
    pub(crate) async fn until_shown(&self, path: &str, part: &str) {
        while !self.get(path).await.contains(part) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Like `get`, with one more header line. Waits for a worker that is still starting.
    pub(crate) async fn get_with_header(&self, path: &str, line: &str) -> String {
        loop {
            let answer = self
                .ask(&format!(
                    "GET {path} HTTP/1.1\r\nhost: localhost\r\n{line}\r\n"
                ))
                .await;
            if !answer.contains("not open yet") {
                return answer;
            }
        }
    }

    /// Sends the beginning of a head, and closes it.
    pub(crate) async fn ask(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!("{head}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

impl Rows for Stack {
    fn store(&self) -> &Store {
        &self.store
    }
}

pub(crate) fn reason(row: &Request) -> FailureReason {
    row.failure.as_ref().unwrap().reason
}
