//! What a claimed job stores, and how its claim ends.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{EventKind, Failure, FailureReason, Request, RequestId, Status},
    services::store::{Claim, Outcome, Settlement, Store},
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, claim, claim_due, claim_new, claim_one, claimed, delivered, due_jobs, event_kinds,
        fail_attempt, failed, finished, heartbeat_of, is_claim_lost, new_worker, redeliver,
        result_of, retry, row, spec, spec_of, stored_result, timeout, writes_nothing,
    },
};

/// The clocks' milliseconds do not begin together.
const A_MOMENT: Duration = Duration::from_millis(100);

on_every_engine! {
    a_job_goes_from_accepted_to_completed,
    a_failed_job_keeps_its_result_and_its_reason,
    a_lost_claim_can_write_nothing,
    a_settlement_that_is_repeated_succeeds_and_changes_nothing,
    a_scheduled_job_is_not_due_before_its_time_and_records_its_failure,
    a_job_given_back_is_due_at_once_and_as_it_was,
    a_resend_is_recorded_under_its_claim_before_the_event_that_ends_it,
    settlements_at_the_same_time_are_each_told_what_became_of_theirs,
}

async fn a_job_goes_from_accepted_to_completed(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    assert_eq!(
        (job.claim.number, job.attempts, job.worked.clone()),
        (1, 0, None)
    );
    assert_eq!(spec_of(&job), spec());
    assert_eq!((job.handler.as_str(), job.is_long), ("report", false));

    let report = result_of(&job);
    store
        .store_worked(job.claim, Ok(report.clone()), None)
        .await
        .unwrap();
    let stored = row(&store, id).await;
    assert_eq!(stored.status, Status::Processing);
    assert_eq!(stored.result_payload.unwrap().get(), report.as_str());

    store.settle(job.claim, None, delivered()).await.unwrap();
    let done = row(&store, id).await;
    assert_eq!(
        (done.status, done.attempts.len(), done.claims),
        (Status::Completed, 1, 1)
    );
    assert!(done.failure.is_none() && done.completed_at.unwrap() >= done.created_at);
}

async fn a_failed_job_keeps_its_result_and_its_reason(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    store
        .store_worked(job.claim, Ok(result_of(&job)), None)
        .await
        .unwrap();
    let failure = Failure::new(FailureReason::CallbackFailed, "It answered 500.");
    let finish = Settlement::Finish {
        attempt: Some(timeout(4)),
        outcome: Outcome::Failed(failure.clone()),
    };
    store.settle(job.claim, None, finish).await.unwrap();
    let row = row(&store, id).await;
    assert_eq!((row.status, row.failure), (Status::Failed, Some(failure)));
    assert!(row.result_payload.is_some());
}

async fn a_lost_claim_can_write_nothing(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let first = claim_one(&store, id).await.unwrap();
    assert_eq!(store.deregister(first.claim.owner).await.unwrap(), 1);
    let second = claim_due(&store).await.pop().unwrap();
    assert_eq!(second.claim.number, 2);

    let report = result_of(&first);
    let old_number = first.claim;
    let other_owner = Claim {
        owner: first.claim.owner,
        ..second.claim
    };
    for claim in [old_number, other_owner] {
        writes_nothing(&store, claim, &report).await;
    }
    let row = row(&store, id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Processing, 0));
    assert!(row.result_payload.is_none());
    store.settle(second.claim, None, delivered()).await.unwrap();
    let park = Settlement::Park {
        wait: Duration::ZERO,
    };
    assert!(
        is_claim_lost(&store.settle(second.claim, None, park).await),
        "a finished job can't be settled in another way"
    );
}

