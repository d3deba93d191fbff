//! The verbs of workers: jobs are found, claimed and settled, leases kept, old requests deleted.

use std::{sync::Arc, time::Duration};

use rusqlite::Connection;

use super::super::{
    Sqlite, breakers, claim::ClaimedRows, clock::StoreTime, events, lease, look, retention, settle,
    suspects, unpark, writer::Bodies,
};
use crate::{
    models::{Destination, HandlerName, Origin, RequestId},
    services::store::{
        AttemptRecord, Candidate, Capacity, Claim, Claimed, DueJobs, Ended, Expired, Heartbeat,
        OpenBreaker, OwnerId, Renewal, Settlement, StoreError, Swept, UnparkCursor, Unparked,
        WorkResult, Worked,
    },
};

impl Sqlite {
    pub(in crate::services::store) async fn claim(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        self.claim_by(owner, move |tx| {
            let mut claimed = ClaimedRows::within(room);
            claimed.claim(tx, owner, &candidates)?;
            Ok(claimed)
        })
        .await
    }

    pub(in crate::services::store) async fn claim_again(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        self.claim_by(owner, move |tx| {
            let mut claimed = ClaimedRows::within(room);
            let others = claimed.find_won(tx, owner, &candidates)?;
            claimed.claim(tx, owner, &others)?;
            Ok(claimed)
        })
        .await
    }

    async fn claim_by(
        &self,
        owner: OwnerId,
        mut claim: impl FnMut(&Connection) -> rusqlite::Result<ClaimedRows> + Send + 'static,
    ) -> Result<Claimed, StoreError> {
        let claimed = self.writer.write(move |tx| {
            // In the claim's transaction: a worker whose lease expired must not claim.
            if lease::is_held(tx, owner)? {
                claim(tx).map(Some)
            } else {
                Ok(None)
            }
        });
        let claimed = claimed.await?.ok_or(StoreError::LeaseLost)?;
        Ok(claimed.parse(self.clock.now()))
    }

    pub(in crate::services::store) async fn due_jobs(
        &self,
        capacity: Capacity,
    ) -> Result<DueJobs, StoreError> {
        let turn = Arc::clone(&self.turn);
        self.readers
            // A read outside the claim's transaction may be stale when the claim runs. That is
            // safe: the claim checks each candidate again.
            .read(self.timed(move |db, now| look::due_jobs(db, &capacity, &turn, now)))
            .await
    }

    pub(in crate::services::store) async fn suspects(
        &self,
        served: &[HandlerName],
        limit: usize,
    ) -> Result<Vec<Candidate>, StoreError> {
        let served = lease::served_json(served);
        self.readers
            .read(self.timed(move |db, now| suspects::due(db, &served, limit, now)))
            .await
    }

    pub(in crate::services::store) async fn overdue_suspects(
        &self,
        served: &[HandlerName],
        overdue_by: Duration,
        limit: usize,
    ) -> Result<Vec<Candidate>, StoreError> {
        let served = lease::served_json(served);
        self.readers
            .read(self.timed(move |db, now| {
                suspects::overdue(db, &served, limit, now.before(overdue_by))
            }))
            .await
    }

    pub(in crate::services::store) async fn unpark(
        &self,
        destination: Destination,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.writer
            .write(self.timed(move |tx, now| look::unpark(tx, &destination, limit, now)))
            .await
    }

    pub(in crate::services::store) async fn unpark_origin(
        &self,
        origin: Origin,
        after: Option<UnparkCursor>,
        limit: usize,
    ) -> Result<Unparked, StoreError> {
        let parked = {
            let origin = origin.clone();
            let find =
                move |db: &Connection, now| unpark::find(db, &origin, after.clone(), limit, now);
            self.readers.read_long(self.timed(find)).await?
        };
        let next = parked.last().filter(|_| parked.len() == limit);
        let next = next.map(unpark::Parked::cursor);
        if parked.is_empty() {
            return Ok(Unparked { jobs: 0, next });
        }
        let release = move |tx: &Connection, now| unpark::release(tx, &origin, &parked, now);
        let released = self.writer.write(self.timed(release)).await?;
        Ok(released.map_or_else(Unparked::default, |jobs| Unparked { jobs, next }))
    }

