//! Idempotency keys: a submission that is repeated with its key makes no second job.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use storm_shared::{
    config::StoreSettings,
    models::{CallbackUrl, IdempotencyKey, Records, ReportSpec, RequestId},
    services::store::{Acceptance, NewJob, Outcome, Store, StoreError, expected_at},
};

use crate::{
    database::TestDatabase,
    jobs::{
        claim_due, claim_one, delivered, fail_attempt, failed, finish, next_millisecond, redeliver,
        row, spec, success, timeout,
    },
};

on_every_engine! {
    a_repeated_submission_is_answered_with_the_first_job_in_whatever_state_that_is,
    a_key_with_another_submission_conflicts_and_stores_nothing,
    of_submissions_with_one_key_in_one_group_commit_the_first_is_stored,
    of_submissions_with_one_key_at_two_stores_at_once_one_is_stored,
    a_key_belongs_to_one_tenant_or_to_all_that_have_none,
    a_key_whose_window_is_over_belongs_to_its_job_until_that_has_ended,
    a_key_is_free_once_its_window_is_over_and_its_job_has_ended,
    of_submissions_at_two_stores_one_takes_a_key_that_has_become_free,
    a_window_goes_by_the_stores_clock_also_after_a_boot,
    an_accept_with_a_key_that_is_repeated_is_no_replay,
    a_submission_that_is_not_stored_leaves_its_key_free,
    a_key_whose_request_was_deleted_is_free,
}

// The first release that knew the other engine stored what it expects.
on_engine! { release_before, Sqlite,
    a_key_of_the_release_before_expects_its_job_as_if_nothing_had_waited,
}

/// A submission with this key, which is expected to wait for a worker for a while.
fn keyed(key: &str) -> NewJob {
    let callback = CallbackUrl::parse("http://example.com/hook").unwrap();
    let job = NewJob::new(RequestId::generate(), spec(), Some(callback));
    let takes = Duration::from_secs(1234);
    NewJob {
        idempotency_key: Some(IdempotencyKey::try_from(key.as_bytes()).unwrap()),
        expected_at: expected_at(job.created_at, takes),
        ..job
    }
}

/// The same submission once more, as another request, of which something else is expected.
fn again(job: &NewJob) -> NewJob {
    NewJob {
        id: RequestId::generate(),
        expected_at: job.expected_at + Duration::from_secs(1),
        ..job.clone()
    }
}

/// The answer to a repeat of `first`.
fn replay_of(first: &NewJob) -> Acceptance {
    let in_millis = format!("{:.3}", first.expected_at);
    Acceptance::Replayed {
        id: first.id,
        expected_at: in_millis.parse().unwrap(),
    }
}

/// Another submission with the same key.
fn other(job: &NewJob) -> NewJob {
    let records = Records::new(11, Records::MAX_ASYNC).unwrap();
    let other = ReportSpec { records, ..spec() };
    NewJob {
        input: NewJob::new(job.id, other, None).input,
        ..again(job)
    }
}

async fn accept(store: &Store, job: &NewJob) -> Acceptance {
    store.accept(job.clone()).await.unwrap()
}

/// Accepts a job whose key is free.
async fn store_first(store: &Store, job: &NewJob) {
    assert_eq!(store.accepted_before(job).await.unwrap(), None);
    assert_eq!(accept(store, job).await, Acceptance::Stored);
}

/// Submits `first` once more: it is replayed, by a look and by a write.
async fn is_replayed(store: &Store, first: &NewJob) {
    let repeat = again(first);
    let replayed = replay_of(first);
    assert_eq!(
        store.accepted_before(&repeat).await.unwrap(),
        Some(replayed)
    );
    assert_eq!(accept(store, &repeat).await, replayed);
}

/// A store whose windows are over as soon as their jobs are stored.
async fn without_a_window(database: &TestDatabase) -> Store {
    let settings = StoreSettings {
        idempotency_window: Duration::from_millis(1),
        ..database.settings()
    };
    Store::open(&settings).await.unwrap()
}

