//! The operations, as the generator produces them without knowledge of the store's state.
//!
//! Crashes and freezes are not operations but the absence of them: a worker that is not chosen for
//! a while was frozen, and one that is never chosen again has crashed. A chosen worker may use any
//! claim, any candidate and any heartbeat that was seen before, however old.

mod scene;

use std::{fmt, ops::Range, time::Duration};

use proptest::{collection::vec, prelude::*};

use storm_shared::models::Status;

use self::scene::{
    cancelled, claim_after_retry, deadly_redelivery, death, last, origin_paused, paused,
    redelivery, release, removed, same_key,
};
use super::HOUR;

/// One operation. Indices count back from the newest item of their kind, and wrap around.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// The API accepts a job, with a callback or without, and the notifier sends a notification.
    Accept {
        receiver: Option<Receiver>,
        tenant: Tenant,
    },
    /// The same with an idempotency key.
    Submit(Submission),
    /// The API looks up whether a submission is the repeat of an earlier one.
    LookUp(Submission),
    /// A worker process starts and registers.
    Register,
    /// A worker registers again, because the first answer was lost.
    RegisterAgain { worker: usize },
    /// A worker renews its lease and reads the heartbeats of the others.
    Renew { worker: usize },
    /// A worker releases all its jobs and deregisters.
    Deregister { worker: usize },
    /// A worker reads due jobs.
    FindDue { limit: usize },
    /// A worker claims `count` candidates that were read or notified before. If `mistaken`, with a
    /// wrong number of claims.
    Claim {
        worker: usize,
        seen: usize,
        count: usize,
        mistaken: bool,
    },
    /// The same, as the repeat of a claim whose outcome is unknown.
    ClaimAgain {
        worker: usize,
        seen: usize,
        count: usize,
    },
    /// The lease of a worker expires, according to a heartbeat that was read.
    Expire { sighting: usize, max_claims: u32 },
    /// A write under a claim that was won.
    Write {
        claim: usize,
        forged: Option<Forgery>,
        what: What,
    },
    /// A client asks for a redelivery. If `mistaken`, of no request.
    Redeliver { request: usize, mistaken: bool },
    /// A client asks for the redeliveries of a page that was read.
    RedeliverAll { page: usize },
    /// A client reads the next page of redeliverable requests, or the first one after the last.
    FindEnded { status: Status, limit: usize },
    /// A client cancels a request. If `mistaken`, none that exists.
    Cancel { request: usize, mistaken: bool },
    /// A client erases a request. If `mistaken`, none that exists.
    Erase { request: usize, mistaken: bool },
    /// The worker that does so deletes what ended at least this long ago.
    Sweep { keep: Duration },
    /// An operator pauses something.
    Pause(Held),
    /// An operator ends a pause.
    Resume(Held),
    /// A worker that has seen the end of a pause makes due what that has parked; or one that is
    /// mistaken.
    Release(Receiver),
}

/// One of the receivers. Each has its origin.
pub(super) type Receiver = u8;

pub(super) const RECEIVERS: Range<Receiver> = 0..2;

/// One of the tenants; 0 is nobody.
pub(super) type Tenant = u8;

/// A submission with an idempotency key. Some are the same, and some are not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Submission {
    pub(super) tenant: Tenant,
    pub(super) key: u8,
    pub(super) records: u32,
}

/// What can be paused.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    Everything,
    Origin(Receiver),
}

/// What is wrong with a claim that nobody has won.
#[derive(Clone, Copy, Debug)]
pub(super) enum Forgery {
    /// Another owner.
    Owner,
    /// A redelivery instead of a job, or the other way round.
    Work,
}

/// A write to a job or a redelivery.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// The report was generated.
    Report,
    /// The attempt failed, and the next one is scheduled.
    Retry(Duration),
    /// The job was parked without an attempt.
    Park(Duration),
    /// The same, because its origin was paused, as far as the worker knew.
    ParkPaused(Duration),
    /// The worker stopped before an attempt.
    GiveBack,
    /// The callback was delivered.
    Complete,
    /// The last attempt failed.
    GiveUp,
    /// The SSRF policy refused the callback: no attempt was made.
    Refuse,
}

