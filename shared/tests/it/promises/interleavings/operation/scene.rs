//! Sequences of operations that would be rare by chance.

use std::time::Duration;

use proptest::prelude::*;
use storm_shared::models::Status;

use super::{Forgery, Held, Operation, Submission, Tenant, What};

/// A new worker claims up to `count` jobs and crashes.
pub(super) fn death(count: usize, max_claims: u32) -> Vec<Operation> {
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
pub(super) fn release(worker: usize, count: usize) -> Vec<Operation> {
    let [find, claim] = take(worker, count);
    vec![find, claim, Operation::Deregister { worker }]
}

/// A worker claims jobs, schedules a retry of one, claims it again, and writes, possibly under an
/// old claim.
pub(super) fn claim_after_retry(worker: usize, claim: usize, what: What) -> Vec<Operation> {
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
pub(super) fn redelivery(
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
pub(super) fn deadly_redelivery(worker: usize, end: What, max_claims: u32) -> Vec<Operation> {
    let deaths = (0..max_claims).flat_map(|_| death(1, max_claims));
    redelivered(worker, end).into_iter().chain(deaths).collect()
}

/// A worker has made the report of a job, or of one that it has ended and that is redelivered, when
/// that is cancelled. It writes all the same, hears of it, and something happens to the request.
/// Bulk redelivery leaves it out.
pub(super) fn cancelled(
    worker: usize,
    what: What,
    ended: Option<What>,
    last: Operation,
) -> Vec<Operation> {
    let before = ended.map_or_else(Vec::new, |end| redelivered(worker, end));
    let cancel = Operation::Cancel {
        request: 0,
        mistaken: false,
    };
    let mut script = vec![accept(0)];
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
pub(super) fn removed(
    worker: usize,
    end: What,
    one: Operation,
    other: Operation,
) -> Vec<Operation> {
    let submit = submit(0);
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

/// Workers have found jobs when everything is paused: no claim succeeds until it is resumed, and no
/// job is found. What runs goes on.
pub(super) fn paused(worker: usize, what: What) -> Vec<Operation> {
    let again = Operation::ClaimAgain {
        worker,
        seen: 0,
        count: 2,
    };
    let [find, claim] = take(worker, 2);
    vec![
        accept(1),
        find,
        claim,
        accept(0),
        find,
        Operation::Pause(Held::Everything),
        claim,
        again,
        find,
        Operation::Renew { worker },
        write(0, what),
        Operation::Resume(Held::Everything),
        again,
        find,
        claim,
    ]
}

/// The origin of a job, or of its redelivery, is paused: its worker parks it. At the end of the
/// pause, or too early, a worker releases it, unless it is due by itself. The worker claims it and
/// writes again, and that may be a park which no pause asks for: no second release finds it.
pub(super) fn origin_paused(
    worker: usize,
    tenant: Tenant,
    ended: Option<What>,
    (park, last): (What, What),
    is_early: bool,
) -> Vec<Operation> {
    let release = Operation::Release(0);
    let mut script = vec![accept(tenant)];
    script.extend(ended.map_or_else(Vec::new, |end| redelivered(worker, end)));
    script.extend(take(worker, 4));
    script.extend([
        Operation::Pause(Held::Origin(0)),
        Operation::Renew { worker },
        write(0, park),
    ]);
    if is_early {
        script.push(release);
    }
    script.extend([Operation::Resume(Held::Origin(0)), release]);
    script.extend(take(worker, 4));
    script.extend([write(0, last), release]);
    script
}

/// Two tenants, or one, submit the same with the same key. Something happens to the last request,
/// and then both look it up, and submit it again.
pub(super) fn same_key(
    worker: usize,
    end: What,
    (one, other): (Tenant, Tenant),
    last: Operation,
) -> Vec<Operation> {
    let look_up = |tenant| Operation::LookUp(submission(tenant));
    let mut script = vec![look_up(one), submit(one), look_up(other), submit(other)];
    script.extend(take(worker, 4));
    script.extend([write(0, end), last]);
    script.extend([look_up(one), look_up(other), submit(one), submit(other)]);
    script
}

/// What can happen to the newest request.
pub(super) fn last() -> impl Strategy<Value = Operation> {
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

fn accept(tenant: Tenant) -> Operation {
    Operation::Accept {
        receiver: Some(0),
        tenant,
    }
}

fn submit(tenant: Tenant) -> Operation {
    Operation::Submit(submission(tenant))
}

fn submission(tenant: Tenant) -> Submission {
    Submission {
        tenant,
        key: 0,
        records: 10,
    }
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
