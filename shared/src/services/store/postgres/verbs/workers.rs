//! The verbs of workers: jobs are found, claimed and settled, leases kept, old requests deleted.

#![allow(unused_imports, unused_variables, clippy::unimplemented)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::super::Postgres;
use crate::{
    models::{Destination, HandlerName, Origin, RequestId},
    services::store::{
        AttemptRecord, Candidate, Capacity, Claim, Claimed, DueJobs, Ended, Expired, Heartbeat,
        OpenBreaker, OwnerId, Renewal, Settlement, StoreError, Swept, UnparkCursor, Unparked,
        WorkResult, Worked,
    },
};

impl Postgres {
    pub(in crate::services::store) async fn store_worked(
        &self,
        claim: Claim,
        worked: Worked,
        attempt: Option<AttemptRecord>,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn record_resend(
        &self,
        claim: Claim,
        count: u32,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn settle(
        &self,
        claim: Claim,
        result: Option<WorkResult>,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn register(
        &self,
        owner: OwnerId,
        served: &[HandlerName],
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn renew(
        &self,
        owner: OwnerId,
        ended: Ended,
    ) -> Result<Renewal, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn report_breakers(
        &self,
        owner: OwnerId,
        open: Vec<(HandlerName, OpenBreaker)>,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn expire(
        &self,
        seen: Heartbeat,
        max_claims: u32,
    ) -> Result<Option<Expired>, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn deregister(
        &self,
        owner: OwnerId,
    ) -> Result<usize, StoreError> {
        unimplemented!()
    }

    pub(in crate::services::store) async fn sweep(
        &self,
        keep: Duration,
        after: Option<RequestId>,
    ) -> Result<Swept, StoreError> {
        unimplemented!()
    }
}
