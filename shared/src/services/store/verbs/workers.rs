//! The verbs of workers: jobs are found, claimed and settled, leases kept, old requests deleted.

use std::time::Duration;

use super::super::Store;
use crate::{
    models::{Destination, HandlerName, Origin, RequestId, WorkerReport},
    services::store::{
        AttemptRecord, Candidate, Capacity, Claim, Claimed, DueJobs, Ended, Expired, Heartbeat,
        OpenBreaker, OwnerId, Renewal, Settlement, StoreError, Swept, UnparkCursor, Unparked,
        WorkResult, Worked,
    },
};

impl Store {
    /// Claims `candidates` in one transaction. Candidates that were claimed since they were read,
    /// or don't exist in this store, are skipped; while everything is paused, all are. A row that
    /// was edited by hand and can't be parsed is claimed, too, so that the caller can settle it as
    /// failed.
    ///
    /// Goes through the candidates in order, and stops once the inputs and results of those that it
    /// has won fill `room` bytes. The last job may have more than is left, so with any room at all
    /// one can be claimed.
    ///
    /// A repeat skips what the first call has claimed. So after [`StoreError::Indeterminate`] it
    /// must be repeated by [`Store::claim_again`], or jobs can stay `PROCESSING` under this owner,
    /// whose lease goes on.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if `owner` has no lease; otherwise the write failed. Nothing was
    /// claimed, except perhaps after [`StoreError::Indeterminate`].
    pub async fn claim(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        let candidates = Candidate::once_each(candidates);
        on_engine!(self, |engine| engine.claim(owner, candidates, room).await)
    }

    /// Repeats a claim whose outcome is unknown, with the same owner, candidates and room. Returns
    /// what the first call has claimed, too, before what it claims itself. It can be repeated.
    ///
    /// The rows do not tell one call from another. So from the first call on, the owner must not
    /// name any of the candidates in another call, and it must have run none of them under its next
    /// claim number before.
    ///
    /// # Errors
    /// As for [`Store::claim`].
    pub async fn claim_again(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        let candidates = Candidate::once_each(candidates);
        on_engine!(self, |engine| engine
            .claim_again(owner, candidates, room)
            .await)
    }

    /// Reads due jobs that have lost no claim, up to `capacity` and shared fairly among the tenants
    /// that have some; and when the next one becomes due. While everything is paused, none are.
    ///
    /// # Errors
    /// The read failed.
    pub async fn due_jobs(&self, capacity: Capacity) -> Result<DueJobs, StoreError> {
        on_engine!(self, |engine| engine.due_jobs(capacity).await)
    }

    /// Reads up to `limit` suspected poison jobs: due jobs whose earlier claims were lost with
    /// their workers. Fewest lost claims first. None while everything is paused, and none whose
    /// callback is next while its receiver is paused. Those whose work is to be done by a handler
    /// that is not in `served` are left to other workers.
    ///
    /// # Errors
    /// The read failed.
    pub async fn suspects(
        &self,
        served: &[HandlerName],
        limit: usize,
    ) -> Result<Vec<Candidate>, StoreError> {
        on_engine!(self, |engine| engine.suspects(served, limit).await)
    }

    /// Reads up to `limit` suspected poison jobs whose work is to be done by a handler in `served`,
    /// and that have been due for `overdue_by`. Otherwise like [`Store::suspects`].
    ///
    /// # Errors
    /// The read failed.
    pub async fn overdue_suspects(
        &self,
        served: &[HandlerName],
        overdue_by: Duration,
        limit: usize,
    ) -> Result<Vec<Candidate>, StoreError> {
        on_engine!(self, |engine| engine
            .overdue_suspects(served, overdue_by, limit)
            .await)
    }

    /// Makes up to `limit` jobs parked for `destination` due now. Returns how many. A repeat finds
    /// those that are left.
    ///
    /// # Errors
    /// The write failed.
    pub async fn unpark(
        &self,
        destination: Destination,
        limit: usize,
    ) -> Result<usize, StoreError> {
        on_engine!(self, |engine| engine.unpark(destination, limit).await)
    }

    /// Makes jobs due now that a pause of `origin` has parked, whoever's they are: up to `limit` of
    /// those after `after`, in an order of the store's. Does nothing while the origin is paused.
    ///
    /// # Errors
    /// The read or the write failed, or the read queue is full.
    pub async fn unpark_origin(
        &self,
        origin: Origin,
        after: Option<UnparkCursor>,
        limit: usize,
    ) -> Result<Unparked, StoreError> {
        on_engine!(self, |engine| engine
            .unpark_origin(origin, after, limit)
            .await)
    }

