//! What is written under a claim: how a job goes on, and how it ends.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{AttemptRecord, Claim, Store, StoreError, attempts, events, rows, rows::set_work};
use crate::{
    models::{EventKind, Failure, Status},
    services::report::Report,
};

/// How a claimed job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its receiver answered 2xx, or there is none.
    Completed,
    /// It can't be, or was not, delivered.
    Failed(Failure),
}

impl Store {
    /// Stores a job's report before its first callback, so that no crash can cost it again; one that
    /// is stored already stays. For one that is quickly made again, the write of the first outcome
    /// will do.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn store_result(&self, claim: Claim, report: &Report) -> Result<(), StoreError> {
        let result = rows::to_json(report);
        self.write_claimed(claim, None, move |tx, claim| {
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

    /// Lets go of a job whose attempt failed, until the next one is due at `next_attempt_at`: it is
    /// `PENDING`, and waits in the table alone. The report is stored with it, unless it has been.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn await_retry(
        &self,
        claim: Claim,
        report: &Report,
        failed: AttemptRecord,
        next_attempt_at: Timestamp,
    ) -> Result<(), StoreError> {
        let result = rows::to_json(report);
        let number = failed.number;
        self.write_claimed(claim, Some(failed), move |tx, claim| {
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

    /// Lets go of a job for its receiver's sake, without an attempt, until `next_attempt_at`. The report
    /// is stored with it, unless it has been.
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

    /// Ends a job, or its redelivery, with the last attempt, if one was made. Its report, if it has one,
    /// is stored with it, unless it has been. One that was completed before stays so, however its
    /// redelivery ends.
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

    /// A write that names its claim and must find it in force. With it goes the record of the attempt that
    /// it tells of.
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
        if rows == 0 {
            Err(StoreError::ClaimLost)
        } else {
            Ok(())
        }
    }
}
