//! The verbs of workers: jobs are found, claimed and released from a park.

use std::time::Duration;

use super::super::{Postgres, claim, look, suspects, unpark};
use crate::{
    models::{Destination, HandlerName, Origin},
    services::store::{
        Candidate, Capacity, Claimed, DueJobs, OwnerId, StoreError, UnparkCursor, Unparked,
    },
};

impl Postgres {
    pub(in crate::services::store) async fn claim(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        let claimed = claim::claim(&self.sessions, owner, candidates, room).await?;
        self.known.note_claimed(claimed.jobs.len());
        Ok(claimed)
    }

    pub(in crate::services::store) async fn claim_again(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        claim::claim_again(&self.sessions, owner, candidates, room).await
    }

    pub(in crate::services::store) async fn due_jobs(
        &self,
        capacity: Capacity,
    ) -> Result<DueJobs, StoreError> {
        look::due_jobs(&self.sessions, &capacity, &self.known).await
    }

    pub(in crate::services::store) async fn suspects(
        &self,
        served: &[HandlerName],
        limit: usize,
    ) -> Result<Vec<Candidate>, StoreError> {
        suspects::due(&self.sessions, served, limit).await
    }

    pub(in crate::services::store) async fn overdue_suspects(
        &self,
        served: &[HandlerName],
        overdue_by: Duration,
        limit: usize,
    ) -> Result<Vec<Candidate>, StoreError> {
        suspects::overdue(&self.sessions, served, overdue_by, limit).await
    }

    pub(in crate::services::store) async fn unpark(
        &self,
        destination: Destination,
        limit: usize,
    ) -> Result<usize, StoreError> {
        unpark::unpark(&self.sessions, destination, limit).await
    }

    pub(in crate::services::store) async fn unpark_origin(
        &self,
        origin: Origin,
        after: Option<UnparkCursor>,
        limit: usize,
    ) -> Result<Unparked, StoreError> {
        unpark::unpark_origin(&self.sessions, origin, after, limit).await
    }
}