async fn a_settlement_that_is_repeated_succeeds_and_changes_nothing(database: TestDatabase) {
    let store = database.open().await;
    let now = Duration::ZERO;
    let unreachable = Settlement::Finish {
        attempt: None,
        outcome: failed("It was refused."),
    };
    let done_without_callback = Settlement::Finish {
        attempt: None,
        outcome: Outcome::Completed,
    };
    let mut retried: Option<Claim> = None;
    for settlement in [
        delivered(),
        unreachable,
        done_without_callback,
        retry(timeout(1), now),
    ] {
        let job = claimed(&store).await;
        let settle = || store.settle(job.claim, None, settlement.clone());
        settle().await.unwrap();
        let settled = shown(&store, job.claim.id).await;
        settle().await.unwrap();
        assert_eq!(shown(&store, job.claim.id).await, settled);
        retried = Some(job.claim);
    }
    // Also after the next claim, of which the repeat knows nothing.
    let next = claim_due(&store).await.pop().unwrap();
    let repeated = store.settle(retried.unwrap(), None, retry(timeout(1), now));
    repeated.await.unwrap();
    store.settle(next.claim, None, delivered()).await.unwrap();

    // A redelivery that fails leaves a completed request as it is.
    let id = finished(&store, Outcome::Completed).await;
    redeliver(&store, id).await.unwrap();
    let redelivery = claim_due(&store).await.pop().unwrap();
    let refused = Settlement::Finish {
        attempt: None,
        outcome: failed("It was refused."),
    };
    for _ in 0..2 {
        let settled = store.settle(redelivery.claim, None, refused.clone());
        settled.await.unwrap();
        assert_eq!(row(&store, id).await.status, Status::Completed);
    }

    // A poison job ends under its last claim, too, but not by its worker.
    let poison = claimed(&store).await;
    let max_claims = 2;
    let seen = heartbeat_of(&store, poison.claim.owner).await;
    store.expire(seen, max_claims).await.unwrap().unwrap();
    let owner = new_worker(&store).await;
    let suspects = store.suspects(&[], 1).await.unwrap();
    let poison = claim(&store, owner, suspects).await.pop().unwrap();
    let seen = heartbeat_of(&store, owner).await;
    let expired = store.expire(seen, max_claims).await.unwrap().unwrap();
    assert_eq!(expired.poisoned, 1);
    let late = Settlement::Finish {
        attempt: None,
        outcome: failed("It was refused."),
    };
    assert!(is_claim_lost(&store.settle(poison.claim, None, late).await));
}

async fn shown(store: &Store, id: RequestId) -> String {
    let row = Request {
        // By the wall clock of each look, so it can differ by a millisecond.
        next_attempt_at: None,
        waiting_for: None,
        ..row(store, id).await
    };
    serde_json::to_string(&row).unwrap()
}

async fn a_scheduled_job_is_not_due_before_its_time_and_records_its_failure(
    database: TestDatabase,
) {
    let store = database.open().await;
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    let report = result_of(&job);
    let (soon, begun) = (Duration::from_secs(30), Timestamp::now());
    store
        .settle(job.claim, Some(report.clone()), retry(timeout(2), soon))
        .await
        .unwrap();
    let row = row(&store, id).await;
    assert_eq!((row.status, row.attempts[0].number), (Status::Pending, 2));
    let shown: Timestamp = row.next_attempt_at.unwrap().parse().unwrap();
    let until = Timestamp::now() + soon + A_MOMENT;
    assert!((begun + soon - A_MOMENT..until).contains(&shown), "{shown}");
    assert_eq!(row.events.len(), 1);
    let event = &row.events[0];
    assert_eq!(
        (event.event, event.claim, event.detail.as_deref()),
        (EventKind::AttemptFailed, 1, Some("timeout"))
    );

    // Not claimable before its time, not even by a late notification.
    let backlog = due_jobs(&store, 9).await;
    assert_eq!(backlog.due, []);
    let next_due = backlog.next_due.unwrap();
    assert!(
        Duration::ZERO < next_due && next_due <= soon,
        "{next_due:?}"
    );
    assert!(claim_one(&store, id).await.is_none());
}

