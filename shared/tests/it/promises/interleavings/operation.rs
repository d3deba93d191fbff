//! The operations, as the generator produces them without knowledge of the store's state.
//!
//! Crashes and freezes are not operations but the absence of them: a worker that is not chosen for
//! a while was frozen, and one that is never chosen again has crashed. A chosen worker may use any
//! claim, any candidate and any heartbeat that was seen before, however old.

use std::{fmt, ops::Range, time::Duration};

use proptest::{collection::vec, prelude::*};

use storm_shared::models::Status;

use super::HOUR;

/// One operation. Indices count back from the newest item of their kind, and wrap around.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// The API accepts a job, and the notifier sends a notification.
    Accept { has_callback: bool },
    /// The same with an idempotency key. Some submissions are the same, and some are not.
    Submit { key: u8, records: u32 },
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
    /// The job was parked without an attempt, and is due at once.
    Park,
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
    ];
    vec(scene, length).prop_map(|scenes| Script(scenes.concat()))
}

/// A new worker claims up to `count` jobs and crashes.
fn death(count: usize, max_claims: u32) -> Vec<Operation> {
    let [find, claim] = take(0, count);
    let renew = Operation::Renew { worker: 0 };
    let expire = Operation::Expire {
        sighting: 0,
        max_claims,
    };
    vec![
        Operation::Register,
        find,
        claim,
        Operation::Register,
        renew,
        expire,
    ]
}

/// A worker claims up to `count` jobs and releases them.
fn release(worker: usize, count: usize) -> Vec<Operation> {
    let [find, claim] = take(worker, count);
    vec![find, claim, Operation::Deregister { worker }]
}

/// A worker claims jobs, schedules a retry of one, claims it again, and writes, possibly under an
/// old claim.
fn claim_after_retry(worker: usize, claim: usize, what: What) -> Vec<Operation> {
    let [find, take_all] = take(worker, 4);
    let retry = write(0, What::Retry(Duration::ZERO));
    vec![find, take_all, retry, find, take_all, write(claim, what)]
}

/// A worker ends a job or a redelivery, and the request is redelivered.
fn redelivered(worker: usize, end: What) -> Vec<Operation> {
    let [find, claim] = take(worker, 1);
    let redeliver = Operation::Redeliver {
        request: 0,
        mistaken: false,
    };
    vec![find, claim, write(0, end), redeliver]
}

/// The same. Then the worker claims it and writes, after an impostor who tries to write that. The
/// worker claims it again, if it is put back, and ends it, possibly under an old claim.
fn redelivery(
    worker: usize,
    (first, what, last): (What, What, What),
    impostor: Forgery,
    claim: usize,
) -> Vec<Operation> {
    let forged = Operation::Write {
        claim: 0,
        forged: Some(impostor),
        what,
    };
    let mut script = redelivered(worker, first);
    script.extend(take(worker, 4));
    script.extend([forged, write(0, what)]);
    script.extend(take(worker, 4));
    script.push(write(claim, last));
    script
}

/// A request is redelivered, and the workers crash until that is poison, if they hold nothing else.
fn deadly_redelivery(worker: usize, end: What, max_claims: u32) -> Vec<Operation> {
    let deaths = (0..max_claims).flat_map(|_| death(1, max_claims));
    redelivered(worker, end).into_iter().chain(deaths).collect()
}

/// A worker has made the report of a job, or of one that it has ended and that is redelivered, when
/// that is cancelled. It writes all the same, hears of it, and something happens to the request.
/// Bulk redelivery leaves it out.
fn cancelled(worker: usize, what: What, ended: Option<What>, last: Operation) -> Vec<Operation> {
    let accept = Operation::Accept { has_callback: true };
    let before = ended.map_or_else(Vec::new, |end| redelivered(worker, end));
    let cancel = Operation::Cancel {
        request: 0,
        mistaken: false,
    };
    let mut script = vec![accept];
    script.extend(before);
    script.extend(take(worker, 4));
    script.extend([
        write(0, What::Report),
        cancel,
        write(0, what),
        Operation::Renew { worker },
        cancel,
        Operation::RedeliverAll { page: 0 },
        Operation::FindEnded {
            status: Status::Failed,
            limit: 3,
        },
        last,
    ]);
    script
}

/// A worker ends a job with a key, and two things happen to the request; then the key comes again.
fn removed(worker: usize, end: What, one: Operation, other: Operation) -> Vec<Operation> {
    let submit = Operation::Submit {
        key: 0,
        records: 10,
    };
    let [find, claim] = take(worker, 4);
    vec![
        submit,
        find,
        claim,
        write(0, end),
        one,
        other,
        submit,
        write(0, end),
    ]
}

/// What can happen to the newest request.
fn last() -> impl Strategy<Value = Operation> {
    let (request, mistaken) = (0, false);
    prop_oneof![
        Just(Operation::Erase { request, mistaken }),
        Just(Operation::Sweep {
            keep: Duration::ZERO
        }),
        Just(Operation::Redeliver { request, mistaken }),
        Just(Operation::Cancel { request, mistaken }),
    ]
}

fn write(claim: usize, what: What) -> Operation {
    Operation::Write {
        claim,
        forged: None,
        what,
    }
}

fn take(worker: usize, count: usize) -> [Operation; 2] {
    let claim = Operation::Claim {
        worker,
        seen: 0,
        count,
        mistaken: false,
    };
    [Operation::FindDue { limit: count }, claim]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::{
        Claim, ClaimAgain, Deregister, Expire, FindDue, Register, RegisterAgain, Renew, Write,
    };
    prop_oneof![
        10 => for_requests(),
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
    use Operation::{Accept, Cancel, Erase, FindEnded, Redeliver, RedeliverAll, Submit, Sweep};
    prop_oneof![
        2 => prop::bool::weighted(0.9).prop_map(|has_callback| Accept { has_callback }),
        1 => wait().prop_map(|keep| Sweep { keep }),
        2 => (0..3u8, 10..12u32).prop_map(|(key, records)| Submit { key, records }),
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

/// Prefers the newest workers: they are the most likely to be alive.
fn worker() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(0), 2 => 0..4usize]
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        2 => Just(What::Report),
        4 => wait().prop_map(What::Retry),
        1 => Just(What::Park),
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
