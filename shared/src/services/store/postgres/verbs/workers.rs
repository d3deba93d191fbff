//! The verbs of workers: jobs are settled, leases kept, old requests deleted.

use std::{sync::Arc, time::Duration};

use super::super::{
    Postgres, breakers, events, lease, retention,
    session::Sessions,
    settle::{self, End},
    worked,
};
use crate::{
    models::{HandlerName, RequestId},
    services::store::{
        AttemptRecord, Claim, Ended, Expired, Heartbeat, OpenBreaker, OwnerId, Renewal, Settlement,
        StoreError, Swept, Work, WorkResult, Worked,
    },
};

impl Postgres {
    pub(in crate::services::store) async fn store_worked(
        &self,
        claim: Claim,
        worked: Worked,
        attempt: Option<AttemptRecord>,
    ) -> Result<(), StoreError> {
        let store = move |sessions: Arc<Sessions>| async move {
            worked::store(&sessions, &claim, &worked, attempt.as_ref()).await
        };
        held(self.sessions.write_one(store).await?)
    }

    pub(in crate::services::store) async fn record_resend(
        &self,
        claim: Claim,
        count: u32,
    ) -> Result<(), StoreError> {
        let recorded = self.sessions.write(move |session| async move {
            events::record_resend(&session, &claim, count.into()).await
        });
        held(recorded.await?)
    }

    pub(in crate::services::store) async fn settle(
        &self,
        claim: Claim,
        result: Option<WorkResult>,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        let end = End::new(claim, result, settlement);
        held(match claim.work {
            Work::Job => settle::settle_job(&self.settlements, end).await?,
            Work::Redelivery => settle::settle_redelivery(&self.sessions, end).await?,
        })
    }

    pub(in crate::services::store) async fn register(
        &self,
        owner: OwnerId,
        served: &[HandlerName],
    ) -> Result<(), StoreError> {
        let served: Arc<[String]> = served.iter().map(ToString::to_string).collect();
        self.sessions
            .write(move |session| {
                let served = Arc::clone(&served);
                async move { lease::register(&session, owner, &served).await }
            })
            .await?
            .then_some(())
            .ok_or(StoreError::LeaseLost)
    }

    pub(in crate::services::store) async fn renew(
        &self,
        owner: OwnerId,
        ended: Ended,
        report: Option<String>,
    ) -> Result<Renewal, StoreError> {
        let report: Option<Arc<str>> = report.map(Arc::from);
        let renewed = self.sessions.write(move |session| {
            let report = report.clone();
            async move { lease::renew(&session, owner, ended, report.as_deref()).await }
        });
        renewed.await?.ok_or(StoreError::LeaseLost)
    }

    pub(in crate::services::store) async fn claims_of(
        &self,
        owner: OwnerId,
    ) -> Result<Vec<Claim>, StoreError> {
        self.sessions
            .snapshot(async |session| lease::claims_of(session, owner).await)
            .await
    }

    pub(in crate::services::store) async fn report_breakers(
        &self,
        owner: OwnerId,
        open: Vec<(HandlerName, OpenBreaker)>,
    ) -> Result<(), StoreError> {
        let open: Arc<[_]> = open
            .into_iter()
            .map(|(handler, breaker)| (handler.to_string(), breaker))
            .collect();
        let reported = self.sessions.write(move |session| {
            let open = Arc::clone(&open);
            async move { breakers::report(&session, owner, &open).await }
        });
        if reported.await? {
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
        self.sessions
            .write(move |session| async move { lease::expire(&session, seen, max_claims).await })
            .await
    }

    pub(in crate::services::store) async fn deregister(
        &self,
        owner: OwnerId,
    ) -> Result<usize, StoreError> {
        self.sessions
            .write(move |session| async move { lease::deregister(&session, owner).await })
            .await
    }

    pub(in crate::services::store) async fn sweep(
        &self,
        keep: Duration,
        after: Option<RequestId>,
    ) -> Result<Swept, StoreError> {
        let batch = retention::look(&self.sessions, after, keep).await?;
        let swept = batch.swept;
        if !batch.is_due() {
            return Ok(swept);
        }
        let batch = Arc::new(batch);
        let deleted = self.sessions.write(move |session| {
            let batch = Arc::clone(&batch);
            async move { retention::delete(&session, &batch, keep).await }
        });
        Ok(Swept {
            deleted: deleted.await?,
            ..swept
        })
    }
}

fn held(is_held: bool) -> Result<(), StoreError> {
    if is_held {
        Ok(())
    } else {
        Err(StoreError::ClaimLost)
    }
}
