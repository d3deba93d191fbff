//! The verbs of operators, and the counts for metrics and admission control.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rusqlite::Connection;

use super::super::{
    Sqlite, audit, bulk, handlers, load, look, oldest_due, open, overview, pause, stats,
};
use crate::{
    config::{SqliteSettings, StoreSettings},
    models::{ClientName, Destination, HandlerName},
    services::store::{
        Applied, AuditRecord, Bulk, HandlerLoad, Load, Overview, Pause, Paused, Selected,
        SelectionPage, Stats, StoreError, TooManyPauses,
    },
};

impl Sqlite {
    pub(in crate::services::store) async fn attach(
        sqlite: &SqliteSettings,
        settings: &StoreSettings,
    ) -> Result<Self, StoreError> {
        Ok(Self::start(open::attach(sqlite).await?, sqlite, settings))
    }

    pub(in crate::services::store) async fn oldest_due_age(
        &self,
    ) -> Result<Option<Duration>, StoreError> {
        self.readers
            .read(self.timed(oldest_due::oldest_due_age))
            .await
    }

    pub(in crate::services::store) async fn destinations_over_limit(
        &self,
        most: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        self.readers
            .read_long(move |db| look::destinations_over_limit(db, most))
            .await
    }

    pub(in crate::services::store) async fn load(
        &self,
        most: usize,
        grace: Duration,
        by_handler: bool,
    ) -> Result<Load, StoreError> {
        let count = self
            .timed(move |db: &Connection, now| load::load(db, most, now.after(grace), by_handler));
        self.readers.read_long(count).await
    }

    pub(in crate::services::store) async fn handlers_load(
        &self,
    ) -> Result<BTreeMap<HandlerName, HandlerLoad>, StoreError> {
        let clock = Arc::clone(&self.clock);
        let count = move |db: &Connection| handlers::load(db, &clock);
        self.readers.read_long(count).await
    }

    pub(in crate::services::store) async fn pause(
        &self,
        what: Paused,
        operator: ClientName,
    ) -> Result<Result<bool, TooManyPauses>, StoreError> {
        self.writer
            .write_within(self.operator_patience, move |tx| {
                pause::begin(tx, &what, &operator)
            })
            .await
    }

    pub(in crate::services::store) async fn resume(
        &self,
        what: Paused,
        operator: ClientName,
    ) -> Result<bool, StoreError> {
        self.writer
            .write_within(
                self.operator_patience,
                self.timed(move |tx, now| pause::end(tx, &what, &operator, now)),
            )
            .await
    }

    pub(in crate::services::store) async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        self.readers.read(pause::list).await
    }

    pub(in crate::services::store) async fn select(
        &self,
        page: SelectionPage,
    ) -> Result<Selected, StoreError> {
        let read = move |db: &Connection| bulk::select(db, &page);
        self.read_many(&self.selection_queue, read).await
    }

    pub(in crate::services::store) async fn apply(
        &self,
        bulk: Bulk,
    ) -> Result<Applied, StoreError> {
        self.writer
            .write_within(
                self.operator_patience,
                self.timed(move |tx, now| bulk::apply(tx, &bulk, now)),
            )
            .await
    }

    pub(in crate::services::store) async fn audit(
        &self,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.readers
            .read(move |db| audit::read(db, before, limit))
            .await
    }

    pub(in crate::services::store) async fn stats(&self) -> Result<Stats, StoreError> {
        let (path, id, clock) = (self.path.clone(), self.id.clone(), Arc::clone(&self.clock));
        self.readers
            .read(move |db| stats::read(db, &path, id, clock.now()))
            .await
    }

    pub(in crate::services::store) async fn overview(&self) -> Result<Overview, StoreError> {
        self.readers.read(overview::read).await
    }
}
