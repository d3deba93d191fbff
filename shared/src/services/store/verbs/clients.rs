//! The verbs of clients: requests are accepted, found, listed, cancelled, erased and redelivered.

use jiff::Timestamp;

use super::super::Store;
use crate::{
    models::{ClientName, Failure, Origin, ReportSpec, Request, RequestId},
    services::{
        report::Report,
        store::{
            Acceptance, Cancelled, Erased, ListPage, NewJob, Progress, Redeliverable,
            RedeliveryPage, RequestList, Scope, StoreError, Uncancellable, Unerasable,
            Unredeliverable,
        },
    },
};

impl Store {
    /// Accepts an async job. When this returns [`Acceptance::Stored`], the row is committed.
    ///
    /// With an idempotency key, the job and its key are stored together, unless the tenant's key
    /// belongs to an earlier job: then nothing is written, and the answer says so. A key belongs to
    /// its job for `IDEMPOTENCY_WINDOW`, or until the job has ended if that is later. Then it is
    /// free.
    ///
    /// A repeat with the same job is [`Acceptance::Stored`] and changes nothing, whatever has
    /// become of the row and of the key since. Another job under the same id is an error.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`] at once if the write queue is full; otherwise the write failed. No
    /// row exists then, but after [`StoreError::Indeterminate`], and after
    /// [`Trouble::Moved`](crate::services::store::Trouble::Moved) in the file that was moved.
    pub async fn accept(&self, job: NewJob) -> Result<Acceptance, StoreError> {
        on_engine!(self, |engine| engine.accept(job).await)
    }

    /// What [`Store::accept`] would say of a job whose idempotency key belongs to an earlier one,
    /// without a write. `None` if the key is free, or the job has none.
    ///
    /// # Errors
    /// The read failed, the read queue is full, or the earlier job may not be durable.
    pub async fn accepted_before(&self, job: &NewJob) -> Result<Option<Acceptance>, StoreError> {
        on_engine!(self, |engine| engine.accepted_before(job).await)
    }

    /// Records a sync request that arrived at `created_at`, by the wall clock, and is over.
    /// `created_by` is the client name of its token. A repeat succeeds and changes nothing.
    ///
    /// # Errors
    /// As for [`Store::accept`].
    pub async fn record_sync(
        &self,
        id: RequestId,
        created_at: Timestamp,
        spec: &ReportSpec,
        created_by: Option<ClientName>,
        ended: Result<&Report, &Failure>,
    ) -> Result<(), StoreError> {
        on_engine!(self, |engine| {
            let recorded = engine.record_sync(id, created_at, spec, created_by, ended);
            recorded.await
        })
    }

    /// Cancels the unfinished job of a request within `scope`. It becomes `FAILED` (`cancelled`),
    /// no callback is sent, and the worker that holds it has lost its claim. If the request has
    /// ended and a redelivery is in progress, cancels that, and leaves the request's outcome as it
    /// is.
    ///
    /// A repeat succeeds and changes nothing. That of a cancelled redelivery is
    /// [`Uncancellable::Over`].
    ///
    /// # Errors
    /// Inner: the request can't be cancelled. Outer: as for [`Store::accept`].
    pub async fn cancel(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Cancelled, Uncancellable>, StoreError> {
        on_engine!(self, |engine| engine.cancel(scope, id).await)
    }

    /// Erases a finished request within `scope`: its payload, result and URL, and every text that
    /// can name them. Its outcome stays, and its idempotency key goes on to refuse submissions. It
    /// can't be redelivered any more. A repeat succeeds and changes nothing.
    ///
    /// # Errors
    /// Inner: the request can't be erased. Outer: as for [`Store::accept`].
    pub async fn erase(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Erased, Unerasable>, StoreError> {
        on_engine!(self, |engine| engine.erase(scope, id).await)
    }

    /// The origin of the callback of a request within `scope`, if it has a callback.
    ///
    /// # Errors
    /// Inner: [`Unredeliverable::Unknown`]. Outer: the read failed, or the read queue is full.
    pub async fn origin_of(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Option<Origin>, Unredeliverable>, StoreError> {
        on_engine!(self, |engine| engine.origin_of(scope, id).await)
    }

    /// Starts a redelivery of a request within `scope`: the same bytes to the same URL, in a new
    /// series of attempts. The status stays as it is, unless the redelivery of a `FAILED` request
    /// succeeds.
    ///
    /// A repeat is [`Unredeliverable::UnderWay`], or one more redelivery if the first one has ended
    /// already: a caller that can't bear that does not repeat it.
    ///
    /// # Errors
    /// Inner: the request can't be redelivered. Outer: as for [`Store::accept`].
    pub async fn redeliver(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<(), Unredeliverable>, StoreError> {
        on_engine!(self, |engine| engine.redeliver(scope, id).await)
    }

    /// Starts redeliveries of all redeliverable `ids` in one transaction. Returns how many. For a
    /// repeat, [`Store::redeliver`] says what becomes of each.
    ///
    /// # Errors
    /// As for [`Store::accept`].
    pub async fn redeliver_all(
        &self,
        scope: Scope,
        ids: Vec<RequestId>,
    ) -> Result<usize, StoreError> {
        on_engine!(self, |engine| engine.redeliver_all(scope, ids).await)
    }

    /// Reads a page of the redeliverable requests within `scope`.
    ///
    /// # Errors
    /// The read failed.
    pub async fn redeliverable(
        &self,
        scope: Scope,
        page: RedeliveryPage,
    ) -> Result<Redeliverable, StoreError> {
        on_engine!(self, |engine| engine.redeliverable(scope, page).await)
    }

    /// Finds a request by id, of any tenant.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn find(&self, id: RequestId) -> Result<Option<Request>, StoreError> {
        self.find_within(Scope::All, id).await
    }

    /// Finds a request by id within `scope`. A request outside the scope is not found.
    ///
    /// # Errors
    /// As for [`Store::find`].
    pub async fn find_within(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Option<Request>, StoreError> {
        on_engine!(self, |engine| engine.find(scope, id).await)
    }

    /// How far each of these requests is, in their order, whichever tenant's they are: by few
    /// columns, for those who wait for them. Many are read in several batches, not in one snapshot.
    ///
    /// # Errors
    /// As for [`Store::find`].
    pub async fn progress_of(&self, ids: &[RequestId]) -> Result<Vec<Progress>, StoreError> {
        on_engine!(self, |engine| engine.progress_of(ids).await)
    }

    /// Reads a page of the requests within `scope`, newest first. A page can be short, or empty,
    /// and have a next one: it examines a limited number of requests.
    ///
    /// # Errors
    /// As for [`Store::find`].
    pub async fn list(&self, scope: Scope, page: ListPage) -> Result<RequestList, StoreError> {
        on_engine!(self, |engine| engine.list(scope, page).await)
    }
}
