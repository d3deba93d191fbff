//! The verbs of clients: requests are accepted, found, listed, cancelled, erased and redelivered.

#![allow(unused_imports, unused_variables, clippy::unimplemented)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::super::{
    Postgres, find,
    idempotency::{self, Key},
};
use crate::{
    models::{ClientName, Failure, HandlerName, Origin, ReportSpec, Request, RequestId},
    services::{
        report::Report,
        store::{
            Acceptance, Cancelled, Erased, ListPage, NewJob, Progress, Redeliverable,
            RedeliveryPage, RequestList, Scope, StoreError, Uncancellable, Unerasable,
            Unredeliverable, job::to_json,
        },
    },
};

impl Postgres {
    pub(in crate::services::store) async fn accept(
        &self,
        job: NewJob,
    ) -> Result<Acceptance, StoreError> {
        let bytes = job.input.len();
        // Load shedding: the API answers 503, while a worker's writes wait for room.
        self.accepts.try_write(job, bytes).await.flatten()
    }

    pub(in crate::services::store) async fn accepted_before(
        &self,
        job: &NewJob,
    ) -> Result<Option<Acceptance>, StoreError> {
        // What can be read is durable: the server shows no commit before it is.
        let found = idempotency::find(&self.sessions, &[job]).await;
        let found = found.map_err(|error| error.into_store(false))?;
        Ok(found.into_iter().find_map(|key| match key {
            Key::Of(earlier) => Some(earlier),
            Key::Free(_) => None,
        }))
    }

    pub(in crate::services::store) async fn record_sync(
        &self,
        id: RequestId,
        created_at: Timestamp,
        spec: &ReportSpec,
        created_by: Option<ClientName>,
        ended: Result<&Report, &Failure>,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn cancel(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Cancelled, Uncancellable>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn erase(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Erased, Unerasable>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn origin_of(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Option<Origin>, Unredeliverable>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn redeliver(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<(), Unredeliverable>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn redeliver_all(
        &self,
        scope: Scope,
        ids: Vec<RequestId>,
    ) -> Result<usize, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn redeliverable(
        &self,
        scope: Scope,
        page: RedeliveryPage,
    ) -> Result<Redeliverable, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn find(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Option<Request>, StoreError> {
        find::find(&self.sessions, &scope, id).await
    }

    pub(in crate::services::store) async fn progress_of(
        &self,
        ids: &[RequestId],
    ) -> Result<Vec<Progress>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn list(
        &self,
        scope: Scope,
        page: ListPage,
    ) -> Result<RequestList, StoreError> {
        unimplemented!()
    }
}
