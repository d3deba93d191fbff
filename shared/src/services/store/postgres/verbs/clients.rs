//! The verbs of clients: requests are accepted, found, listed, cancelled, erased and redelivered.

use std::{future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::super::{
    Postgres, cancel, erase,
    error::Error,
    find,
    idempotency::{self, Key},
    list, progress,
    record::{self, Ended},
    redelivery,
    session::{Session, Sessions},
};
use crate::{
    models::{ClientName, Failure, Origin, ReportSpec, Request, RequestId},
    services::{
        report::Report,
        store::{
            Acceptance, Cancelled, Erased, ListPage, NewJob, Progress, Redeliverable,
            RedeliveryPage, RequestList, Scope, StoreError, Uncancellable, Unerasable,
            Unredeliverable, cancel::Canceller, job::to_json,
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
        if job.idempotency_key.is_none() {
            return Ok(None);
        }
        let job = job.clone();
        // What is found is on the synchronous standbys.
        let find =
            |sessions: Arc<Sessions>| async move { idempotency::find(&sessions, &[&job]).await };
        let found = self.sessions.confirmed(find).await?;
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
        let request = Ended {
            id,
            created_at,
            input: to_json(spec),
            created_by,
            outcome: ended.map(to_json).map_err(Clone::clone),
        };
        let insert = move |session: Session| {
            let request = request.clone();
            async move { record::insert(&session, &request).await }
        };
        self.try_write(insert).await.flatten()
    }

    pub(in crate::services::store) async fn cancel(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Cancelled, Uncancellable>, StoreError> {
        let cancel = move |session: Session| {
            let scope = scope.clone();
            async move { cancel::cancel(&session, &scope, id, Canceller::Client).await }
        };
        self.try_write(cancel).await
    }

    pub(in crate::services::store) async fn erase(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Erased, Unerasable>, StoreError> {
        let erase = move |session: Session| {
            let scope = scope.clone();
            async move { erase::erase(&session, &scope, id).await }
        };
        self.try_write(erase).await
    }

    pub(in crate::services::store) async fn origin_of(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Option<Origin>, Unredeliverable>, StoreError> {
        redelivery::origin_of(&self.sessions, &scope, id).await
    }

    pub(in crate::services::store) async fn redeliver(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<(), Unredeliverable>, StoreError> {
        let begin = move |session: Session| {
            let scope = scope.clone();
            async move { redelivery::begin(&session, &scope, &[id], true).await }
        };
        let verdicts = self.try_write(begin).await?;
        Ok(verdicts.into_iter().collect())
    }

    pub(in crate::services::store) async fn redeliver_all(
        &self,
        scope: Scope,
        ids: Vec<RequestId>,
    ) -> Result<usize, StoreError> {
        let begin = move |session: Session| {
            let (scope, ids) = (scope.clone(), ids.clone());
            async move { redelivery::begin(&session, &scope, &ids, false).await }
        };
        let verdicts = self.try_write(begin).await?;
        Ok(verdicts.into_iter().flatten().count())
    }

    pub(in crate::services::store) async fn redeliverable(
        &self,
        scope: Scope,
        page: RedeliveryPage,
    ) -> Result<Redeliverable, StoreError> {
        redelivery::find(&self.sessions, &scope, &page).await
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
        let mut found = Vec::with_capacity(ids.len());
        for batch in ids.chunks(progress::BATCH) {
            found.extend(progress::of(&self.sessions, batch).await?);
        }
        Ok(found)
    }

    pub(in crate::services::store) async fn list(
        &self,
        scope: Scope,
        page: ListPage,
    ) -> Result<RequestList, StoreError> {
        let read = list::list(&self.sessions, &scope, &page);
        self.lists.read(read).await
    }

    /// Commits what `run` does, and fails at once if the queue of writes is full: load shedding.
    async fn try_write<T, Run, Running>(&self, run: Run) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: Fn(Session) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<T, Error>> + Send,
    {
        self.sessions.write_within(Duration::ZERO, run).await
    }
}
