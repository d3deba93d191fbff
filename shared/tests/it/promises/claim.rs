//! Claims: one worker gets a job, with all that earlier claims stored.

use futures_util::future::join_all;
use storm_shared::{
    models::{FailureReason, Status, Traceparent},
    services::store::{Candidate, InvalidJob, Outcome, Settlement},
};

use crate::{
    database::TestDatabase,
    jobs::{accept, claim_due, claim_new, claim_one, fail_attempt, new_worker, row},
};

on_every_engine! {
    exactly_one_of_many_concurrent_claims_on_a_job_wins,
    a_due_retry_runs_under_a_new_claim_with_the_stored_report,
    a_corrupt_row_ends_failed_and_blocks_no_other,
    a_negative_count_of_attempts_counts_as_none,
    a_job_with_an_unreadable_trace_gets_a_trace_of_its_own,
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
    assert_eq!(again.report, Some(report));
    let row = row(&store, id).await;
    assert_eq!(
        (row.status, row.next_attempt_at),
        (Status::Processing, None)
    );
}

async fn a_corrupt_row_ends_failed_and_blocks_no_other(database: TestDatabase) {
    let store = database.open().await;
    for breakage in database.invalid_jobs() {
        let (broken, good) = (accept(&store).await, accept(&store).await);
        database.edit(broken, breakage).await;
        let owner = new_worker(&store).await;
        let candidates = [broken, good].map(Candidate::notified).to_vec();
        let claimed = store.claim(owner, candidates).await.unwrap();
        let [Err(InvalidJob { claim, failure }), Ok(job)] = &claimed[..] else {
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
