//! A call of the store, and its answer in a comparable form.

use std::time::Duration;

use storm_shared::{
    models::{AttemptClass, RequestId},
    services::{
        report::Report,
        store::{
            Acceptance, Candidate, Capacity, Claim, DueJobs, Expired, Heartbeat, InvalidJob, Job,
            NewJob, Outcome, OwnerId, Renewal, Settlement, Store, StoreError,
        },
    },
};

use crate::jobs::{attempted, retry, spec};

/// A call with its arguments.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Accept(RequestId),
    Register(OwnerId),
    Renew(OwnerId),
    Deregister(OwnerId),
    FindDue(usize),
    Claim(OwnerId, Vec<Candidate>),
    ClaimAgain(OwnerId, Vec<Candidate>),
    Expire(Heartbeat, u32),
    Write(Claim, Writing),
}

/// A write under a claim.
#[derive(Clone, Debug)]
pub(super) enum Writing {
    Report(Report),
    Retry(Report, u32, Duration),
    Park(Report, Duration),
    GiveBack(Report),
    /// With the number of the last attempt, if one was made.
    End(Report, Option<u32>, Outcome),
}

/// The class of every failed attempt.
pub(super) const ERROR: AttemptClass = AttemptClass::Timeout;

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    ClaimLost,
    LeaseLost,
    Others(Vec<Heartbeat>),
    Released(usize),
    Found(DueJobs),
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
            Self::Accept(id) => {
                let accepted = store.accept(NewJob::new(id, spec(), None)).await;
                done(accepted.map(|accepted| assert_eq!(accepted, Acceptance::Stored)))
            }
            Self::Register(owner) => done(store.register(owner).await),
            Self::Renew(owner) => store.renew(owner).await.map(|Renewal { mut others, .. }| {
                others.sort_by_key(|other| other.owner);
                Answer::Others(others)
            }),
            Self::Deregister(owner) => store.deregister(owner).await.map(Answer::Released),
            Self::FindDue(limit) => claimable(store, limit).await.map(Answer::Found),
            Self::Claim(owner, seen) => store.claim(owner, seen).await.map(won),
            Self::ClaimAgain(owner, seen) => store.claim_again(owner, seen).await.map(won),
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
    /// The number of the attempt that is recorded with it.
    pub(super) fn attempt(&self) -> Option<u32> {
        match self {
            Self::Retry(_, number, _) => Some(*number),
            Self::End(_, number, _) => *number,
            Self::Report(_) | Self::Park(..) | Self::GiveBack(_) => None,
        }
    }

    async fn on(self, store: &Store, claim: Claim) -> Result<(), StoreError> {
        let (report, settlement) = match self {
            Self::Report(report) => return store.store_result(claim, &report).await,
            Self::Retry(report, attempts, wait) => {
                (report, retry(attempted(attempts, ERROR), wait))
            }
            Self::Park(report, wait) => (report, Settlement::Park { wait }),
            Self::GiveBack(report) => (report, Settlement::GiveBack),
            Self::End(report, number, outcome) => {
                let class = match outcome {
                    Outcome::Completed => AttemptClass::Success,
                    Outcome::Failed(_) => ERROR,
                };
                let attempt = number.map(|number| attempted(number, class));
                (report, Settlement::Finish { attempt, outcome })
            }
        };
        store.settle(claim, Some(&report), settlement).await
    }
}

fn won(jobs: Vec<Result<Job, InvalidJob>>) -> Answer {
    let won = jobs.into_iter().map(Result::unwrap).map(|job| Won {
        claim: job.claim,
        report: job.report,
        attempts: job.attempts,
    });
    Answer::Won(won.collect())
}

fn done(result: Result<(), StoreError>) -> Result<Answer, StoreError> {
    result.map(|()| Answer::Done)
}

/// All claimable jobs: due jobs first, then suspects, up to `limit` of each.
pub(super) async fn claimable(store: &Store, limit: usize) -> Result<DueJobs, StoreError> {
    let mut found = store.due_jobs(Capacity::of(limit)).await?;
    found.due.extend(store.suspects(limit).await?);
    Ok(found)
}
