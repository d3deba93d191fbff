//! The verbs of operators, and the counts for metrics and admission control.

#![allow(unused_imports, unused_variables, clippy::unimplemented)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::super::Postgres;
use crate::{
    config::{PostgresSettings, StoreSettings},
    models::{ClientName, Destination, HandlerName},
    services::store::{
        Applied, AuditRecord, Bulk, HandlerLoad, Load, Pause, Paused, Selected, SelectionPage,
        Stats, StoreError, TooManyPauses,
    },
};

impl Postgres {
    pub(in crate::services::store) async fn attach(
        postgres: &PostgresSettings,
        settings: &StoreSettings,
    ) -> Result<Self, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn oldest_due_age(
        &self,
    ) -> Result<Option<Duration>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn destinations_over_limit(
        &self,
        most: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn load(
        &self,
        most: usize,
        grace: Duration,
        by_handler: bool,
    ) -> Result<Load, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn handlers_load(
        &self,
    ) -> Result<BTreeMap<HandlerName, HandlerLoad>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn pause(
        &self,
        what: Paused,
        operator: ClientName,
    ) -> Result<Result<bool, TooManyPauses>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn resume(
        &self,
        what: Paused,
        operator: ClientName,
    ) -> Result<bool, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn select(
        &self,
        page: SelectionPage,
    ) -> Result<Selected, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn apply(
        &self,
        bulk: Bulk,
    ) -> Result<Applied, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn audit(
        &self,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn stats(&self) -> Result<Stats, StoreError> {
        unimplemented!()
    }
}
