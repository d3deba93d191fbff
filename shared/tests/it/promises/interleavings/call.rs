//! A call of the store, and its answer in a comparable form.

use std::{collections::BTreeSet, time::Duration};

use storm_shared::{
    models::{
        AttemptClass, CallbackUrl, ClientName, IdempotencyKey, Origin, Records, ReportSpec,
        RequestId, Status,
    },
    services::{
        report::Report,
        store::{
            Acceptance, CancelledClaim, CancelledWork, Candidate, Capacity, Claim, Claimed,
            DueJobs, Ended, Expired, Heartbeat, NewJob, Outcome, OwnerId, Paused, RedeliveryPage,
            Renewal, Scope, Settlement, Store, StoreError, Uncancellable, Unerasable,
            Unredeliverable, WorkResult,
        },
    },
};

use super::operation::{Held, Receiver, Submission, Tenant};
use crate::jobs::{attempted, retry, spec, stored_result};

/// A call with its arguments.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// With a callback, or without.
    Accept(RequestId, Option<Receiver>, Tenant),
    /// A submission with an idempotency key.
    Submit(RequestId, Submission),
    /// Whether it is the repeat of an earlier one.
    LookUp(Submission),
    Register(OwnerId),
    Renew(OwnerId),
    Deregister(OwnerId),
    FindDue(usize),
    Claim(OwnerId, Vec<Candidate>),
    ClaimAgain(OwnerId, Vec<Candidate>),
    Expire(Heartbeat, u32),
    Write(Claim, Writing),
    Redeliver(RequestId),
    RedeliverAll(Vec<RequestId>),
    FindEnded(Page),
    Cancel(RequestId),
    Erase(RequestId),
    /// Of what ended this long ago.
    Sweep(Duration),
    Pause(Held),
    Resume(Held),
    /// Of what a pause of the origin has parked, one job at a time.
    Release(Receiver),
}

/// A page of redeliverable requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) status: Status,
    pub(super) after: Option<RequestId>,
    pub(super) limit: usize,
}

/// A write under a claim.
#[derive(Clone, Debug)]
pub(super) enum Writing {
    Report(Report),
    Retry(Report, u32, Duration),
    Park(Report, Duration),
    /// Because its origin is paused.
    ParkPaused(Report, Duration),
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
    /// The other workers' heartbeats, the cancelled claims, and what is paused.
    Others(Vec<Heartbeat>, Vec<CancelledClaim>, BTreeSet<String>),
    Released(usize),
    Found(DueJobs),
    /// And whether none was tried because everything is paused.
    Won(Vec<Won>, bool),
    Expired(Option<Expired>),
    Redelivery(Result<(), Unredeliverable>),
    Begun(usize),
    /// A page, and the cursor of the next one.
    Ended(Vec<RequestId>, Option<RequestId>),
    Submitted(Submitted),
    /// What a submission would be, if not a new one.
    Known(Option<Submitted>),
    Cancelled(Result<(CancelledWork, Status, bool), Uncancellable>),
    Erased(Result<Status, Unerasable>),
    /// How many requests.
    Swept(usize),
    /// Whether a pause or a resumption has changed anything.
    Changed(bool),
    /// How many jobs.
    Unparked(usize),
}

/// What became of a submission with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Submitted {
    Stored,
    Replayed(RequestId),
    Conflicting,
}

/// A claimed job or redelivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Won {
    pub(super) claim: Claim,
    pub(super) report: Option<Report>,
    pub(super) attempts: u32,
    pub(super) attempts_before: u32,
}

impl Answer {
    /// The store does not promise an order.
    pub(super) fn won(mut won: Vec<Won>, is_paused: bool) -> Self {
        won.sort_by_key(|won| (won.claim.id, won.claim.work));
        Self::Won(won, is_paused)
    }
}

