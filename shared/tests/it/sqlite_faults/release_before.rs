//! A database of the previous release, and its processes beside those of this one.

use std::time::Duration;

use rusqlite::Connection;
use storm_shared::{
    models::{AttemptClass, EventKind, RequestId, Status},
    services::store::{
        Ended, Outcome, OwnerId, RedeliveryPage, Scope, Store, Unredeliverable, Work,
    },
};
use tempfile::TempDir;

use super::{direct, settings};
use crate::jobs::{
    MAX_CLAIMS, attempted, claim_due, due_ids, due_jobs, finish, new_worker, redeliver, row,
};

/// The schema of the previous release.
const SCHEMA: &str = concat!(
    include_str!("../../../migrations/sqlite/0001_requests.sql"),
    include_str!("../../../migrations/sqlite/0002_leases.sql"),
    include_str!("../../../migrations/sqlite/0003_deliveries.sql"),
    include_str!("../../../migrations/sqlite/0004_internal_detail.sql"),
    include_str!("../../../migrations/sqlite/0005_resends.sql"),
    "PRAGMA application_id = 0x53745271; PRAGMA user_version = 5;",
);

const ORIGIN: &str = "https://hooks.example:8443";

/// Inserts a job as the previous release does, with these columns besides.
fn insert(db: &Connection, number: u8, columns: &str, values: &str) -> RequestId {
    let id = format!("019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c{number:02x}");
    db.execute_batch(&format!(
        "INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at, {columns})
         VALUES ('{id}', 'async', 'PENDING', '{{\"report_name\":\"Q1\",\"records\":1}}',
                 '{ORIGIN}/a?b=c', '2026-11-23T12:00:00.000Z', {values});"
    ))
    .unwrap();
    id.parse().unwrap()
}

fn end(db: &Connection, id: RequestId) {
    db.execute(
        "UPDATE requests SET status = 'COMPLETED', completed_at = created_at,
             result_payload = '{\"report_id\":\"3eebd0ea-44d7-531b-b660-ca91c206c5e6\",\"checksum\":\"a6\"}',
             claim = 1, attempts = 1
         WHERE id = ?1",
        [id.to_string()],
    )
    .unwrap();
}

/// A wall-clock time as that release stores it.
const IN_AN_HOUR: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+1 hour')";
const A_MINUTE_AGO: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 minute')";

#[tokio::test]
async fn its_jobs_keep_their_state_their_due_times_and_their_receivers() {
    let folder = TempDir::new().unwrap();
    let db = direct(&folder);
    db.execute_batch(SCHEMA).unwrap();
    let new = insert(&db, 1, "claim", "0");
    let (scheduled, due) = (
        insert(
            &db,
            2,
            "claim, attempts, next_attempt_at",
            &format!("1, 1, {IN_AN_HOUR}"),
        ),
        insert(
            &db,
            3,
            "claim, attempts, next_attempt_at",
            &format!("1, 1, {A_MINUTE_AGO}"),
        ),
    );
    let parked = insert(
        &db,
        4,
        "claim, parks, parked_since, next_attempt_at",
        &format!("1, 1, {A_MINUTE_AGO}, {IN_AN_HOUR}"),
    );
    let from_the_future = insert(
        &db,
        5,
        "claim, next_attempt_at",
        "1, '2126-01-01T00:00:00.000Z'",
    );
    let (redelivering, ended) = (insert(&db, 6, "claim", "0"), insert(&db, 7, "claim", "0"));
    let redelivered_now = insert(&db, 8, "claim", "0");
    for id in [redelivering, ended, redelivered_now] {
        end(&db, id);
    }
    // A worker of that release holds this one, and will lose it.
    db.execute(
        "UPDATE requests SET redelivery = 'PROCESSING', claim = 2, owner = ?2, attempts_before = 1
         WHERE id = ?1",
        [redelivered_now.to_string(), OwnerId::generate().to_string()],
    )
    .unwrap();
    db.execute(
        &format!("UPDATE requests SET redelivery = 'PENDING', next_attempt_at = {A_MINUTE_AGO} WHERE id = ?1"),
        [redelivering.to_string()],
    )
    .unwrap();

    let store = Store::open(&settings(folder.path())).await.unwrap();
    let backlog = due_jobs(&store, 9).await;
    let mut found: Vec<_> = backlog.due.iter().map(|candidate| candidate.id).collect();
    found.sort();
    assert_eq!(found, [new, due, redelivering, redelivered_now]);
    let lost = row(&store, redelivered_now).await;
    let event = lost.events.last().unwrap();
    assert_eq!((event.event, event.claim), (EventKind::ClaimLost, 2));
    assert_eq!(
        (lost.status, lost.redelivery),
        (Status::Completed, Some(Status::Pending))
    );
    let next = backlog.next_due.unwrap();
    let minutes = 55..=60;
    assert!(minutes.contains(&(next.as_secs() / 60)), "{next:?}");
    let shown = row(&store, scheduled).await;
    assert!(shown.next_attempt_at.is_some() && shown.status == Status::Pending);
    assert!(row(&store, parked).await.parked_since.is_some());
    let [over] = &store.destinations_over_limit(6).await.unwrap()[..] else {
        panic!("six jobs of one origin were claimed before")
    };
    let origin = &over.origin;
    assert_eq!((origin.as_str(), &over.tenant), (ORIGIN, &None));
    assert_eq!(store.unpark(over.clone(), 9).await.unwrap(), 1);
    let claimed = claim_due(&store).await;
    assert_eq!(claimed.len(), 5, "and the one that was parked");
    for job in &claimed {
        assert_eq!(job.callback.as_ref().unwrap().origin(), origin);
        let parked_for = if job.claim.id == parked { 60 } else { 0 };
        assert_eq!(job.parked_for.as_secs() / 10 * 10, parked_for);
    }
    assert!(row(&store, from_the_future).await.next_attempt_at.is_some());

    // One that had ended has its receiver, too, and its backlog counts it.
    let page = RedeliveryPage {
        status: Status::Completed,
        since: None,
        after: None,
        limit: 9,
    };
    let found = store.redeliverable(Scope::All, page).await.unwrap();
    assert_eq!(found.requests, [(ended, origin.clone())]);
    let origin_of_ended = store.origin_of(Scope::All, ended).await.unwrap();
    assert_eq!(origin_of_ended.unwrap().as_ref(), Some(origin));
    redeliver(&store, ended).await.unwrap();
    let over_limit = store.destinations_over_limit(3).await.unwrap();
    assert_eq!(over_limit, std::slice::from_ref(over));
}

