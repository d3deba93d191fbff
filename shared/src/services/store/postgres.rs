//! The engine for several hosts: a `PostgreSQL` server that any number of processes share.
//!
//! Writes of a kind that come together are one statement (`batches`); the others are a transaction
//! each (`session`). The server's clock is the store's: SQL says `now()`, and no time of this host
//! is compared with it. `verbs/` says how each verb runs; the other files hold the SQL.

mod accept;
mod attempts;
mod audit;
mod batches;
mod breakers;
mod bulk;
mod cancel;
mod claim;
mod columns;
mod confirm;
mod connect;
mod erase;
mod error;
mod events;
mod find;
#[cfg(test)]
pub(super) mod fresh;
mod function;
mod handlers;
mod health;
mod hosts;
mod idempotency;
mod known;
mod lanes;
mod lease;
mod list;
mod load;
mod look;
mod measuring;
pub(super) mod moving;
mod notes;
mod oldest_due;
mod open;
mod overview;
mod pages;
mod pause;
#[cfg(test)]
mod plans;
mod progress;
mod record;
mod redelivery;
mod retention;
mod schema;
mod session;
mod settle;
mod stall;
mod state;
mod stats;
mod suspects;
mod timeline;
mod tls;
mod unpark;
mod verbs;
mod worked;

use std::{sync::Arc, time::Duration};

use self::{
    accept::Answer, batches::Batches, measuring::Measured, pages::Pages, session::Sessions,
    settle::End,
};
use super::{
    NewJob, StoreError, Trouble,
    metrics::{Connections, Measures, OwnGauge, QueueLevel},
    recent::Recent,
};
use crate::config::{PostgresSettings, StoreSettings};

/// The most pages of lists that wait or are read.
const LISTS: usize = 64;

/// The same of operators' actions, which clients' lists do not crowd out.
const SELECTIONS: usize = 16;

/// The batches of a kind that are under way at a time.
const IN_FLIGHT: usize = 2;

/// An open database.
pub(super) struct Postgres {
    id: String,
    sessions: Arc<Sessions>,
    known: known::Known,
    accepts: Batches<NewJob, Answer>,
    settlements: Batches<End, settle::Answer>,
    lists: Pages,
    selections: Pages,
    measured: Arc<Measured>,
    health_slot: i16,
    recent_check: Recent,
    operator_patience: Duration,
}

impl Postgres {
    pub(super) async fn open(
        postgres: &PostgresSettings,
        settings: &StoreSettings,
    ) -> Result<Self, StoreError> {
        let sessions = Arc::new(Sessions::of(connect::pool(postgres)?, settings.write_queue));
        let id = open::open(&sessions, postgres).await?;
        Ok(Self {
            measured: measuring::keep_measuring(&sessions).await,
            ..Self::start(id, sessions, settings)
        })
    }

    /// Starts to gather writes.
    fn start(id: String, sessions: Arc<Sessions>, settings: &StoreSettings) -> Self {
        Self {
            id,
            measured: Arc::default(),
            accepts: accept::batches(&sessions, settings),
            settlements: settle::batches(&sessions),
            sessions,
            lists: Pages::up_to(LISTS),
            selections: Pages::up_to(SELECTIONS),
            health_slot: health::slot(),
            recent_check: Recent::with_period(Duration::from_secs(1)),
            known: known::Known::default(),
            operator_patience: settings.operator_patience,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) async fn check(&self) -> Result<(), StoreError> {
        let write = || {
            let (sessions, slot) = (Arc::clone(&self.sessions), self.health_slot);
            async move { health::write(&sessions, slot).await }
        };
        self.recent_check.result(write).await?;
        // Another transaction may have failed since that of the check.
        match self.trouble() {
            None => Ok(()),
            Some(trouble) => Err(StoreError::Failed {
                trouble,
                message: "the last transaction failed".into(),
            }),
        }
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.sessions.condition().trouble()
    }

    pub(super) fn measures(&self) -> &Measures {
        self.sessions.measures()
    }

    pub(super) fn queue_levels(&self) -> (QueueLevel, QueueLevel) {
        self.sessions.queue_levels()
    }

    pub(super) fn own_gauges(&self) -> Vec<OwnGauge> {
        let connections = self.sessions.connections();
        let count = |connections: usize| connections.try_into().unwrap_or(u64::MAX);
        let mut gauges = vec![
            (
                "postgres_connections",
                "Open connections to the server.",
                count(connections.open),
            ),
            (
                "postgres_connections_used",
                "Connections to the server that do something.",
                count(connections.in_use),
            ),
            (
                "postgres_connections_waiting",
                "Reads and writes that wait for a connection to the server.",
                count(connections.waiting),
            ),
            (
                "postgres_connections_limit",
                "Connections to the server that may be open.",
                count(connections.limit),
            ),
        ];
        gauges.extend(self.measured.gauges());
        gauges
    }

    #[allow(clippy::unnecessary_wraps, reason = "the other engine has none")]
    pub(super) fn connections(&self) -> Option<Connections> {
        Some(self.sessions.connections())
    }

    pub(super) async fn ended(&self) {
        self.sessions.closing().cancelled().await;
    }

    pub(super) async fn close(&self) {
        self.sessions.close().await;
    }
}
