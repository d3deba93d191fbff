//! The verbs of workers: jobs are found, claimed and released from a park.

#![allow(unused_imports, unused_variables, clippy::unimplemented)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::super::{Postgres, claim, look};
use crate::{
    models::{Destination, HandlerName, Origin, RequestId},
    services::store::{
        AttemptRecord, Candidate, Capacity, Claim, Claimed, DueJobs, Ended, Expired, Heartbeat,
        OpenBreaker, OwnerId, Renewal, Settlement, StoreError, Swept, UnparkCursor, Unparked,
        WorkResult, Worked,
    },
};

impl Postgres {
    pub(in crate::services::store) async fn claim(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        claim::claim(&self.sessions, owner, candidates, room).await
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
        look::due_jobs(&self.sessions, &capacity, &self.turn).await
    }

    pub(in crate::services::store) async fn suspects(
        &self,
        served: &[HandlerName],
        limit: usize,
    ) -> Result<Vec<Candidate>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn overdue_suspects(
        &self,
        served: &[HandlerName],
        overdue_by: Duration,
        limit: usize,
    ) -> Result<Vec<Candidate>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn unpark(
        &self,
        destination: Destination,
        limit: usize,
    ) -> Result<usize, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn unpark_origin(
        &self,
        origin: Origin,
        after: Option<UnparkCursor>,
        limit: usize,
    ) -> Result<Unparked, StoreError> {
        unimplemented!()
    }
}
