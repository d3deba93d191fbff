//! Whether the database and Redis answer: what `/healthz` says of both services.

use std::{fmt::Display, time::Duration};

use serde::Serialize;
use tracing::debug;

use super::{queue::Queue, store::Store};

/// How long each check may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// The body of `/healthz`: `ok`, or what is wrong with each.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    status: &'static str,
    database: String,
    redis: String,
}

impl Health {
    /// Asks both at the same time.
    pub async fn check(store: &Store, queue: &Queue) -> Self {
        let (database, redis) = tokio::join!(
            verdict("database", store.check()),
            verdict("redis", queue.check())
        );
        let ok = database == OK && redis == OK;
        Self {
            status: if ok { OK } else { "unavailable" },
            database,
            redis,
        }
    }

    /// Whether both answered: 200 or 503.
    pub fn is_ok(&self) -> bool {
        self.status == OK
    }
}

const OK: &str = "ok";

/// The error itself is for the log: it can name paths and addresses.
async fn verdict<E: Display>(
    what: &'static str,
    check: impl Future<Output = Result<(), E>>,
) -> String {
    match tokio::time::timeout(DEADLINE, check).await {
        Ok(Ok(())) => OK.to_owned(),
        Ok(Err(error)) => {
            debug!(what, %error, "a health check failed");
            "unreachable".to_owned()
        }
        Err(_) => format!("no answer within {} s", DEADLINE.as_secs()),
    }
}