    pub(in crate::services::store) async fn store_worked(
        &self,
        claim: Claim,
        worked: Worked,
        attempt: Option<AttemptRecord>,
    ) -> Result<(), StoreError> {
        let bodies = Bodies::of(worked.as_ref().map_or(0, |result| result.as_str().len()));
        let store =
            move |tx: &Connection| settle::store_worked(tx, &claim, &worked, attempt.as_ref());
        self.write_claimed(bodies, store).await
    }

    pub(in crate::services::store) async fn record_resend(
        &self,
        claim: Claim,
        count: u32,
    ) -> Result<(), StoreError> {
        self.write_claimed(Bodies::default(), move |tx| {
            events::record_resend(tx, &claim, count)
        })
        .await
    }

    pub(in crate::services::store) async fn settle(
        &self,
        claim: Claim,
        result: Option<WorkResult>,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        let bodies = Bodies::of(result.as_ref().map_or(0, |result| result.as_str().len()));
        let texts = settle::Texts::of(&claim, &settlement);
        let settle = self.timed(move |tx, now| {
            let result = result.as_ref().map(WorkResult::as_str);
            settle::settle(tx, &claim, result, &settlement, &texts, now)
        });
        self.write_claimed(bodies, settle).await
    }

    /// Runs `write`, which stores `bodies` and returns whether the claim that it names is held.
    async fn write_claimed(
        &self,
        bodies: Bodies,
        write: impl FnMut(&Connection) -> rusqlite::Result<bool> + Send + 'static,
    ) -> Result<(), StoreError> {
        if self.writer.write_bodies(bodies, write).await? {
            Ok(())
        } else {
            Err(StoreError::ClaimLost)
        }
    }

    pub(in crate::services::store) async fn register(
        &self,
        owner: OwnerId,
        served: &[HandlerName],
    ) -> Result<(), StoreError> {
        let served = lease::served_json(served);
        self.writer
            .write(move |tx| lease::register(tx, owner, &served))
            .await
    }

    pub(in crate::services::store) async fn renew(
        &self,
        owner: OwnerId,
        ended: Ended,
        report: Option<String>,
    ) -> Result<Renewal, StoreError> {
        self.writer
            .write(move |tx| lease::renew(tx, owner, ended, report.as_deref()))
            .await?
            .ok_or(StoreError::LeaseLost)
    }

    pub(in crate::services::store) async fn claims_of(
        &self,
        owner: OwnerId,
    ) -> Result<Vec<Claim>, StoreError> {
        self.readers
            .read(move |db| lease::claims_of(db, owner))
            .await
    }

    pub(in crate::services::store) async fn report_breakers(
        &self,
        owner: OwnerId,
        open: Vec<(HandlerName, OpenBreaker)>,
    ) -> Result<(), StoreError> {
        let report = self.timed(move |tx, now| breakers::report(tx, owner, &open, now));
        if self.writer.write(report).await? {
            Ok(())
        } else {
            Err(StoreError::LeaseLost)
        }
    }

    pub(in crate::services::store) async fn expire(
        &self,
        seen: Heartbeat,
        max_claims: u32,
    ) -> Result<Option<Expired>, StoreError> {
        self.writer
            .write(self.timed(move |tx, now| lease::expire(tx, seen, max_claims, now)))
            .await
    }

    pub(in crate::services::store) async fn deregister(
        &self,
        owner: OwnerId,
    ) -> Result<usize, StoreError> {
        self.writer
            .write(self.timed(move |tx, now| lease::deregister(tx, owner, now)))
            .await
    }

    pub(in crate::services::store) async fn sweep(
        &self,
        keep: Duration,
        after: Option<RequestId>,
    ) -> Result<Swept, StoreError> {
        let look =
            move |db: &Connection, now: StoreTime| retention::look(db, after, now.before(keep));
        // Mostly nothing is due: then nothing is written, and no other write waits.
        if let Some(swept) = self.readers.read(self.timed(look)).await? {
            return Ok(swept);
        }
        self.writer
            .write(self.timed(move |tx, now| retention::sweep(tx, after, now, keep)))
            .await
    }
}
