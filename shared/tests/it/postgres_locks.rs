//! What processes of several hosts do at the same moment, and the locks of the engine that put it
//! in an order.

use std::time::Duration;

use storm_shared::services::store::{
    Candidate, Claimed, Outcome, OwnerId, Paused, Scope, Store, StoreError, TooManyPauses,
};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::{
    jobs::{
        MAX_CLAIMS, accept, claim_new, delivered, finished, heartbeat_of, is_claim_lost,
        new_worker, retry, timeout,
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
    let client = server.client().await;
    let deadlocks = "SELECT sum(deadlocks)::bigint FROM pg_stat_database";
    let row = client.query_one(deadlocks, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
}
