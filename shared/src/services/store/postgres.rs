//! The engine for several hosts: a PostgreSQL server that any number of processes share.
//!
//! Writes of a kind that come together are one statement (`batches`); the others are a transaction
//! each (`session`). The server's clock is the store's: SQL says `now()`, and no time of this host
//! is compared with it. `verbs/` says how each verb runs; the other files hold the SQL.

mod accept;
mod attempts;
mod batches;
mod breakers;
mod claim;
mod columns;
mod error;
mod events;
mod find;
mod idempotency;
mod lanes;
mod lease;
mod look;
mod notes;
mod redelivery;
mod retention;
mod schema;
mod session;
mod settle;
mod state;
mod suspects;
mod unpark;
mod verbs;

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

use self::{accept::Answer, batches::Batches, session::Sessions, settle::End};
use super::{
    NewJob, StoreError, Trouble,
    metrics::{Measures, QueueLevel},
};
use crate::config::StoreSettings;

/// The most connections of a process.
const CONNECTIONS: usize = 8;

/// The batches of a kind that are under way at a time.
const IN_FLIGHT: usize = 2;

/// An open database.
pub(super) struct Postgres {
    id: String,
    sessions: Arc<Sessions>,
    turn: look::Turn,
    accepts: Batches<NewJob, Answer>,
    settlements: Batches<End, bool>,
    measures: Measures,
    idempotency_window: Duration,
    operator_patience: Duration,
    closed: CancellationToken,
}

impl Postgres {
    pub(super) async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let url = settings.postgres.as_deref().unwrap_or_default();
        let config: tokio_postgres::Config = url
            .parse()
            .map_err(|error| StoreError::Unusable(format!("DB_URL can't be parsed: {error}")))?;
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let pool = Pool::builder(Manager::from_config(config, NoTls, recycling))
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Unusable(error.to_string()))?;
        let sessions = Arc::new(Sessions::of(pool));
        let id = schema::migrate(&sessions).await?;
        Ok(Self {
            id,
            accepts: accept::batches(&sessions, settings),
            settlements: settle::batches(&sessions, settings),
            sessions,
            turn: look::Turn::default(),
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
