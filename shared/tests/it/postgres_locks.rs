//! What processes of several hosts do at the same moment, and the locks of the engine that put it
//! in an order.

use storm_shared::services::store::{
    Candidate, Claimed, OwnerId, Paused, Store, StoreError, TooManyPauses,
};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::{
    jobs::{accept, new_worker},
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
    let server = PostgresServer::start(&[]);
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
