//! Writes under a claim. Each names its fencing token and fails if the claim was lost.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{AttemptRecord, Claim, Store, StoreError, attempts, events, rows, rows::set_work};
use crate::{
    models::{EventKind, Failure, Status},
    services::report::Report,
};

/// The final outcome of a claimed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver answered 2xx, or the job has no callback.
    Completed,
    /// The job was not, or can't be, delivered.
    Failed(Failure),
}

impl Outcome {
    /// `completed`, or the reason of the failure as the API names it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed(failure) => failure.reason.as_str(),
        }
    }
}

impl Store {
    /// Stores a job's report before its first callback, so that a crash can't lose it. A stored
    /// report is never replaced. Quick reports skip this write: they are stored together with the
    /// first outcome.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn store_result(&self, claim: Claim, report: &Report) -> Result<(), StoreError> {
        let result = rows::to_json(report);
        self.write_claimed(claim, None, move |tx, claim| {
            // `work` is part of the fence: a released row keeps its claim number until its next
            // claim.
            tx.prepare_cached(
                "UPDATE requests SET result_payload = coalesce(result_payload, ?4)
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND work = 'PROCESSING'",
            )?
            .execute(params![
                claim.id.to_string(),
                claim.owner,
                claim.number,
                result
            ])
        })
        .await
    }

    /// Records a failed attempt and schedules the next one at `next_attempt_at`. The job becomes
    /// `PENDING` and the claim ends. Also stores the report, unless one is stored.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn schedule_retry(
        &self,
        claim: Claim,
        report: &Report,
        failed: AttemptRecord,
        next_attempt_at: Timestamp,
    ) -> Result<(), StoreError> {
        let result = rows::to_json(report);
        let number = failed.number;
        self.write_claimed(claim, Some(failed), move |tx, claim| {
            // `lost_claims = 0`: an attempt with a known outcome clears the job of suspicion.
            tx.prepare_cached(concat!(
                "UPDATE requests SET ",
                set_work!("PENDING"),
                ", owner = NULL, lost_claims = 0, attempts = ?4, next_attempt_at = ?5,
                 parked_since = NULL, result_payload = coalesce(result_payload, ?6)
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND work = 'PROCESSING'",
            ))?
            .execute(params![
                claim.id.to_string(),
                claim.owner,
                claim.number,
                number,
                rows::time(next_attempt_at),
                result,
            ])
        })
        .await
    }

    /// Parks a job until `next_attempt_at` without an attempt, to spare its receiver. The claim
    /// ends. Also stores the report, unless one is stored.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn park(
        &self,
        claim: Claim,
        report: &Report,
        next_attempt_at: Timestamp,
    ) -> Result<(), StoreError> {
        let result = rows::to_json(report);
        self.write_claimed(claim, None, move |tx, claim| {
            // `lost_claims = 0`: the job has run up to its delivery without harm to its worker.
            // `coalesce(parked_since, …)`: parking again keeps the time of the first park.
            tx.prepare_cached(concat!(
                "UPDATE requests SET ",
                set_work!("PENDING"),
                ", owner = NULL, lost_claims = 0, next_attempt_at = ?4,
                 parks = parks + 1, parked_since = coalesce(parked_since, ?5),
                 result_payload = coalesce(result_payload, ?6)
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND work = 'PROCESSING'",
            ))?
            .execute(params![
                claim.id.to_string(),
                claim.owner,
                claim.number,
                rows::time(next_attempt_at),
                rows::time(Timestamp::now()),
                result,
            ])
        })
        .await
    }

    /// Records that the callback of a claimed job is about to be sent once more within its attempt,
    /// although a receiver may have got it already.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed: then it must not be sent.
    pub async fn record_resend(&self, claim: Claim) -> Result<(), StoreError> {
        self.write_claimed(claim, None, events::record_resend).await
    }

    /// Finishes a job, or its redelivery, and records the last attempt, if one was made. Also
    /// stores the report, unless one is stored. A `COMPLETED` job stays `COMPLETED`, even if its
    /// redelivery fails.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn finalise(
        &self,
        claim: Claim,
        report: Option<&Report>,
        last: Option<AttemptRecord>,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        let result = report.map(rows::to_json);
        let (status, failure) = match outcome {
            Outcome::Completed => (Status::Completed, None),
            Outcome::Failed(failure) => (Status::Failed, Some(failure)),
        };
        let number = last.as_ref().map(|last| last.number);
        self.write_claimed(claim, last, move |tx, claim| {
            // `next_attempt_at` is null since the claim. The search for redeliverable rows relies
            // on that.
            // `completed_at` changes only with the status. A `COMPLETED` row keeps its outcome: a
            // failed redelivery must not change it.
            tx.prepare_cached(
                "UPDATE requests SET
                     status = iif(status = 'COMPLETED', status, ?4),
                     completed_at = iif(status IN ('COMPLETED', ?4), completed_at, ?6),
                     failure_reason = iif(status = 'COMPLETED', failure_reason, ?7),
                     failure_detail = iif(status = 'COMPLETED', failure_detail, ?8),
                     redelivery = NULL, parked_since = NULL, attempts = coalesce(?5, attempts),
                     result_payload = coalesce(result_payload, ?9)
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND work = 'PROCESSING'",
            )?
            .execute(params![
                claim.id.to_string(),
                claim.owner,
                claim.number,
                status.as_str(),
                number,
                rows::time(Timestamp::now()),
                failure.as_ref().map(|failure| failure.reason.as_str()),
                failure.as_ref().map(|failure| failure.detail.as_str()),
                result,
            ])
        })
        .await
    }

    /// Runs `write` if its claim is still held, and records the attempt in the same transaction.
    async fn write_claimed(
        &self,
        claim: Claim,
        attempted: Option<AttemptRecord>,
        write: impl FnOnce(&Connection, &Claim) -> rusqlite::Result<usize> + Send + 'static,
    ) -> Result<(), StoreError> {
        let rows = self
            .shared
            .writer
            .write(move |tx| {
                let rows = write(tx, &claim)?;
                // A lost claim records nothing: the next owner repeats the attempt under the same
                // number.
                if rows > 0
                    && let Some(attempted) = attempted
                {
                    attempts::record(tx, &claim, &attempted)?;
                    if attempted.may_repeat() {
                        let class = attempted.class.as_str();
                        events::record(tx, &claim, EventKind::AttemptFailed, Some(class))?;
                    }
                }
                Ok(rows)
            })
            .await?;
        // Zero rows: the fencing token is no longer the row's.
        if rows == 0 {
            Err(StoreError::ClaimLost)
        } else {
            Ok(())
        }
    }
}
