//! The verbs of operators, and the counts for metrics and admission control.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_postgres::types::Type;

use super::super::{
    Postgres, Sessions, audit, bulk, columns, connect, error::Error, handlers, load, oldest_due,
    open, overview, pause, stats,
};
use crate::{
    config::{PostgresSettings, StoreSettings},
    models::{ClientName, Destination, HandlerName},
    services::store::{
        Applied, AuditRecord, Bulk, HandlerLoad, Load, Overview, Pause, Paused, Selected,
        SelectionPage, Stats, StoreError, TooManyPauses,
    },
};

impl Postgres {
    pub(in crate::services::store) async fn attach(
        postgres: &PostgresSettings,
        settings: &StoreSettings,
    ) -> Result<Self, StoreError> {
        let sessions = Arc::new(Sessions::of(connect::pool(postgres)?, settings.write_queue));
        let id = open::attach(&sessions, postgres).await?;
        Ok(Self::start(id, sessions, settings))
    }

    pub(in crate::services::store) async fn oldest_due_age(
        &self,
    ) -> Result<Option<Duration>, StoreError> {
        self.sessions
            .snapshot(async |session| oldest_due::oldest_due_age(session).await)
            .await
    }

    pub(in crate::services::store) async fn destinations_over_limit(
        &self,
        most: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        load::destinations_over_limit(&self.sessions, most).await
    }

    pub(in crate::services::store) async fn load(
        &self,
        most: usize,
        grace: Duration,
        by_handler: bool,
    ) -> Result<Load, StoreError> {
        load::load(&self.sessions, most, grace, by_handler).await
    }

    pub(in crate::services::store) async fn handlers_load(
        &self,
    ) -> Result<BTreeMap<HandlerName, HandlerLoad>, StoreError> {
        handlers::load(&self.sessions).await
    }

    pub(in crate::services::store) async fn pause(
        &self,
        what: Paused,
        operator: ClientName,
    ) -> Result<Result<bool, TooManyPauses>, StoreError> {
        let what = Arc::new((what, operator));
        self.sessions
            .write_within(self.operator_patience, move |session| {
                let what = Arc::clone(&what);
                async move { pause::begin(&session, &what.0, &what.1).await }
            })
            .await
    }

    pub(in crate::services::store) async fn resume(
        &self,
        what: Paused,
        operator: ClientName,
    ) -> Result<bool, StoreError> {
        let what = Arc::new((what, operator));
        self.sessions
            .write_within(self.operator_patience, move |session| {
                let what = Arc::clone(&what);
                async move { pause::end(&session, &what.0, &what.1).await }
            })
            .await
    }

    pub(in crate::services::store) async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        let rows = self.sessions.query(pause::LIST, &[]).await?;
        let pauses: Result<_, Error> = rows.iter().map(pause::listed).collect();
        pauses.map_err(|error| error.into_store(false))
    }

    pub(in crate::services::store) async fn select(
        &self,
        page: SelectionPage,
    ) -> Result<Selected, StoreError> {
        let read = bulk::select(&self.sessions, &page);
        self.selections.read(read).await
    }

    pub(in crate::services::store) async fn apply(
        &self,
        bulk: Bulk,
    ) -> Result<Applied, StoreError> {
        let bulk = Arc::new(bulk);
        self.sessions
            .write_within(self.operator_patience, move |session| {
                let bulk = Arc::clone(&bulk);
                async move { bulk::apply(&session, &bulk).await }
            })
            .await
    }

    pub(in crate::services::store) async fn audit(
        &self,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        let (before, limit) = (before.unwrap_or(i64::MAX), columns::integer(limit));
        let page = [(&before as _, Type::INT8), (&limit as _, Type::INT8)];
        let rows = self.sessions.query(audit::READ, &page).await?;
        let records: Result<_, Error> = rows.iter().map(audit::read).collect();
        records.map_err(|error| error.into_store(false))
    }

    pub(in crate::services::store) async fn stats(&self) -> Result<Stats, StoreError> {
        stats::read(&self.sessions, &self.id).await
    }

    pub(in crate::services::store) async fn overview(&self) -> Result<Overview, StoreError> {
        overview::read(&self.sessions).await
    }
}
