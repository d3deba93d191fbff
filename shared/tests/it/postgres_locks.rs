//! What processes of several hosts do at the same moment, and the locks of the engine that put it
//! in an order.

use std::time::Duration;

use futures_util::future::join_all;
use storm_shared::{
    config::StoreSettings,
    models::{IdempotencyKey, RequestId, Status},
    services::store::{
        Acceptance, Candidate, Claimed, Ended, NewJob, Outcome, OwnerId, Paused, Scope, Store,
        StoreError, TooManyPauses, Trouble,
    },
};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::{
    jobs::{
        MAX_CLAIMS, accept, claim, claim_new, delivered, due_jobs, finished, heartbeat_of,
        is_claim_lost, new_job, new_worker, redeliver, retry, status, timeout,
    },
    postgres_server::{PostgresServer, until},
};

/// Waits until so many others wait for locks. False if the `task` ended before.
async fn wait_for_locks<T>(client: &Client, count: i64, task: &JoinHandle<T>) -> bool {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let all_wait = async || {
        let row = client.query_one(waiting, &[]).await.unwrap();
        row.get::<_, i64>(0) >= count
    };
    until(async || task.is_finished() || all_wait().await).await;
    !task.is_finished()
}

/// Sessions report theirs at the latest when they end.
const DEADLOCKS: &str = "SELECT sum(deadlocks)::bigint FROM pg_stat_database";

/// What a claim, a pause and another claim have come to, which began in this order while the first
/// one could not be committed.
struct Outcomes {
    claim: Result<Claimed, StoreError>,
    pause: Result<Result<bool, TooManyPauses>, StoreError>,
    next_claim: Result<Claimed, StoreError>,
}

/// `None` if one of them did not wait: its time was over before the next one had begun.
async fn claim_pause_claim(server: &PostgresServer, store: &Store) -> Option<Outcomes> {
    let (job, other) = (accept(store).await, accept(store).await);
    let (first, second) = (new_worker(store).await, new_worker(store).await);
    let client = server.client().await;
    let lock = format!("BEGIN; SELECT FROM workers WHERE owner = '{first}' FOR UPDATE");
    client.batch_execute(&lock).await.unwrap();

    let claim = |owner: OwnerId, id| {
        let store = store.clone();
        let candidates = vec![Candidate::notified(id)];
        tokio::spawn(async move { store.claim(owner, candidates, usize::MAX).await })
    };
    let claiming = claim(first, job);
    let mut all_wait = wait_for_locks(&client, 1, &claiming).await;
    let pausing = {
        let store = store.clone();
        let operator = "ops".parse().unwrap();
        tokio::spawn(async move { store.pause(Paused::Everything, operator).await })
    };
    all_wait &= wait_for_locks(&client, 2, &pausing).await;
    let claiming_next = claim(second, other);
    all_wait &= wait_for_locks(&client, 3, &claiming_next).await;
    all_wait &= !claiming.is_finished() && !pausing.is_finished();
    client.batch_execute("COMMIT").await.unwrap();
    let outcomes = Outcomes {
        claim: claiming.await.unwrap(),
        pause: pausing.await.unwrap(),
        next_claim: claiming_next.await.unwrap(),
    };
    all_wait.then_some(outcomes)
}

#[tokio::test]
async fn a_pause_waits_for_the_claims_under_way_and_those_after_it_wait_for_the_pause() {
    pause_between_claims(&[]).await;
}

/// A statement that sees what others have committed before it must not become one that sees what
/// was there at the begin of its transaction.
#[tokio::test]
async fn a_pause_is_between_claims_whatever_the_isolation_level_is_by_default() {
    pause_between_claims(&["default_transaction_isolation = 'repeatable read'"]).await;
}

async fn pause_between_claims(options: &[&str]) {
    let server = PostgresServer::start(options);
    let store = Store::open(&server.settings()).await.unwrap();
    let outcomes = loop {
        let outcomes = claim_pause_claim(&server, &store).await;
        if let Some(outcomes) = outcomes {
            break outcomes;
        }
        let resumed = store.resume(Paused::Everything, "ops".parse().unwrap());
        resumed.await.unwrap();
    };
    // Were the claims not behind the pause, one of a busy service would always be before it.
    let claimed = outcomes.claim.unwrap();
    assert_eq!((claimed.jobs.len(), claimed.is_paused), (1, false));
    assert_eq!(outcomes.pause.unwrap(), Ok(true));
    let claimed = outcomes.next_claim.unwrap();
    assert_eq!((claimed.jobs.len(), claimed.is_paused), (0, true));
}

