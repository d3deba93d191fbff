//! The engine for several hosts: a PostgreSQL server that any number of processes share.
//!
//! Writes of a kind that come together are one statement (`batches`); the others are a transaction
//! each (`session`). The server's clock is the store's: SQL says `now()`, and no time of this host
//! is compared with it. `verbs/` says how each verb runs; the other files hold the SQL.

mod accept;
mod batches;
mod columns;
mod connect;
mod error;
mod schema;
mod session;
mod tls;
mod verbs;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::{accept::Accepted, batches::Batches, session::Sessions};
use super::{
    NewJob, StoreError, Trouble,
    metrics::{Measures, QueueLevel},
};
use crate::config::{PostgresSettings, StoreSettings};

/// The batches of a kind that are under way at a time.
const IN_FLIGHT: usize = 2;

/// An open database.
pub(super) struct Postgres {
    id: String,
    sessions: Arc<Sessions>,
    accepts: Batches<NewJob, Accepted>,
    measures: Measures,
    idempotency_window: Duration,
    operator_patience: Duration,
    closed: CancellationToken,
}

impl Postgres {
    pub(super) async fn open(
        postgres: &PostgresSettings,
        settings: &StoreSettings,
    ) -> Result<Self, StoreError> {
        let sessions = Arc::new(Sessions::of(connect::pool(postgres)?));
        let id = schema::migrate(&sessions).await?;
        Ok(Self {
            id,
            accepts: accept::batches(&sessions, settings),
            sessions,
            measures: Measures::new(),
            idempotency_window: settings.idempotency_window,
            operator_patience: settings.operator_patience,
            closed: CancellationToken::new(),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) async fn check(&self) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.sessions.condition().trouble()
    }

    pub(super) fn measures(&self) -> &Measures {
        &self.measures
    }

    pub(super) fn queue_levels(&self) -> (QueueLevel, QueueLevel) {
        unimplemented!()
    }

    pub(super) async fn ended(&self) {
        self.closed.cancelled().await;
    }

    pub(super) async fn close(&self) {
        self.closed.cancel();
        self.sessions.pool().close();
    }
}