#[tokio::test]
async fn what_its_processes_write_meanwhile_is_found_when_it_is_due() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(&settings(folder.path())).await.unwrap();
    let db = direct(&folder);
    // It accepts a job, claims it, and schedules a retry.
    let accepted = insert(&db, 1, "claim", "0");
    assert_eq!(due_ids(&store, 9).await, [accepted]);
    let schedule = |id: RequestId, at: &str| {
        let scheduled = format!(
            "UPDATE requests SET status = 'PENDING', owner = NULL, claim = 1, attempts = 1,
                 next_attempt_at = {at} WHERE id = ?1"
        );
        db.execute(&scheduled, [id.to_string()]).unwrap();
    };
    schedule(accepted, IN_AN_HOUR);
    let backlog = due_jobs(&store, 9).await;
    assert_eq!(backlog.due, []);
    let hour = Duration::from_hours(1);
    assert!(backlog.next_due.unwrap().abs_diff(hour) < Duration::from_mins(5));
    let [over] = &store.destinations_over_limit(1).await.unwrap()[..] else {
        panic!("its job counts")
    };
    assert_eq!(over.origin.as_str(), ORIGIN);
    schedule(accepted, A_MINUTE_AGO);
    assert_eq!(due_ids(&store, 9).await, [accepted]);
    // It ends the job, and redelivers it.
    end(&db, accepted);
    assert_eq!(due_ids(&store, 9).await, []);
    redeliver(&store, accepted).await.unwrap();
    assert_eq!(due_ids(&store, 9).await, [accepted]);
    let job = claim_due(&store).await.pop().unwrap();
    assert_eq!(
        (job.claim.work, job.attempts, job.attempts_before),
        (Work::Redelivery, 1, 1)
    );
    let success = attempted(2, AttemptClass::Success);
    finish(&store, &job, success, Outcome::Completed).await;

    // A redelivery that it starts is one of this release, with its origin.
    let started = format!(
        "UPDATE requests SET redelivery = 'PENDING', next_attempt_at = {A_MINUTE_AGO}, owner = NULL,
             lost_claims = 0, attempts_before = attempts, parked_since = NULL, origin = NULL
         WHERE id = ?1"
    );
    db.execute(&started, [accepted.to_string()]).unwrap();
    assert_eq!(
        redeliver(&store, accepted).await,
        Err(Unredeliverable::UnderWay)
    );
    assert_eq!(row(&store, accepted).await.status, Status::Completed);
    assert_eq!(store.destinations_over_limit(1).await.unwrap().len(), 1);
    let job = claim_due(&store).await.pop().unwrap();
    assert_eq!(
        (job.claim.work, job.attempts, job.attempts_before),
        (Work::Redelivery, 2, 2)
    );
    // It expires the lease of a worker of this release, without its redelivery.
    db.execute("DELETE FROM workers", []).unwrap();
    let observer = new_worker(&store).await;
    let seen = store
        .renew(observer, Ended::default())
        .await
        .unwrap()
        .others;
    assert_eq!(seen.len(), 1, "the lost worker is known again");
    store.expire(seen[0], MAX_CLAIMS).await.unwrap().unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    // Put back by hand, it is due.
    let put_back = "UPDATE redeliveries SET status = 'PENDING', owner = NULL";
    db.execute(put_back, []).unwrap();
    assert_eq!(job.claim.id, accepted);
    let job = claim_due(&store).await.pop().unwrap();
    let success = attempted(3, AttemptClass::Success);
    finish(&store, &job, success, Outcome::Completed).await;
    assert_eq!(row(&store, accepted).await.redelivery, None);

    // A job that was put back by hand under its redelivery keeps its own claim.
    redeliver(&store, accepted).await.unwrap();
    let redelivery = claim_due(&store).await.pop().unwrap();
    let put_back = "UPDATE requests SET status = 'PENDING', owner = NULL";
    db.execute(put_back, []).unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    let success = attempted(4, AttemptClass::Success);
    finish(&store, &redelivery, success.clone(), Outcome::Completed).await;
    finish(&store, &job, success, Outcome::Completed).await;
    assert_eq!(row(&store, accepted).await.status, Status::Completed);
}
