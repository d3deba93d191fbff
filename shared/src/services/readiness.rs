//! Readiness: whether a service can do its work now. The answer to `/readyz` of both services.
//!
//! A service is not ready while it starts, while it drains, and once its database has been out of
//! reach for five seconds. It is ready without Redis, since jobs run from the database.

mod observer;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde::{Serialize, Serializer};
use tokio_util::sync::CancellationToken;

use self::observer::{Checks, Observed, Observer};
use super::{
    health::{self, CheckResult, NOT_OPEN_YET, UNAVAILABLE},
    queue::Queue,
    store::Store,
};

/// A shorter outage of the database keeps the service ready: clients that retry do not see it, and
/// all instances share the database, so that none of them could take over.
const PATIENCE: Duration = Duration::from_secs(5);

/// The readiness of one process, from its start to its end. Clones share it.
#[derive(Clone)]
pub struct Readiness {
    shutdown: CancellationToken,
    observer: Arc<OnceLock<Observer>>,
}

/// The answer to `/readyz`: `status`, then the result of each check under its name.
#[derive(Clone, Debug)]
pub struct Ready {
    status: &'static str,
    checks: Vec<(&'static str, CheckResult)>,
}

impl Readiness {
    /// A service that starts. It drains from the moment when `shutdown` is cancelled.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            shutdown,
            observer: Arc::default(),
        }
    }

    /// The database is open: the service is ready while `store` can be reached.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn opened(&self, store: &Store, queue: Option<&Queue>) {
        let checks = StoreAndQueue {
            store: store.clone(),
            queue: queue.cloned(),
        };
        self.observer.get_or_init(|| Observer::start(checks));
    }

    /// Whether the service is ready. Takes at most about a second, and however many ask, the
    /// database is checked about once a second.
    pub async fn check(&self) -> Ready {
        if self.shutdown.is_cancelled() {
            return Ready::not("draining");
        }
        match self.observer.get() {
            None => Ready::starting(),
            Some(observer) => Ready::of(&observer.latest().await),
        }
    }
}

impl Ready {
    fn not(status: &'static str) -> Self {
        Self {
            status,
            checks: Vec::new(),
        }
    }

    /// As in `/healthz`. The log says why the database is not open.
    fn starting() -> Self {
        let database = CheckResult::Failing(NOT_OPEN_YET.into());
        Self {
            status: "starting",
            checks: vec![("database", database)],
        }
    }

    fn of(observed: &Observed) -> Self {
        let reachable = observed.last_success.elapsed() < PATIENCE;
        let status = if reachable { READY } else { UNAVAILABLE };
        let checks = vec![
            ("database", observed.database.clone()),
            ("redis", observed.redis.clone()),
        ];
        Self { status, checks }
    }

    /// Adds the result of a check without which the service cannot work. Has no effect on a service
    /// that is not ready anyway.
    pub fn and(mut self, name: &'static str, result: CheckResult) -> Self {
        if self.checks.is_empty() {
            return self;
        }
        if result.is_failing() {
            self.status = UNAVAILABLE;
        }
        self.checks.push((name, result));
        self
    }

    /// Whether the service is ready: 200 or 503.
    pub fn is_ready(&self) -> bool {
        self.status == READY
    }
}

const READY: &str = "ready";

impl Serialize for Ready {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        health::serialize(self.status, &self.checks, serializer)
    }
}

/// Checks the store and the queue.
struct StoreAndQueue {
    store: Store,
    queue: Option<Queue>,
}

impl Checks for StoreAndQueue {
    async fn run(&mut self) -> (CheckResult, CheckResult) {
        tokio::join!(
            health::check_database(&self.store),
            health::check_redis(self.queue.as_ref()),
        )
    }
}