    /// Stores what came of a job's work before its first callback, so that a crash can't lose it,
    /// and the attempt at the work, if that is recorded. From then on the job needs no handler.
    /// Attempts at the callback are counted anew. A stored result is never replaced, so a repeat
    /// changes nothing. Quick reports skip this write: they are stored together with the first
    /// outcome.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn store_worked(
        &self,
        claim: Claim,
        worked: Worked,
        attempt: Option<AttemptRecord>,
    ) -> Result<(), StoreError> {
        on_engine!(self, |engine| engine
            .store_worked(claim, worked, attempt)
            .await)
    }

    /// Records that the callback of a claimed job is about to be sent once more within its attempt,
    /// although a receiver may have got it already. `count` is the number of its resends under this
    /// claim, with this one: by it a repeat is recognised, and succeeds.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed: then it must not be sent.
    pub async fn record_resend(&self, claim: Claim, count: u32) -> Result<(), StoreError> {
        on_engine!(self, |engine| engine.record_resend(claim, count).await)
    }

    /// Ends a claim, with all that follows from `settlement` in one transaction. Also stores the
    /// result, unless one is stored.
    ///
    /// A repeated finish or retry succeeds and changes nothing: it is recognised by the record of
    /// its attempt under this claim number, or by the row. A park and a release leave no such
    /// record: repeated, they are a lost claim, and the caller drops the job.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn settle(
        &self,
        claim: Claim,
        result: Option<WorkResult>,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        on_engine!(self, |engine| engine
            .settle(claim, result, settlement)
            .await)
    }

    /// Registers a worker, which serves the report and the handlers in `served`, and grants its
    /// lease. It can claim jobs as long as it renews the lease. A repeat counts as a heartbeat, and
    /// changes what it serves.
    ///
    /// # Errors
    /// The write failed.
    pub async fn register(&self, owner: OwnerId, served: &[HandlerName]) -> Result<(), StoreError> {
        on_engine!(self, |engine| engine.register(owner, served).await)
    }

    /// Renews the lease of `owner` (its heartbeat), which has `ended` these jobs since it
    /// registered. Returns the heartbeats of all other workers, which of its own claims were
    /// cancelled, and what is paused. A repeat is one more heartbeat.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the lease expired and the jobs were reclaimed; otherwise the
    /// write failed.
    pub async fn renew(&self, owner: OwnerId, ended: Ended) -> Result<Renewal, StoreError> {
        on_engine!(self, |engine| engine.renew(owner, ended, None).await)
    }

    /// The same, and stores what the worker says of itself, for [`Store::overview`]. A lease that
    /// is renewed without a report keeps the last one.
    ///
    /// # Errors
    /// As for [`Store::renew`].
    pub async fn renew_and_report(
        &self,
        owner: OwnerId,
        ended: Ended,
        report: &WorkerReport,
    ) -> Result<Renewal, StoreError> {
        let report = report.to_text();
        on_engine!(self, |engine| engine.renew(owner, ended, report).await)
    }

    /// Reads the claims that `owner` holds: of all jobs and redeliveries that are `PROCESSING`
    /// under its id.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn claims_of(&self, owner: OwnerId) -> Result<Vec<Claim>, StoreError> {
        on_engine!(self, |engine| engine.claims_of(owner).await)
    }

    /// Says that of the circuit breakers of the worker's handlers these, and no others, are not
    /// closed. A registration says that all are closed. A repeat changes nothing.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the lease expired; otherwise the write failed.
    pub async fn report_breakers(
        &self,
        owner: OwnerId,
        open: Vec<(HandlerName, OpenBreaker)>,
    ) -> Result<(), StoreError> {
        on_engine!(self, |engine| engine.report_breakers(owner, open).await)
    }

    /// Expires the lease of a worker that has not renewed it since `seen`, and reclaims its jobs:
    /// they become `PENDING`. A job that the worker held alone and that has now lost `max_claims`
    /// (at least 2) claims in a row becomes `FAILED` as a poison job. Returns `None` if the worker
    /// has renewed its lease or another process expired it first, as an earlier call may have.
    ///
    /// # Errors
    /// The write failed.
    pub async fn expire(
        &self,
        seen: Heartbeat,
        max_claims: u32,
    ) -> Result<Option<Expired>, StoreError> {
        on_engine!(self, |engine| engine.expire(seen, max_claims).await)
    }

    /// Ends the lease of `owner` and releases its jobs (event `given_back`). Returns how many.
    /// The worker must have stopped working on all of them. A repeat releases nothing.
    ///
    /// # Errors
    /// The write failed.
    pub async fn deregister(&self, owner: OwnerId) -> Result<usize, StoreError> {
        on_engine!(self, |engine| engine.deregister(owner).await)
    }

    /// Deletes requests that ended longer than `keep` ago, of one batch of those after `after`,
    /// with their attempts, events and bodies. A redelivery in progress keeps its request, and so
    /// does an idempotency key whose window is not over.
    ///
    /// # Errors
    /// The read or the write failed, or the read queue is full.
    pub async fn sweep(
        &self,
        keep: Duration,
        after: Option<RequestId>,
    ) -> Result<Swept, StoreError> {
        on_engine!(self, |engine| engine.sweep(keep, after).await)
    }
}
