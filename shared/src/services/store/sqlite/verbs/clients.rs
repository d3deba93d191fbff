//! The verbs of clients: requests are accepted, found, listed, cancelled, erased and redelivered.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Connection;

use super::super::{
    Sqlite, accept, cancel, erase, find, idempotency, idempotency::KeyedJob, lease, list, progress,
    redelivery, writer::Bodies,
};
use crate::{
    models::{ClientName, Failure, HandlerName, Origin, ReportSpec, Request, RequestId},
    services::{
        report::Report,
        store::{
            Acceptance, Cancelled, Erased, ListPage, NewJob, Progress, Redeliverable,
            RedeliveryPage, RequestList, Scope, StoreError, Uncancellable, Unerasable,
            Unredeliverable, cancel::Canceller, job::to_json,
        },
    },
};

impl Sqlite {
    pub(in crate::services::store) async fn accept(
        &self,
        job: NewJob,
    ) -> Result<Acceptance, StoreError> {
        let now = self.clock.now();
        let due = now.after(job.notification_grace);
        let keyed = KeyedJob::of(&job);
        let window = self.idempotency_window;
        let bodies = Bodies {
            bytes: job.input.len(),
            memory: job.memory.clone(),
            held: job.held.clone(),
        };
        let on_stored = job.on_stored.clone();
        let tell = move |accepted: &Result<Acceptance, StoreError>| {
            if let (Ok(Acceptance::Stored), Some(on_stored)) = (accepted, on_stored) {
                on_stored();
            }
        };
        let write = move |tx: &Connection| {
            if job.handler != HandlerName::REPORT && !lease::shut_out_release_before(tx)? {
                return Ok(Acceptance::OldWorkers);
            }
            if let Some(keyed) = &keyed
                && let Some(earlier) = idempotency::take(tx, keyed, now, window)?
            {
                return Ok(earlier);
            }
            accept::insert_job(tx, &job, due)?;
            Ok(Acceptance::Stored)
        };
        // Load shedding: the API answers 503, while a worker's writes wait for room.
        self.writer.try_write_and_tell(bodies, write, tell).await
    }

    pub(in crate::services::store) async fn accepted_before(
        &self,
        job: &NewJob,
    ) -> Result<Option<Acceptance>, StoreError> {
        let Some(keyed) = KeyedJob::of(job) else {
            return Ok(None);
        };
        let find = self.timed(move |db, now| idempotency::find(db, &keyed, now));
        let earlier = self.readers.read(find).await?;
        // It promises durability, and a commit can be read before it is durable.
        if let Some(Acceptance::Replayed { .. }) = earlier {
            self.writer.confirm().await?;
        }
        Ok(earlier)
    }

    pub(in crate::services::store) async fn record_sync(
        &self,
        id: RequestId,
        created_at: Timestamp,
        spec: &ReportSpec,
        created_by: Option<ClientName>,
        ended: Result<&Report, &Failure>,
    ) -> Result<(), StoreError> {
        let input = to_json(spec);
        let ended = ended.map(to_json).map_err(Clone::clone);
        let bodies = Bodies::of(input.len() + ended.as_ref().map_or(0, String::len));
        let insert = self.timed(move |tx, now| {
            accept::insert_sync(tx, id, created_at, &input, created_by.as_ref(), &ended, now)
        });
        self.writer.try_write_bodies(bodies, insert).await
    }

    pub(in crate::services::store) async fn cancel(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Cancelled, Uncancellable>, StoreError> {
        self.writer
            .try_write(
                self.timed(move |tx, now| cancel::cancel(tx, &scope, id, Canceller::Client, now)),
            )
            .await
    }

    pub(in crate::services::store) async fn erase(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Erased, Unerasable>, StoreError> {
        let note = self.writer.erases();
        let erase = move |tx: &Connection| {
            let erased = erase::erase(tx, &scope, id)?;
            if erased.is_ok() {
                note();
            }
            Ok(erased)
        };
        self.writer.try_write(erase).await
    }

    pub(in crate::services::store) async fn origin_of(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Option<Origin>, Unredeliverable>, StoreError> {
        self.readers
            .read(move |db| redelivery::origin_of(db, &scope, id))
            .await
    }

    pub(in crate::services::store) async fn redeliver(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<(), Unredeliverable>, StoreError> {
        self.writer
            .try_write(self.timed(move |tx, now| redelivery::begin(tx, &scope, id, true, now)))
            .await
    }

    pub(in crate::services::store) async fn redeliver_all(
        &self,
        scope: Scope,
        ids: Vec<RequestId>,
    ) -> Result<usize, StoreError> {
        self.writer
            .try_write(self.timed(move |tx, now| redelivery::begin_all(tx, &scope, &ids, now)))
            .await
    }

    pub(in crate::services::store) async fn redeliverable(
        &self,
        scope: Scope,
        page: RedeliveryPage,
    ) -> Result<Redeliverable, StoreError> {
        self.readers
            .read(move |db| redelivery::find(db, &scope, &page))
            .await
    }

    pub(in crate::services::store) async fn find(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Option<Request>, StoreError> {
        let clock = Arc::clone(&self.clock);
        self.readers
            .read(move |db| find::find(db, &scope, id, &clock))
            .await
    }

    pub(in crate::services::store) async fn progress_of(
        &self,
        ids: &[RequestId],
    ) -> Result<Vec<Progress>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for batch in ids.chunks(progress::BATCH) {
            let batch = batch.to_vec();
            let read = move |db: &Connection| progress::of(db, &batch);
            found.extend(self.readers.read(read).await?);
        }
        Ok(found)
    }

    pub(in crate::services::store) async fn list(
        &self,
        scope: Scope,
        page: ListPage,
    ) -> Result<RequestList, StoreError> {
        let read = move |db: &Connection| list::list(db, &scope, &page);
        self.read_many(&self.list_queue, read).await
    }
}