/// The number of workers and jobs at the start, and the operations.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// How long an idempotency key belongs to its job, if that has ended: for ever, or no longer.
    pub(super) keeps_keys: bool,
    pub(super) workers: usize,
    pub(super) jobs: usize,
    pub(super) script: Script,
}

/// Operations in order. Printed one per line.
#[derive(Clone)]
pub(super) struct Script(pub(super) Vec<Operation>);

/// Cases for the sequential test.
pub(super) fn case() -> impl Strategy<Value = Case> {
    let parts = (prop::bool::ANY, 2..=4usize, 1..=3usize, script(1..30));
    parts.prop_map(|(keeps_keys, workers, jobs, script)| Case {
        keeps_keys,
        workers,
        jobs,
        script,
    })
}

/// One script per rival, for the concurrent test.
pub(super) fn scripts() -> impl Strategy<Value = Vec<Script>> {
    vec(script(5..20), 2..=5)
}

/// Mostly single operations, and some sequences that would be rare by chance.
fn script(length: Range<usize>) -> impl Strategy<Value = Script> {
    let scene = prop_oneof![
        12 => operation().prop_map(|operation| vec![operation]),
        1 => (1..=3usize, 2..=5u32).prop_map(|(count, max_claims)| death(count, max_claims)),
        1 => (worker(), 1..=3usize).prop_map(|(worker, count)| release(worker, count)),
        1 => (worker(), 0..5usize, what())
            .prop_map(|(worker, claim, what)| claim_after_retry(worker, claim, what)),
        2 => (worker(), (end(), what(), end()), impostor(), 0..3usize).prop_map(
            |(worker, writes, impostor, claim)| redelivery(worker, writes, impostor, claim)
        ),
        1 => (worker(), end(), 2..=3u32)
            .prop_map(|(worker, end, max_claims)| deadly_redelivery(worker, end, max_claims)),
        2 => (worker(), what(), prop::option::of(end()), last()).prop_map(
            |(worker, what, redelivered, last)| cancelled(worker, what, redelivered, last)
        ),
        2 => (worker(), end(), last(), last())
            .prop_map(|(worker, end, one, other)| removed(worker, end, one, other)),
        4 => pauses_and_keys(),
    ];
    vec(scene, length).prop_map(|scenes| Script(scenes.concat()))
}

