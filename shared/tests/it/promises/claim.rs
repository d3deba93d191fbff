//! Claims: one worker gets a job, with all that earlier claims stored.

use std::collections::HashSet;

use futures_util::future::join_all;
use storm_shared::{
    models::{FailureReason, RequestId, Status, Traceparent},
    services::store::{Candidate, Claimed, InvalidJob, Outcome, Settlement, Store, Work},
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, claim_due, claim_new, claim_one, due_jobs, fail_attempt, finished, new_worker,
        redeliver, row, stored_result,
    },
};

on_every_engine! {
    exactly_one_of_many_concurrent_claims_on_a_job_wins,
    a_due_retry_runs_under_a_new_claim_with_the_stored_report,
    a_claim_stops_once_its_room_is_full_and_says_what_is_left,
    a_job_that_is_named_twice_is_claimed_once,
    a_repeat_finds_what_a_claim_under_way_wins,
    a_corrupt_row_ends_failed_and_blocks_no_other,
    a_negative_count_of_attempts_counts_as_none,
    a_job_with_an_unreadable_trace_gets_a_trace_of_its_own,
    a_claimed_job_says_when_it_was_submitted,
}

async fn exactly_one_of_many_concurrent_claims_on_a_job_wins(database: TestDatabase) {
    let store = database.open().await;
    let other = database.open().await;
    let ids: Vec<_> = join_all((0..100).map(|_| accept(&store))).await;
    let claims = (0..8).map(|n| {
        let (store, ids) = (
            if n % 2 == 0 {
                store.clone()
            } else {
                other.clone()
            },
            ids.clone(),
        );
        tokio::spawn(async move {
            let owner = new_worker(&store).await;
            claim_new(&store, owner, &ids).await
        })
    });
    let mut won: Vec<_> = join_all(claims)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .map(|job| job.claim.id)
        .collect();
    won.sort();
    assert_eq!(won, {
        let mut ids = ids;
        ids.sort();
        ids
    });
}

async fn a_due_retry_runs_under_a_new_claim_with_the_stored_report(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    let report = fail_attempt(&store, &job).await;
    let again = claim_due(&store).await.pop().unwrap();
    assert_eq!((again.claim.number, again.attempts), (2, 1));
    assert_eq!(stored_result(&again), Some(report));
    let row = row(&store, id).await;
    assert_eq!(
        (row.status, row.next_attempt_at),
        (Status::Processing, None)
    );
}

async fn a_claim_stops_once_its_room_is_full_and_says_what_is_left(database: TestDatabase) {
    let store = database.open().await;
    let redelivered = finished(&store, Outcome::Completed).await;
    redeliver(&store, redelivered).await.unwrap();
    let redelivery = due_jobs(&store, 9).await.due.pop().unwrap();
    let mut candidates = Vec::new();
    for _ in 0..4 {
        candidates.push(Candidate::notified(accept(&store).await));
    }
    candidates.insert(1, redelivery);
    let owner = new_worker(&store).await;
    let claim = async |candidates: &[Candidate], room| {
        let claimed = store.claim(owner, candidates.to_vec(), room).await.unwrap();
        let jobs: Vec<_> = claimed.jobs.into_iter().map(Result::unwrap).collect();
        (jobs, claimed.left)
    };
    let (none, left) = claim(&candidates, 0).await;
    assert!(none.is_empty());
    assert_eq!(left, candidates);
    // One fits, whatever its size.
    let (one, left) = claim(&candidates, 1).await;
    assert_eq!((one.len(), one[0].claim.id), (1, candidates[0].id));
    assert_eq!(left, candidates[1..]);
    assert_eq!(one[0].bytes, input_length(&store, one[0].claim.id).await);
    // The redelivery has an input and a result. Its second candidate is passed: it is claimed.
    let with_result = one[0].bytes + 1;
    let (two, left) = claim(&candidates, with_result).await;
    assert_eq!((two.len(), two[0].claim.work), (1, Work::Redelivery));
    assert!(two[0].bytes > with_result, "{}", two[0].bytes);
    assert_eq!(left, candidates[2..]);
    let (rest, left) = claim(&left, 2 * one[0].bytes).await;
    assert_eq!((rest.len(), &left[..]), (2, &candidates[4..]));
    let (last, left) = claim(&left, 1).await;
    assert_eq!((last.len(), left), (1, vec![]));
}

