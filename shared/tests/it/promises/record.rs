//! The record of a request: its attempts and its events.

use std::time::Duration;

use storm_shared::{
    models::AttemptClass,
    services::store::{AttemptRecord, Outcome},
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, attempted, claim_due, claimed, due_jobs, event_kinds, expire_lease, failed, finish,
        finished, new_worker, redeliver, result_of, retry, row, timeout,
    },
};

on_every_engine! {
    every_attempt_is_recorded_and_the_internal_detail_is_not_shown,
    releases_and_lease_expiries_keep_the_last_thousand_events_of_a_job,
    the_record_of_a_request_does_not_grow_with_its_redeliveries,
    a_job_that_was_put_back_by_hand_keeps_the_callback_with_which_it_had_ended,
}

async fn every_attempt_is_recorded_and_the_internal_detail_is_not_shown(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let first = AttemptRecord {
        error: Some("could not connect".to_owned()),
        internal_detail: Some("could not connect: 10.0.0.1:80: refused".to_owned()),
        ..attempted(1, AttemptClass::Connect)
    };
    let report = result_of(&job);
    let failed = retry(first, Duration::ZERO);
    let settled = store.settle(job.claim, Some(report.clone()), failed);
    settled.await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    let last = AttemptRecord {
        status: Some(204),
        ..attempted(2, AttemptClass::Success)
    };
    finish(&store, &job, last, Outcome::Completed).await;

    let shown = serde_json::to_value(row(&store, job.claim.id).await).unwrap();
    let attempts = shown["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0]["class"], "connect");
    assert_eq!(attempts[0]["error"], "could not connect");
    assert_eq!(attempts[1]["status"], 204);
    assert_eq!(attempts[1]["duration_ms"], 7);
    assert!(!shown.to_string().contains("10.0.0.1"), "{shown}");
    let internal_details = database.internal_details(job.claim.id).await;
    let first = internal_details[0].as_deref().unwrap();
    assert!(first.contains("10.0.0.1"), "{first}");
}

async fn releases_and_lease_expiries_keep_the_last_thousand_events_of_a_job(
    database: TestDatabase,
) {
    const KEPT: u32 = 1000;
    let store = database.open().await;
    let [id, other] = [accept(&store).await, accept(&store).await];
    // As if it had been released so often already.
    database.add_releases(id, KEPT).await;
    for release in 1..=4 {
        let owner = new_worker(&store).await;
        let mut due = due_jobs(&store, 9).await.due;
        due.extend(store.suspects(&[], 9).await.unwrap());
        let claimed = store.claim(owner, due, usize::MAX).await.unwrap();
        assert_eq!(claimed.jobs.len(), 2);
        if release % 2 == 0 {
            expire_lease(&store, owner).await;
        } else {
            store.deregister(owner).await.unwrap();
        }
        let row = row(&store, id).await;
        assert_eq!(row.events.len(), KEPT as usize);
        let newest = i64::from(KEPT) + release;
        assert_eq!(row.events.last().unwrap().claim, newest);
    }
    assert_eq!(
        event_kinds(&store, other).await.len(),
        4,
        "all of a job with few"
    );
}

async fn the_record_of_a_request_does_not_grow_with_its_redeliveries(database: TestDatabase) {
    const KEPT: u32 = 1000;
    let store = database.open().await;
    let id = finished(&store, failed("It answered 500.")).await;
    // As if it had had KEPT attempts already.
    database.add_attempts(id, KEPT).await;
    for number in KEPT + 1..=KEPT + 2 {
        redeliver(&store, id).await.unwrap();
        let job = claim_due(&store).await.pop().unwrap();
        finish(&store, &job, timeout(number), failed("It timed out.")).await;
    }
    let row = row(&store, id).await;
    let kept: Vec<_> = row.attempts.iter().map(|it| it.number).collect();
    assert_eq!(kept, (3..=KEPT + 2).collect::<Vec<_>>());
    assert_eq!(row.events.len(), KEPT as usize);
}

async fn a_job_that_was_put_back_by_hand_keeps_the_callback_with_which_it_had_ended(
    database: TestDatabase,
) {
    let store = database.open().await;
    let id = finished(&store, Outcome::Completed).await;
    for number in 2..=3 {
        database.make_due(id).await;
        database.edit(id, "status = 'PENDING', owner = NULL").await;
        let job = claim_due(&store).await.pop().unwrap();
        let again = attempted(number, AttemptClass::Success);
        // The second is a repeat of the same write.
        finish(&store, &job, again.clone(), Outcome::Completed).await;
        finish(&store, &job, again, Outcome::Completed).await;
    }
    let attempts = row(&store, id).await.attempts;
    let numbers: Vec<_> = attempts.iter().map(|it| it.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
}
