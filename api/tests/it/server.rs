//! An in-process server for one test, with its own port and database.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use storm_api::{App, Error, auth::AuthLayer, metrics::Metrics, serving};
use storm_shared::config::Settings;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE,
    client::{Answer, Client},
    program_database::{self, Direct, Row, folder_on_sqlite},
};

/// An address where nothing listens. Most promises hold without Redis.
pub(crate) const NO_REDIS: (&str, &str) = ("REDIS_URL", "redis://127.0.0.1:1");

/// Long timeouts, so that a busy machine does not cause one in tests of something else.
const NO_HURRY: [(&str, &str); 2] = [("SYNC_TIMEOUT", "10m"), ("HTTP_TIMEOUT", "10m")];

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) app: Arc<App>,
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
    folder: TempDir,
}

/// Occupies one thread of the pool until dropped.
pub(crate) struct Gate {
    _open: oneshot::Sender<()>,
}

/// Settings with the database of `folder`.
pub(crate) fn settings(folder: &TempDir, overrides: &[(&str, &str)]) -> Settings {
    let database = program_database::url(folder.path());
    let ours = NO_HURRY
        .into_iter()
        .chain([NO_REDIS, ("DB_URL", &database)]);
    Settings::with(ours.chain(overrides.iter().copied())).unwrap()
}

impl Server {
    pub(crate) async fn start(overrides: &[(&str, &str)]) -> Self {
        Self::start_in(TempDir::new().unwrap(), overrides).await
    }

    /// The same on `SQLite`.
    pub(crate) async fn on_sqlite(overrides: &[(&str, &str)]) -> Self {
        Self::start_in(folder_on_sqlite(), overrides).await
    }

    async fn start_in(folder: TempDir, overrides: &[(&str, &str)]) -> Self {
        let settings = settings(&folder, overrides);
        let metrics = Metrics::new();
        let auth = AuthLayer::for_api(&settings, metrics.clone());
        let app = App::start(settings, metrics).await.unwrap();
        app.admission.counted().await; // ready from the first request on
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serving::serve(
            Arc::clone(&app),
            auth,
            listener,
            shutdown.clone(),
        ));
        Self {
            addr,
            app,
            shutdown,
            task,
            folder,
        }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// Sends one request on a new connection.
    pub(crate) async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut client = self.connect().await;
        client.send(request).await;
        client.answer().await
    }

    /// Occupies every thread of the `/sync` pool.
    pub(crate) async fn occupy(&self) -> Vec<Gate> {
        let mut gates = Vec::new();
        for _ in 0..self.app.settings.api.sync_threads {
            gates.push(self.gate().await);
        }
        gates
    }

    async fn gate(&self) -> Gate {
        let (begun, has_begun) = oneshot::channel();
        let (open, opened) = oneshot::channel::<()>();
        let work = move || {
            begun.send(()).unwrap();
            let _ = opened.blocking_recv();
        };
        tokio::spawn(self.app.pool.admit().unwrap().run(work));
        timeout(PATIENCE, has_begun)
            .await
            .expect("a thread")
            .unwrap();
        Gate { _open: open }
    }

    /// True if one request is queued while every thread is occupied.
    pub(crate) fn one_waits(&self) -> bool {
        self.app.pool.admitted() == self.app.settings.api.sync_threads + 1
    }

    /// Opens a second connection to the server's database.
    pub(crate) async fn database(&self) -> Direct {
        Direct::open(self.folder.path()).await
    }

    /// Status and failure reason of every recorded sync request.
    pub(crate) async fn sync_rows(&self) -> Vec<(String, Option<String>)> {
        let query = "SELECT status, failure_reason FROM requests WHERE mode = 'sync' ORDER BY id";
        let rows = self.database().await.rows(query).await;
        let row = |mut row: Row| (row[0].take().unwrap(), row[1].take());
        rows.into_iter().map(row).collect()
    }

    /// Waits until these are the recorded sync requests.
    pub(crate) async fn until_sync_rows(&self, expected: &[(String, Option<String>)]) {
        // SQLite's answer is there at once: the server, on the same thread, needs its turn.
        let recorded = async {
            while self.sync_rows().await != expected {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, recorded).await.expect("the record");
    }

    /// Waits for the server to end and returns its result.
    pub(crate) async fn ended(self) -> Result<(), Error> {
        drop(self.app);
        timeout(PATIENCE, self.task).await.expect("an end").unwrap()
    }
}