async fn a_repeated_submission_is_answered_with_the_first_job_in_whatever_state_that_is(
    database: TestDatabase,
) {
    let store = database.open().await;
    let first = keyed("a");
    store_first(&store, &first).await;
    is_replayed(&store, &first).await;
    let job = claim_one(&store, first.id).await.unwrap();
    is_replayed(&store, &first).await;
    fail_attempt(&store, &job).await;
    is_replayed(&store, &first).await;
    let job = claim_due(&store).await.pop().unwrap();
    finish(&store, &job, timeout(2), failed("It timed out.")).await;
    is_replayed(&store, &first).await;
    redeliver(&store, first.id).await.unwrap();
    is_replayed(&store, &first).await;
    assert_eq!(database.count().await, 1);
    assert_eq!(database.keyed().await, [first.id]);
    // Without a key, the same submission is a new job.
    let unkeyed = NewJob {
        idempotency_key: None,
        ..again(&first)
    };
    store_first(&store, &unkeyed).await;
    assert_eq!(database.count().await, 2);
}

async fn a_key_with_another_submission_conflicts_and_stores_nothing(database: TestDatabase) {
    let store = database.open().await;
    let first = keyed("a");
    store_first(&store, &first).await;
    let elsewhere = CallbackUrl::parse("http://example.com:80/hook").unwrap();
    for different in [
        other(&first),
        NewJob {
            callback: None,
            ..again(&first)
        },
        NewJob {
            callback: Some(elsewhere),
            ..again(&first)
        },
    ] {
        let conflicting = Acceptance::Conflicting;
        let seen = store.accepted_before(&different).await.unwrap();
        assert_eq!(seen, Some(conflicting));
        assert_eq!(accept(&store, &different).await, conflicting);
    }
    assert_eq!(database.count().await, 1);
    is_replayed(&store, &first).await;
}

async fn of_submissions_with_one_key_in_one_group_commit_the_first_is_stored(
    database: TestDatabase,
) {
    // Four slots, as in `write_queue`: that all four are queued shows that they share the
    // transaction after the one that waits for the lock.
    let four = StoreSettings {
        write_queue: 4,
        ..database.settings()
    };
    let store = Store::open(&four).await.unwrap();
    let accepting = |job: NewJob| {
        let store = store.clone();
        tokio::spawn(async move { store.accept(job).await.unwrap() })
    };
    let lock = database.hold_lock().await;
    let unkeyed = accepting(NewJob::new(RequestId::generate(), spec(), None));
    for _ in 0..10 {
        tokio::task::yield_now().await; // single-threaded: the task queues it, the writer takes it
    }
    let first = keyed("a");
    let jobs = [first.clone(), again(&first), other(&first), again(&first)];
    let writes = jobs.map(accepting);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    lock.release().await;
    unkeyed.await.unwrap();
    let answers: Vec<_> = join_all(writes)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let replayed = replay_of(&first);
    let conflicting = Acceptance::Conflicting;
    assert_eq!(
        answers,
        [Acceptance::Stored, replayed, conflicting, replayed]
    );
    assert_eq!(database.count().await, 2);
}

async fn of_submissions_with_one_key_at_two_stores_at_once_one_is_stored(database: TestDatabase) {
    let stores = [database.open().await, database.open().await];
    for round in 0..50 {
        let first = keyed(&format!("key-{round}"));
        // Two submissions, each at both stores.
        let writes = (0..8).map(|number| {
            let make = if number < 4 { again } else { other };
            let (store, job) = (stores[number % 2].clone(), make(&first));
            tokio::spawn(async move {
                let (id, input) = (job.id, Arc::clone(&job.input));
                (id, input, store.accept(job).await.unwrap())
            })
        });
        let answers = join_all(writes).await.into_iter().map(Result::unwrap);
        let (won, lost): (Vec<_>, Vec<_>) =
            answers.partition(|(_, _, answer)| *answer == Acceptance::Stored);
        let [(winner, submitted, _)] = &won[..] else {
            panic!("{won:?} {lost:?}")
        };
        for (_, input, answer) in lost {
            let is_right = match answer {
                Acceptance::Replayed { id, .. } => id == *winner && input == *submitted,
                Acceptance::Conflicting => input != *submitted,
                Acceptance::Stored | Acceptance::OldWorkers => false,
            };
            assert!(is_right, "{answer:?}");
        }
    }
    assert_eq!(database.count().await, 50);
}