async fn a_job_that_is_named_twice_is_claimed_once(database: TestDatabase) {
    let store = database.open().await;
    let [first, second] = [accept(&store).await, accept(&store).await].map(Candidate::notified);
    let owner = new_worker(&store).await;
    let twice = vec![first, first, second];
    let claimed = store.claim(owner, twice.clone(), 1).await.unwrap();
    assert_eq!(
        (claimed.jobs.len(), claimed.left.last()),
        (1, Some(&second))
    );
    let again = store.claim_again(owner, twice, 1).await.unwrap();
    let again: Vec<_> = again
        .jobs
        .into_iter()
        .map(|job| job.unwrap().claim.id)
        .collect();
    assert_eq!(again, [first.id], "it runs once");
    let claimed = store.claim(owner, claimed.left, usize::MAX).await.unwrap();
    assert_eq!((claimed.jobs.len(), claimed.left), (1, vec![]));
}

async fn a_repeat_finds_what_a_claim_under_way_wins(database: TestDatabase) {
    let store = database.open().await;
    let owner = new_worker(&store).await;
    let mut candidates = Vec::new();
    for _ in 0..9 {
        candidates.push(Candidate::notified(accept(&store).await));
    }
    let lock = database.hold_lock().await;
    let first = tokio::spawn({
        let (store, candidates) = (store.clone(), candidates.clone());
        async move { store.claim(owner, candidates, 200).await.unwrap() }
    });
    let repeat = tokio::spawn({
        let store = store.clone();
        async move { store.claim_again(owner, candidates, 200).await.unwrap() }
    });
    lock.release().await;
    let ids = |claimed: Claimed| -> HashSet<RequestId> {
        let jobs = claimed.jobs.into_iter();
        jobs.map(|job| job.unwrap().claim.id).collect()
    };
    let (first, repeat) = (ids(first.await.unwrap()), ids(repeat.await.unwrap()));
    let rows = database.tables().await.rows;
    let held = rows.iter().filter(|(_, row)| row.owner == Some(owner));
    let held: HashSet<_> = held.map(|((id, _), _)| *id).collect();
    // Whichever was first: nothing is held of which neither call knows.
    assert!(!held.is_empty() && held == &first | &repeat);
    assert!(repeat.is_superset(&first) || first.is_disjoint(&repeat));
}

/// The bytes of a request's stored input.
async fn input_length(store: &Store, id: RequestId) -> usize {
    row(store, id).await.input_payload.get().len()
}

async fn a_corrupt_row_ends_failed_and_blocks_no_other(database: TestDatabase) {
    let store = database.open().await;
    for breakage in database.invalid_jobs() {
        let (broken, good) = (accept(&store).await, accept(&store).await);
        database.edit(broken, breakage).await;
        let owner = new_worker(&store).await;
        let candidates = [broken, good].map(Candidate::notified).to_vec();
        let claimed = store.claim(owner, candidates, usize::MAX).await.unwrap();
        let [Err(InvalidJob { claim, failure }), Ok(job)] = &claimed.jobs[..] else {
            panic!("{breakage}: {claimed:?}");
        };
        assert_eq!((claim.id, job.claim.id), (broken, good));
        let failed = Settlement::Finish {
            attempt: None,
            outcome: Outcome::Failed(failure.clone()),
        };
        store.settle(*claim, None, failed).await.unwrap();
        let row = row(&store, broken).await;
        assert_eq!(row.status, Status::Failed);
        assert_eq!(
            row.failure.unwrap().reason,
            FailureReason::InvalidRow,
            "{breakage}"
        );
    }
}

async fn a_negative_count_of_attempts_counts_as_none(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let broken = "attempts = -1, attempts_before = -1";
    database.edit(id, broken).await;
    let job = claim_one(&store, id).await.unwrap();
    assert_eq!((job.attempts, job.attempts_before), (0, 0));
}

async fn a_job_with_an_unreadable_trace_gets_a_trace_of_its_own(database: TestDatabase) {
    let store = database.open().await;
    for breakage in database.invalid_traces() {
        let id = accept(&store).await;
        database.edit(id, breakage).await;
        let job = claim_one(&store, id).await.unwrap();
        assert_eq!(job.traceparent, Traceparent::of(id), "{breakage}");
        let shown = row(&store, id).await.traceparent;
        assert_eq!(shown, Traceparent::of(id), "{breakage}");
    }
}

async fn a_claimed_job_says_when_it_was_submitted(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    let submitted = job.created_at.unwrap();
    assert_eq!(row(&store, id).await.created_at, format!("{submitted:.3}"));

    let id = accept(&store).await;
    database.edit(id, database.invalid_created_at()).await;
    let job = claim_one(&store, id).await.unwrap();
    assert_eq!(
        job.created_at, None,
        "edited by hand, and claimed all the same"
    );
}