/// What many processes do with the same rows at the same time, each in another order.
#[tokio::test]
async fn writes_to_the_same_rows_at_the_same_time_never_wait_for_each_other_in_a_circle() {
    let server = PostgresServer::start(&[]);
    let stores = [
        Store::open(&server.settings()).await.unwrap(),
        Store::open(&server.settings()).await.unwrap(),
    ];
    for _ in 0..5 {
        let mut ids = Vec::new();
        let mut ended = Vec::new();
        for _ in 0..60 {
            ids.push(accept(&stores[0]).await);
        }
        for _ in 0..10 {
            ended.push(finished(&stores[0], Outcome::Completed).await);
        }
        let workers = [new_worker(&stores[0]).await, new_worker(&stores[1]).await];
        let mut jobs = Vec::new();
        for (n, ids) in ids.chunks(30).enumerate() {
            jobs.extend(claim_new(&stores[n], workers[n], ids).await);
        }
        let seen = heartbeat_of(&stores[0], workers[0]).await;

        let mut writing = Vec::new();
        for n in 0..2 {
            let store = &stores[n];
            for job in &jobs {
                let (store, claim) = (store.clone(), job.claim);
                let settlement = match n {
                    0 => delivered(),
                    _ => retry(timeout(1), Duration::ZERO),
                };
                writing.push(tokio::spawn(async move {
                    let settled = store.settle(claim, None, settlement).await;
                    assert!(settled.is_ok() || is_claim_lost(&settled), "{settled:?}");
                }));
            }
            jobs.reverse();
            let (again, ended_now) = (store.clone(), ended.clone());
            writing.push(tokio::spawn(async move {
                again.redeliver_all(Scope::All, ended_now).await.unwrap();
            }));
            ended.reverse();
            let cancelling = (store.clone(), ids[n * 20..n * 20 + 10].to_vec());
            writing.push(tokio::spawn(async move {
                for id in cancelling.1 {
                    let _ = cancelling.0.cancel(Scope::All, id).await.unwrap();
                }
            }));
            let sweeping = store.clone();
            writing.push(tokio::spawn(async move {
                sweeping.sweep(Duration::ZERO, None).await.unwrap();
            }));
        }
        let expiring = stores[1].clone();
        writing.push(tokio::spawn(async move {
            expiring.expire(seen, MAX_CLAIMS).await.unwrap();
        }));
        for write in writing {
            write.await.unwrap();
        }
    }
    for store in stores {
        store.close().await;
    }
    assert_eq!(server.number(DEADLOCKS).await, 0);
}

/// The server would end one of them as a deadlock: another program holds a key in the middle, so
/// each has half of its keys before it meets the other.
#[tokio::test]
async fn submissions_with_the_same_keys_in_opposite_orders_never_wait_for_each_other_in_a_circle() {
    const KEYS: usize = 40;
    let server = PostgresServer::start(&[]);
    let stores = [
        Store::open(&server.settings()).await.unwrap(),
        Store::open(&server.settings()).await.unwrap(),
    ];
    let client = server.client().await;
    let watcher = server.client().await;
    let mut round = 0;
    let (first, second) = loop {
        let key = |n: usize| format!("{round}-{n:02}");
        let take = format!(
            "BEGIN; INSERT INTO idempotency_keys
                 (tenant, key, request_id, fingerprint, expires, expected_at)
             SELECT tenant, '{}', gen_random_uuid(), fingerprint, expires, expected_at
             FROM idempotency_keys LIMIT 1",
            key(KEYS / 2)
        );
        // The row that the other one is made like.
        stores[0].accept(keyed(&format!("{round}"))).await.unwrap();
        client.batch_execute(&take).await.unwrap();
        let accept_all = |store: &Store, keys: Vec<usize>| {
            let jobs: Vec<_> = keys.into_iter().map(|n| keyed(&key(n))).collect();
            let store = store.clone();
            tokio::spawn(async move {
                // All are queued before the first one is sent.
                join_all(jobs.into_iter().map(|job| store.accept(job))).await
            })
        };
        let first = accept_all(&stores[0], (0..KEYS).collect());
        let mut all_wait = wait_for_locks(&watcher, 1, &first).await;
        let second = accept_all(&stores[1], (0..KEYS).rev().collect());
        all_wait &= wait_for_locks(&watcher, 2, &second).await && !first.is_finished();
        client.batch_execute("ROLLBACK").await.unwrap();
        let accepted = (first.await.unwrap(), second.await.unwrap());
        if all_wait {
            break accepted;
        }
        round += 1;
    };
    let is_new = |accepted: &Result<_, StoreError>| matches!(accepted, Ok(Acceptance::Stored));
    let all = || first.iter().chain(&second);
    assert!(all().all(Result::is_ok), "{first:?} {second:?}");
    assert_eq!(all().filter(|it| is_new(it)).count(), KEYS);
    for store in stores {
        store.close().await;
    }
    assert_eq!(server.number(DEADLOCKS).await, 0);
}