async fn a_key_belongs_to_one_tenant_or_to_all_that_have_none(database: TestDatabase) {
    let store = database.open().await;
    let nobody = keyed("a");
    let [one, two] = ["one", "two"].map(|tenant| NewJob {
        created_by: Some(tenant.parse().unwrap()),
        ..again(&nobody)
    });
    for job in [&nobody, &one, &two] {
        store_first(&store, job).await;
    }
    for job in [&nobody, &one, &two] {
        is_replayed(&store, job).await;
        let conflicting = accept(&store, &other(job)).await;
        assert_eq!(conflicting, Acceptance::Conflicting);
    }
    assert_eq!(database.count().await, 3);
    // Keys differ by case, and by whatever else.
    store_first(&store, &keyed("A")).await;
}

async fn a_key_whose_window_is_over_belongs_to_its_job_until_that_has_ended(
    database: TestDatabase,
) {
    let store = without_a_window(&database).await;
    let first = keyed("a");
    store_first(&store, &first).await;
    next_millisecond().await;
    is_replayed(&store, &first).await;
    let job = claim_one(&store, first.id).await.unwrap();
    is_replayed(&store, &first).await;
    assert_eq!(
        accept(&store, &other(&first)).await,
        Acceptance::Conflicting
    );
    fail_attempt(&store, &job).await;
    is_replayed(&store, &first).await;
    let job = claim_due(&store).await.pop().unwrap();
    store.settle(job.claim, None, delivered()).await.unwrap();
    store_first(&store, &again(&first)).await;
}

async fn a_key_is_free_once_its_window_is_over_and_its_job_has_ended(database: TestDatabase) {
    let store = without_a_window(&database).await;
    let mut last = keyed("a");
    store_first(&store, &last).await;
    for outcome in [Outcome::Completed, failed("It timed out.")] {
        let job = claim_one(&store, last.id).await.unwrap();
        finish(&store, &job, timeout(1), outcome).await;
        next_millisecond().await;
        // Another submission takes it, from whom the first can't take it back.
        let next = other(&last);
        let next = NewJob {
            callback: None,
            ..next
        };
        store_first(&store, &next).await;
        next_millisecond().await;
        is_replayed(&store, &next).await;
        assert_eq!(
            accept(&store, &last).await,
            Acceptance::Stored,
            "its own repeat"
        );
        let conflicting = accept(&store, &keyed("a")).await;
        assert_eq!(conflicting, Acceptance::Conflicting);
        assert_eq!(database.keyed().await, [next.id], "one row for one key");
        last = next;
    }
    assert_eq!(database.count().await, 3);
}

async fn of_submissions_at_two_stores_one_takes_a_key_that_has_become_free(database: TestDatabase) {
    let stores = [
        without_a_window(&database).await,
        without_a_window(&database).await,
    ];
    let mut last = keyed("a");
    store_first(&stores[0], &last).await;
    for round in 0..20 {
        let job = claim_one(&stores[0], last.id).await.unwrap();
        finish(&stores[0], &job, success(), Outcome::Completed).await;
        next_millisecond().await;
        let submitted: Vec<_> = (0..6).map(|_| again(&last)).collect();
        let writes = submitted.iter().enumerate().map(|(number, new)| {
            let (store, new) = (stores[number % 2].clone(), new.clone());
            tokio::spawn(async move { store.accept(new).await.unwrap() })
        });
        let answers = join_all(writes).await.into_iter().map(Result::unwrap);
        let (won, others): (Vec<_>, Vec<_>) = submitted
            .into_iter()
            .zip(answers)
            .partition(|(_, answer)| *answer == Acceptance::Stored);
        let [(winner, _)] = &won[..] else {
            panic!("{won:?} {others:?}")
        };
        for (_, answer) in others {
            assert_eq!(answer, replay_of(winner));
        }
        assert_eq!(database.keyed().await, [winner.id]);
        assert_eq!(database.count().await, round + 2);
        last = winner.clone();
    }
}