async fn a_job_given_back_is_due_at_once_and_as_it_was(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    let report = fail_attempt(&store, &job).await;
    let again = claim_due(&store).await.pop().unwrap();
    let given_back = Settlement::GiveBack;
    store.settle(again.claim, None, given_back).await.unwrap();
    let row = row(&store, id).await;
    assert_eq!((row.status, row.claims, row.parks), (Status::Pending, 2, 0));
    assert_eq!((row.attempts.len(), row.lost_claims), (1, 0));
    let kinds = [EventKind::AttemptFailed, EventKind::GivenBack];
    assert_eq!(event_kinds(&store, id).await, kinds);
    let due = due_jobs(&store, 9).await.due;
    assert_eq!((due.len(), due[0].id, due[0].claims), (1, id, 2));

    let late = store.settle(again.claim, None, delivered()).await;
    assert!(is_claim_lost(&late), "its claim has ended: {late:?}");
    let third = claim_due(&store).await.pop().unwrap();
    assert_eq!((third.claim.number, third.attempts), (3, 1));
    assert_eq!(stored_result(&third), Some(report));
}

async fn a_resend_is_recorded_under_its_claim_before_the_event_that_ends_it(
    database: TestDatabase,
) {
    let store = database.open().await;
    let id = accept(&store).await;
    let first = claim_one(&store, id).await.unwrap();
    store.record_resend(first.claim, 1).await.unwrap();
    assert_eq!(event_kinds(&store, id).await, [EventKind::Resent]);
    fail_attempt(&store, &first).await;
    let late = store.record_resend(first.claim, 2).await;
    assert!(is_claim_lost(&late), "its claim has ended: {late:?}");

    let second = claim_due(&store).await.pop().unwrap();
    store.record_resend(second.claim, 1).await.unwrap();
    let row = row(&store, id).await;
    let events: Vec<_> = row.events.iter().map(|it| (it.event, it.claim)).collect();
    assert_eq!(
        events,
        [
            (EventKind::Resent, 1),
            (EventKind::AttemptFailed, 1),
            (EventKind::Resent, 2)
        ]
    );
}

async fn settlements_at_the_same_time_are_each_told_what_became_of_theirs(database: TestDatabase) {
    let store = database.open().await;
    let wait = Duration::from_hours(1);
    let undelivered = Settlement::Finish {
        attempt: Some(timeout(1)),
        outcome: failed("It answered 500."),
    };
    // What each leaves: its status, the attempts, the events.
    let settlements = [
        (delivered(), Status::Completed, 1, 0),
        (undelivered, Status::Failed, 1, 1),
        (retry(timeout(1), wait), Status::Pending, 1, 1),
        (Settlement::Park { wait }, Status::Pending, 0, 0),
        (Settlement::GiveBack, Status::Pending, 0, 1),
    ];
    let owner = new_worker(&store).await;
    let (mut settling, mut expected) = (Vec::new(), Vec::new());
    for place in 0..60 {
        let (settlement, status, attempts, events) = settlements[place % 5].clone();
        let id = accept(&store).await;
        let job = claim_new(&store, owner, &[id]).await.pop().unwrap();
        let settle = |claim| {
            let (store, settlement) = (store.clone(), settlement.clone());
            tokio::spawn(async move { store.settle(claim, None, settlement).await })
        };
        let forged = Claim {
            number: job.claim.number + 1,
            ..job.claim
        };
        let is_repeat = place % 3 == 0;
        if is_repeat {
            settle(job.claim).await.unwrap().unwrap();
        }
        settling.push((true, settle(forged)));
        settling.push((is_repeat && attempts == 0, settle(job.claim)));
        expected.push((id, status, attempts, events));
    }
    for (is_lost, settled) in settling {
        let settled = settled.await.unwrap();
        assert_eq!(is_claim_lost(&settled), is_lost, "{settled:?}");
        assert!(is_lost || settled.is_ok(), "{settled:?}");
    }
    for (id, status, attempts, events) in expected {
        let row = row(&store, id).await;
        assert_eq!(
            (row.status, row.attempts.len(), row.events.len()),
            (status, attempts, events)
        );
    }
}