/// An operator's forgotten transaction, a backup tool's, a debugger's.
#[tokio::test]
async fn a_row_that_another_program_has_locked_delays_no_settlement_but_its_own() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(accept(&store).await);
    }
    let owner = new_worker(&store).await;
    let mut jobs = claim_new(&store, owner, &ids).await;
    let locked = jobs.pop().unwrap().claim;
    let client = server.client().await;
    lock_row(&client, locked.id).await;
    let settle = |claim| {
        let store = store.clone();
        tokio::spawn(async move { store.settle(claim, None, delivered()).await })
    };
    let late = settle(locked);
    let others: Vec<_> = jobs.iter().map(|job| settle(job.claim)).collect();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(status(&store, locked.id).await, Status::Processing);
    // It is told in the end, and nothing is wrong with the database.
    let refused = late.await.unwrap().unwrap_err();
    assert!(
        matches!(
            refused,
            StoreError::Failed {
                trouble: Trouble::Busy,
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(store.trouble(), None);
    let waiting = settle(locked);
    client.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(status(&store, locked.id).await, Status::Completed);
}

#[tokio::test]
async fn a_lease_expiry_reclaims_what_no_other_program_has_locked_and_later_the_rest() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    let ids = [
        accept(&store).await,
        accept(&store).await,
        accept(&store).await,
    ];
    let redelivered = finished(&store, Outcome::Completed).await;
    redeliver(&store, redelivered).await.unwrap();
    let owner = new_worker(&store).await;
    claim_new(&store, owner, &ids).await;
    let due = due_jobs(&store, 10).await.due;
    assert_eq!(claim(&store, owner, due).await.len(), 1);
    let client = server.client().await;
    lock_row(&client, ids[0]).await;
    let lock = format!("SELECT FROM redeliveries WHERE id = '{redelivered}' FOR UPDATE");
    client.batch_execute(&lock).await.unwrap();
    let seen = heartbeat_of(&store, owner).await;
    let expired = store.expire(seen, MAX_CLAIMS).await.unwrap().unwrap();
    assert_eq!((expired.reclaimed, expired.poisoned), (2, 0));
    for (id, status_now) in [
        (ids[0], Status::Processing),
        (ids[1], Status::Pending),
        (ids[2], Status::Pending),
    ] {
        assert_eq!(status(&store, id).await, status_now);
    }
    // The worker may still live. It has no lease, although its row is there.
    let renewed = store.renew(owner, Ended::default()).await;
    assert!(matches!(renewed, Err(StoreError::LeaseLost)), "{renewed:?}");
    let candidates = vec![Candidate::notified(accept(&store).await)];
    for claimed in [
        store.claim(owner, candidates.clone(), usize::MAX).await,
        store.claim_again(owner, candidates, usize::MAX).await,
    ] {
        assert!(matches!(claimed, Err(StoreError::LeaseLost)));
    }

    client.batch_execute("COMMIT").await.unwrap();
    let seen = heartbeat_of(&store, owner).await;
    let expired = store.expire(seen, MAX_CLAIMS).await.unwrap().unwrap();
    assert_eq!((expired.reclaimed, expired.poisoned), (2, 0));
    assert_eq!(status(&store, ids[0]).await, Status::Pending);
    let rows = server.number("SELECT count(*) FROM workers WHERE beat < 0");
    assert_eq!(rows.await, 0);
}

#[tokio::test]
async fn a_graceful_end_that_waits_for_an_expiry_succeeds_although_both_leave_a_locked_row() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    let ids = [accept(&store).await, accept(&store).await];
    let owner = new_worker(&store).await;
    claim_new(&store, owner, &ids).await;
    let row = server.client().await;
    lock_row(&row, ids[0]).await;
    let seen = heartbeat_of(&store, owner).await;
    // Keeps the expiry from its commit, after it has deleted the worker's row.
    let events = server.client().await;
    let lock = "BEGIN; LOCK TABLE events IN SHARE MODE";
    events.batch_execute(lock).await.unwrap();
    let expiring = tokio::spawn({
        let store = store.clone();
        async move { store.expire(seen, MAX_CLAIMS).await }
    });
    // Within a transaction, what others do would be read once.
    let watcher = server.client().await;
    let mut all_wait = wait_for_locks(&watcher, 1, &expiring).await;
    let ending = tokio::spawn({
        let store = store.clone();
        async move { store.deregister(owner).await }
    });
    all_wait &= wait_for_locks(&watcher, 2, &ending).await && !expiring.is_finished();
    events.batch_execute("COMMIT").await.unwrap();
    assert!(all_wait, "one of them was over before the other had begun");
    let expired = expiring.await.unwrap().unwrap().unwrap();
    assert_eq!((expired.reclaimed, expired.poisoned), (1, 0));
    assert_eq!(ending.await.unwrap().unwrap(), 0);
    row.batch_execute("COMMIT").await.unwrap();
    let seen = heartbeat_of(&store, owner).await;
    let expired = store.expire(seen, MAX_CLAIMS).await.unwrap().unwrap();
    assert_eq!((expired.reclaimed, expired.poisoned), (1, 0));
}