async fn a_window_goes_by_the_stores_clock_also_after_a_boot(database: TestDatabase) {
    let first = keyed("a");
    let store = database.open().await;
    store_first(&store, &first).await;
    let job = claim_one(&store, first.id).await.unwrap();
    store.settle(job.claim, None, delivered()).await.unwrap();
    store.close().await;
    // 23 hours, the clock set back by 100 days, and two hours more: of a window of 24 hours.
    for hours in [23, -2400] {
        database.boot_after(hours).await;
        let store = database.open().await;
        is_replayed(&store, &first).await;
        store.close().await;
    }
    database.boot_after(2).await;
    let store = database.open().await;
    store_first(&store, &again(&first)).await;
}

async fn an_accept_with_a_key_that_is_repeated_is_no_replay(database: TestDatabase) {
    let store = without_a_window(&database).await;
    let first = keyed("a");
    let repeat = async || {
        let (rows, keyed) = (database.tables().await.rows, database.keyed().await);
        assert_eq!(accept(&store, &first).await, Acceptance::Stored);
        assert_eq!(database.tables().await.rows, rows);
        assert_eq!(database.keyed().await, keyed);
    };
    store_first(&store, &first).await;
    repeat().await;
    let job = claim_one(&store, first.id).await.unwrap();
    repeat().await;
    store.settle(job.claim, None, delivered()).await.unwrap();
    next_millisecond().await;
    repeat().await;
    store_first(&store, &again(&first)).await;
    // The key belongs to another job by now.
    repeat().await;
    assert_eq!(database.count().await, 2);

    // If the first try was not committed and another took the key meanwhile, it is one.
    let late = again(&first);
    assert!(matches!(
        accept(&store, &late).await,
        Acceptance::Replayed { .. }
    ));
}

async fn a_submission_that_is_not_stored_leaves_its_key_free(database: TestDatabase) {
    let store = database.open().await;
    let stored = NewJob::new(RequestId::generate(), spec(), None);
    assert_eq!(accept(&store, &stored).await, Acceptance::Stored);
    let refused = NewJob {
        id: stored.id,
        ..keyed("a")
    };
    let error = store.accept(refused).await;
    assert!(matches!(error, Err(StoreError::Failed { .. })), "{error:?}");
    assert_eq!(database.keyed().await, []);
    store_first(&store, &keyed("a")).await;
}

async fn a_key_whose_request_was_deleted_is_free(database: TestDatabase) {
    let store = database.open().await;
    let first = keyed("a");
    store_first(&store, &first).await;
    database.delete(first.id).await;
    let next = other(&first);
    store_first(&store, &next).await;
    is_replayed(&store, &next).await;
    assert_eq!(database.keyed().await, [next.id]);
}

async fn a_key_of_the_release_before_expects_its_job_as_if_nothing_had_waited(
    database: TestDatabase,
) {
    let store = database.open().await;
    let first = keyed("a");
    store_first(&store, &first).await;
    database.forget_expectations().await;
    let created_at = row(&store, first.id).await.created_at.parse().unwrap();
    let replayed = Acceptance::Replayed {
        id: first.id,
        expected_at: expected_at(created_at, spec().ideal_duration()),
    };
    assert_eq!(accept(&store, &again(&first)).await, replayed);
}
