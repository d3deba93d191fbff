//! A call of the store, and its answer in a form that can be compared.

use jiff::Timestamp;
use storm_shared::{
    models::{AttemptClass, RequestId},
    services::{
        report::Report,
        store::{
            Candidate, Claim, Expired, Heartbeat, Look, NewJob, Outcome, OwnerId, Store,
            StoreError, Waiting,
        },
    },
};

use crate::store::attempted;

/// A call, with all that it names.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Accept(RequestId),
    Enter(OwnerId),
    Renew(OwnerId),
    Resign(OwnerId),
    Look(Look),
    Claim(OwnerId, Vec<Candidate>),
    Expire(Heartbeat, u32),
    Write(Claim, Writing),
}

/// A write that names its claim.
#[derive(Clone, Debug)]
pub(super) enum Writing {
    Report(Report),
    Retry(Report, u32, Timestamp),
    Park(Report, Timestamp),
    /// With the number of the last attempt, if one was made.
    End(Report, Option<u32>, Outcome),
}

/// What is said to have gone wrong with an attempt.
pub(super) const ERROR: AttemptClass = AttemptClass::Timeout;

/// What a call was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    ClaimLost,
    LeaseLost,
    Others(Vec<Heartbeat>),
    Returned(usize),
    Found(Waiting),
    Won(Vec<Won>),
    Expired(Option<Expired>),
}

/// A claimed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Won {
    pub(super) claim: Claim,
    pub(super) report: Option<Report>,
    pub(super) attempts: u32,
}

impl Call {
    pub(super) async fn on(&self, store: &Store) -> Answer {
        let answer = match self.clone() {
            Self::Accept(id) => done(
                store
                    .accept(NewJob::new(id, crate::store::spec(), None))
                    .await,
            ),
            Self::Enter(owner) => done(store.register(owner).await),
            Self::Renew(owner) => store.renew(owner).await.map(|mut others| {
                others.sort_by(|one, other| one.owner.cmp(&other.owner));
                Answer::Others(others)
            }),
            Self::Resign(owner) => store.resign(owner).await.map(Answer::Returned),
            Self::Look(look) => found(store, look).await.map(Answer::Found),
            Self::Claim(owner, seen) => store.claim(owner, seen).await.map(|jobs| {
                let won = jobs.into_iter().map(|job| Won {
                    claim: job.claim,
                    report: job.report,
                    attempts: job.attempts,
                });
                Answer::Won(won.collect())
            }),
            Self::Expire(seen, max) => store.expire(seen, max).await.map(Answer::Expired),
            Self::Write(claim, writing) => done(writing.on(store, claim).await),
        };
        match answer {
            Ok(answer) => answer,
            Err(StoreError::ClaimLost) => Answer::ClaimLost,
            Err(StoreError::LeaseLost) => Answer::LeaseLost,
            Err(error) => panic!("{self:?}: {error}"),
        }
    }
}

impl Writing {
    async fn on(self, store: &Store, claim: Claim) -> Result<(), StoreError> {
        match self {
            Self::Report(report) => store.store_result(claim, &report).await,
            Self::Retry(report, attempts, due) => {
                let failed = attempted(attempts, ERROR);
                store.await_retry(claim, &report, failed, due).await
            }
            Self::Park(report, due) => store.park(claim, &report, due).await,
            Self::End(report, number, outcome) => {
                let class = match outcome {
                    Outcome::Completed => AttemptClass::Success,
                    Outcome::Failed(_) => ERROR,
                };
                let last = number.map(|number| attempted(number, class));
                store.finalise(claim, Some(&report), last, outcome).await
            }
        }
    }
}

fn done(result: Result<(), StoreError>) -> Result<Answer, StoreError> {
    result.map(|()| Answer::Done)
}

/// All that may be claimed: what no worker died with, and then the suspects.
pub(super) async fn found(store: &Store, look: Look) -> Result<Waiting, StoreError> {
    let mut found = store.waiting(look).await?;
    found.due.extend(store.suspects(look.limit).await?);
    Ok(found)
}