impl Call {
    pub(super) async fn on(&self, store: &Store) -> Answer {
        let answer = match self.clone() {
            Self::Accept(id, receiver, tenant) => {
                let job = NewJob {
                    created_by: client(tenant),
                    ..NewJob::new(id, spec(), receiver.map(callback))
                };
                let accepted = store.accept(job).await;
                done(accepted.map(|accepted| assert_eq!(accepted, Acceptance::Stored)))
            }
            Self::Register(owner) => done(store.register(owner, &[]).await),
            Self::Submit(id, submission) => {
                let accepted = store.accept(submission.job(id)).await;
                accepted.map(|accepted| Answer::Submitted(submitted(accepted)))
            }
            Self::LookUp(submission) => {
                let job = submission.job(RequestId::generate());
                let known = store.accepted_before(&job).await;
                known.map(|known| Answer::Known(known.map(submitted)))
            }
            Self::Renew(owner) => store.renew(owner, Ended::default()).await.map(|renewal| {
                let Renewal {
                    mut others,
                    mut cancelled,
                    paused,
                } = renewal;
                others.sort_by_key(|other| other.owner);
                cancelled.sort_by_key(|claim| (claim.id, claim.number));
                let everything = paused.everything.then(String::new);
                let origins = paused.origins.iter().map(|it| it.as_str().to_owned());
                Answer::Others(others, cancelled, origins.chain(everything).collect())
            }),
            Self::Deregister(owner) => store.deregister(owner).await.map(Answer::Released),
            Self::FindDue(limit) => claimable(store, limit).await.map(Answer::Found),
            Self::Claim(owner, seen) => store.claim(owner, seen, usize::MAX).await.map(won),
            Self::ClaimAgain(owner, seen) => {
                let again = store.claim_again(owner, seen, usize::MAX);
                again.await.map(won)
            }
            Self::Expire(seen, max) => store.expire(seen, max).await.map(Answer::Expired),
            Self::Write(claim, writing) => done(writing.on(store, claim).await),
            Self::Redeliver(id) => store
                .redeliver(Scope::All, id)
                .await
                .map(Answer::Redelivery),
            Self::RedeliverAll(ids) => {
                let begun = store.redeliver_all(Scope::All, ids).await;
                begun.map(Answer::Begun)
            }
            Self::FindEnded(page) => find_ended(store, page).await,
            Self::Cancel(id) => store.cancel(Scope::All, id).await.map(|cancelled| {
                Answer::Cancelled(cancelled.map(|it| (it.what, it.status, it.may_arrive)))
            }),
            Self::Erase(id) => {
                let erased = store.erase(Scope::All, id).await;
                erased.map(|erased| Answer::Erased(erased.map(|it| it.status)))
            }
            Self::Sweep(keep) => {
                let swept = store.sweep(keep, None).await;
                swept.map(|swept| Answer::Swept(swept.deleted))
            }
            Self::Pause(held) => {
                let paused = store.pause(held.paused(), operator()).await;
                paused.map(|paused| Answer::Changed(paused.unwrap()))
            }
            Self::Resume(held) => {
                let resumed = store.resume(held.paused(), operator()).await;
                resumed.map(Answer::Changed)
            }
            Self::Release(receiver) => release(store, receiver).await,
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
    /// The number of the attempt that is recorded with it, and its class.
    pub(super) fn attempt(&self) -> Option<(u32, AttemptClass)> {
        match self {
            Self::Retry(_, number, _) => Some((*number, ERROR)),
            Self::End(_, number, Outcome::Completed) => {
                number.map(|number| (number, AttemptClass::Success))
            }
            Self::End(_, number, Outcome::Failed(_)) => number.map(|number| (number, ERROR)),
            Self::Report(_) | Self::Park(..) | Self::ParkPaused(..) | Self::GiveBack(_) => None,
        }
    }

    pub(super) fn report(&self) -> &Report {
        match self {
            Self::Report(report)
            | Self::Retry(report, ..)
            | Self::Park(report, _)
            | Self::ParkPaused(report, _)
            | Self::GiveBack(report)
            | Self::End(report, ..) => report,
        }
    }

    async fn on(self, store: &Store, claim: Claim) -> Result<(), StoreError> {
        let result = WorkResult::of(self.report());
        let attempt = self.attempt();
        let attempt = attempt.map(|(number, class)| attempted(number, class));
        let settlement = match self {
            Self::Report(_) => return store.store_worked(claim, Ok(result), None).await,
            Self::Retry(_, number, wait) => retry(attempted(number, ERROR), wait),
            Self::Park(_, wait) => Settlement::Park { wait },
            Self::ParkPaused(_, wait) => Settlement::ParkPaused { wait },
            Self::GiveBack(_) => Settlement::GiveBack,
            Self::End(_, _, outcome) => Settlement::Finish { attempt, outcome },
        };
        store.settle(claim, Some(result), settlement).await
    }
}

fn won(claimed: Claimed) -> Answer {
    let is_paused = claimed.is_paused;
    let won = claimed.jobs.into_iter().map(Result::unwrap).map(|job| Won {
        claim: job.claim,
        report: stored_result(&job).map(|it| serde_json::from_str(it.as_str()).unwrap()),
        attempts: job.attempts,
        attempts_before: job.attempts_before,
    });
    Answer::won(won.collect(), is_paused)
}

fn done(result: Result<(), StoreError>) -> Result<Answer, StoreError> {
    result.map(|()| Answer::Done)
}

fn submitted(acceptance: Acceptance) -> Submitted {
    match acceptance {
        Acceptance::Stored => Submitted::Stored,
        Acceptance::Replayed { id, .. } => Submitted::Replayed(id),
        Acceptance::Conflicting => Submitted::Conflicting,
        Acceptance::OldWorkers => panic!("a report needs no new worker"),
    }
}

impl Submission {
    fn job(self, id: RequestId) -> NewJob {
        let records = Records::new(self.records.into(), Records::MAX_ASYNC).unwrap();
        let (_, key) = self.key();
        NewJob {
            created_by: client(self.tenant),
            idempotency_key: Some(IdempotencyKey::try_from(key.as_bytes()).unwrap()),
            ..NewJob::new(id, ReportSpec { records, ..spec() }, Some(callback(0)))
        }
    }

    /// The tenant and the key, as the table has them.
    pub(super) fn key(self) -> (String, String) {
        (tenant_name(self.tenant), format!("key-{}", self.key))
    }
}

impl Held {
    fn paused(self) -> Paused {
        match self {
            Self::Everything => Paused::Everything,
            Self::Origin(receiver) => Paused::Origin(origin(receiver)),
        }
    }

    /// As the table has it.
    pub(super) fn name(self) -> String {
        match self {
            Self::Everything => String::new(),
            Self::Origin(receiver) => origin(receiver).as_str().to_owned(),
        }
    }
}

/// Tenant 0 is nobody.
fn tenant_name(tenant: Tenant) -> String {
    match tenant {
        0 => String::new(),
        tenant => format!("tenant-{tenant}"),
    }
}

fn client(tenant: Tenant) -> Option<ClientName> {
    (tenant > 0).then(|| tenant_name(tenant).parse().unwrap())
}

fn callback(receiver: Receiver) -> CallbackUrl {
    CallbackUrl::parse(&format!("http://r{receiver}/")).unwrap()
}

fn origin(receiver: Receiver) -> Origin {
    callback(receiver).origin().clone()
}

fn operator() -> ClientName {
    "ops".parse().unwrap()
}

async fn release(store: &Store, receiver: Receiver) -> Result<Answer, StoreError> {
    let (mut jobs, mut after) = (0, None);
    loop {
        let unparked = store.unpark_origin(origin(receiver), after, 1).await?;
        jobs += unparked.jobs;
        after = unparked.next;
        if after.is_none() {
            return Ok(Answer::Unparked(jobs));
        }
    }
}

async fn find_ended(store: &Store, page: Page) -> Result<Answer, StoreError> {
    let page = RedeliveryPage {
        status: page.status,
        since: None,
        after: page.after,
        limit: page.limit,
    };
    let found = store.redeliverable(Scope::All, page).await?;
    let ids = found.requests.into_iter().map(|(id, _)| id);
    Ok(Answer::Ended(ids.collect(), found.next))
}

/// All that is claimable: what is due first, then suspects, up to `limit` of each.
pub(super) async fn claimable(store: &Store, limit: usize) -> Result<DueJobs, StoreError> {
    let mut found = store.due_jobs(Capacity::of(limit)).await?;
    found.due.extend(store.suspects(&[], limit).await?);
    Ok(found)
}