#[tokio::test]
async fn a_key_that_another_program_has_locked_delays_no_submission_but_its_own() {
    let server = PostgresServer::start(&[]);
    let settings = StoreSettings {
        idempotency_window: Duration::ZERO,
        ..server.settings()
    };
    let store = Store::open(&settings).await.unwrap();
    let mut ids = Vec::new();
    for key in ["a", "b"] {
        let job = keyed(key);
        ids.push(job.id);
        store.accept(job).await.unwrap();
    }
    // Both keys are free once their jobs have ended.
    let owner = new_worker(&store).await;
    for job in claim_new(&store, owner, &ids).await {
        store.settle(job.claim, None, delivered()).await.unwrap();
    }
    let client = server.client().await;
    let lock = "BEGIN; SELECT FROM idempotency_keys WHERE key = 'a' FOR UPDATE";
    client.batch_execute(lock).await.unwrap();
    // In one batch.
    let (of_locked, of_free) = tokio::join!(store.accept(keyed("a")), store.accept(keyed("b")));
    assert_eq!(of_free.unwrap(), Acceptance::Stored);
    assert!(
        matches!(
            of_locked,
            Err(StoreError::Failed {
                trouble: Trouble::Busy,
                ..
            })
        ),
        "{of_locked:?}"
    );
    client.batch_execute("COMMIT").await.unwrap();
    let accepted = store.accept(keyed("a")).await;
    assert_eq!(accepted.unwrap(), Acceptance::Stored);
}

#[tokio::test]
async fn a_job_that_another_program_has_locked_delays_no_claim_of_others() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(accept(&store).await);
    }
    let owner = new_worker(&store).await;
    let client = server.client().await;
    lock_row(&client, ids[1]).await;
    let claimed = claim_new(&store, owner, &ids).await;
    let claimed: Vec<_> = claimed.iter().map(|job| job.claim.id).collect();
    assert_eq!(claimed, [ids[0], ids[2]]);
    client.batch_execute("COMMIT").await.unwrap();
    let claimed = claim_new(&store, owner, &ids).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].claim.id, ids[1]);
}

/// A new job with a key.
fn keyed(key: &str) -> NewJob {
    NewJob {
        idempotency_key: Some(IdempotencyKey::try_from(key.as_bytes()).unwrap()),
        ..new_job()
    }
}

/// Begins a transaction of another program that locks the row of a request.
async fn lock_row(client: &Client, id: RequestId) {
    let lock = format!("BEGIN; SELECT FROM requests WHERE id = '{id}' FOR UPDATE");
    client.batch_execute(&lock).await.unwrap();
}