/// Of pauses, and of the keys of tenants.
fn pauses_and_keys() -> impl Strategy<Value = Vec<Operation>> {
    let last_write = prop_oneof![1 => what(), 1 => wait().prop_map(What::Park)];
    prop_oneof![
        1 => (worker(), what()).prop_map(|(worker, what)| paused(worker, what)),
        2 => (worker(), tenant(), prop::option::of(end()), (wait(), last_write), prop::bool::ANY)
            .prop_map(|(worker, tenant, ended, (wait, last), is_early)| {
                origin_paused(worker, tenant, ended, (What::ParkPaused(wait), last), is_early)
            }),
        1 => (worker(), end(), (tenant(), tenant()), last()).prop_map(
            |(worker, end, tenants, last)| same_key(worker, end, tenants, last)
        ),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::{
        Claim, ClaimAgain, Deregister, Expire, FindDue, Register, RegisterAgain, Renew, Write,
    };
    prop_oneof![
        13 => prop_oneof![10 => for_requests(), 3 => for_operators()],
        2 => Just(Register),
        1 => worker().prop_map(|worker| RegisterAgain { worker }),
        4 => worker().prop_map(|worker| Renew { worker }),
        1 => worker().prop_map(|worker| Deregister { worker }),
        4 => (1..=5usize).prop_map(|limit| FindDue { limit }),
        6 => (worker(), 0..8usize, 1..=4usize, prop::bool::weighted(0.1)).prop_map(
            |(worker, seen, count, mistaken)| Claim { worker, seen, count, mistaken }
        ),
        2 => (worker(), 0..8usize, 1..=4usize)
            .prop_map(|(worker, seen, count)| ClaimAgain { worker, seen, count }),
        4 => (0..6usize, 2..=5u32)
            .prop_map(|(sighting, max_claims)| Expire { sighting, max_claims }),
        6 => (0..8usize, forgery(), what())
            .prop_map(|(claim, forged, what)| Write { claim, forged, what }),
    ]
}

/// What a client asks for, and what deletes old requests.
fn for_requests() -> impl Strategy<Value = Operation> {
    use Operation::{
        Accept, Cancel, Erase, FindEnded, LookUp, Redeliver, RedeliverAll, Submit, Sweep,
    };
    prop_oneof![
        2 => (prop::option::weighted(0.9, receiver()), tenant())
            .prop_map(|(receiver, tenant)| Accept { receiver, tenant }),
        1 => wait().prop_map(|keep| Sweep { keep }),
        2 => any_submission().prop_map(Submit),
        1 => any_submission().prop_map(LookUp),
        2 => (0..5usize, prop::bool::weighted(0.1))
            .prop_map(|(request, mistaken)| Cancel { request, mistaken }),
        2 => (0..5usize, prop::bool::weighted(0.1))
            .prop_map(|(request, mistaken)| Erase { request, mistaken }),
        3 => (0..5usize, prop::bool::weighted(0.1))
            .prop_map(|(request, mistaken)| Redeliver { request, mistaken }),
        1 => (0..2usize).prop_map(|page| RedeliverAll { page }),
        2 => (prop::sample::select(&[Status::Completed, Status::Failed]), 1..=3usize)
            .prop_map(|(status, limit)| FindEnded { status, limit }),
    ]
}

/// What an operator asks for, and what a worker does at the end of a pause. Everything is resumed
/// soon.
fn for_operators() -> impl Strategy<Value = Operation> {
    use Operation::{Pause, Release, Resume};
    prop_oneof![
        1 => Just(Pause(Held::Everything)),
        3 => Just(Resume(Held::Everything)),
        2 => receiver().prop_map(|receiver| Pause(Held::Origin(receiver))),
        2 => receiver().prop_map(|receiver| Resume(Held::Origin(receiver))),
        2 => receiver().prop_map(Release),
    ]
}

fn any_submission() -> impl Strategy<Value = Submission> {
    (tenant(), 0..2u8, 10..12u32).prop_map(|(tenant, key, records)| Submission {
        tenant,
        key,
        records,
    })
}

/// Mostly one that has jobs already.
fn receiver() -> impl Strategy<Value = Receiver> {
    prop_oneof![3 => Just(0), 1 => Just(1)]
}

fn tenant() -> impl Strategy<Value = Tenant> {
    0..3u8
}

/// Prefers the newest workers: they are the most likely to be alive.
fn worker() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(0), 2 => 0..4usize]
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        2 => Just(What::Report),
        4 => wait().prop_map(What::Retry),
        1 => wait().prop_map(What::Park),
        1 => wait().prop_map(What::ParkPaused),
        1 => Just(What::GiveBack),
        1 => Just(What::Complete),
        1 => Just(What::GiveUp),
        1 => Just(What::Refuse),
    ]
}

fn end() -> impl Strategy<Value = What> {
    prop_oneof![
        2 => Just(What::Complete),
        2 => Just(What::GiveUp),
        1 => Just(What::Refuse),
    ]
}

fn forgery() -> impl Strategy<Value = Option<Forgery>> {
    prop_oneof![4 => Just(None), 1 => impostor().prop_map(Some)]
}

fn impostor() -> impl Strategy<Value = Forgery> {
    prop_oneof![Just(Forgery::Owner), Just(Forgery::Work)]
}

/// How long a retry waits.
fn wait() -> impl Strategy<Value = Duration> {
    prop_oneof![3 => Just(Duration::ZERO), 2 => Just(HOUR)]
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|operation| write!(f, "\n    {operation:?}"))
    }
}
