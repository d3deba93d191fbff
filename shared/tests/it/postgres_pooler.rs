//! A pooler in transaction mode before the server: each transaction of a connection may run on
//! another one of the server.

use futures_util::future::join_all;
use storm_shared::{
    models::{IdempotencyKey, Status},
    services::store::{
        Acceptance, Candidate, ListPage, NewJob, Outcome, Paused, RequestFilter, Scope, Store,
        StoreError,
    },
};

use crate::{
    jobs::{
        MAX_CLAIMS, accept, accept_in_tasks, accepted_by, assert_pending, claim_due, claim_new,
        delivered, due_jobs, finished, heartbeat_of, new_job, new_worker, redeliver, status,
        try_accept,
    },
    pgbouncer::PgBouncer,
    postgres_server::{PostgresServer, until},
};

/// A store that reaches its server through a pooler with few connections, which it shares with
/// itself: what a transaction leaves in a session, another one meets.
async fn pooled() -> (PostgresServer, PgBouncer, Store) {
    let server = PostgresServer::start(&[]);
    let pooler = PgBouncer::before(&server, &["default_pool_size = 3"]);
    let store = Store::open(&pooler.settings()).await.unwrap();
    (server, pooler, store)
}

#[tokio::test]
async fn jobs_live_their_lives_behind_a_pooler() {
    let (server, pooler, store) = pooled().await;
    let other = Store::open(&pooler.settings()).await.unwrap();
    let keyed = NewJob {
        idempotency_key: Some(IdempotencyKey::try_from(&b"key"[..]).unwrap()),
        ..new_job()
    };
    assert_eq!(
        store.accept(keyed.clone()).await.unwrap(),
        Acceptance::Stored
    );
    let again = NewJob {
        id: new_job().id,
        ..keyed.clone()
    };
    let replayed = other.accept(again).await.unwrap();
    assert!(matches!(replayed, Acceptance::Replayed { id, .. } if id == keyed.id));

    let mut ids = vec![keyed.id];
    for write in accept_in_tasks(&store, 100).await {
        ids.push(write.await.unwrap().unwrap());
    }
    let operator = || "ops".parse().unwrap();
    other
        .pause(Paused::Everything, operator())
        .await
        .unwrap()
        .unwrap();
    assert!(due_jobs(&store, 10).await.due.is_empty());
    other.resume(Paused::Everything, operator()).await.unwrap();

    let workers = [new_worker(&store).await, new_worker(&other).await];
    let jobs = claim_new(&store, workers[0], &ids[..60]).await;
    let others = claim_new(&other, workers[1], &ids[..]).await;
    assert_eq!((jobs.len(), others.len()), (60, 41));
    let settled = jobs
        .iter()
        .map(|job| store.settle(job.claim, None, delivered()));
    assert!(join_all(settled).await.iter().all(Result::is_ok));
    let seen = heartbeat_of(&store, workers[1]).await;
    let expired = store.expire(seen, MAX_CLAIMS).await.unwrap().unwrap();
    assert_eq!(expired.reclaimed, 41);
    for job in claim_due(&store).await {
        store.settle(job.claim, None, delivered()).await.unwrap();
    }
    let page = ListPage {
        filter: RequestFilter::default(),
        before: None,
        limit: 200,
    };
    let list = other.list(Scope::All, page).await.unwrap();
    assert_eq!(list.requests.len(), 101);
    for id in ids {
        assert_eq!(status(&other, id).await, Status::Completed);
    }
    let over = finished(&store, Outcome::Completed).await;
    redeliver(&store, over).await.unwrap();
    store.cancel(Scope::All, over).await.unwrap().unwrap();
    store.erase(Scope::All, over).await.unwrap().unwrap();
    // No session of the server is left with anything of a transaction.
    let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(server.number(left).await, 0);
}

#[tokio::test]
async fn a_store_goes_on_after_its_pooler_was_restarted_and_loses_nothing() {
    let (server, mut pooler, store) = pooled().await;
    let mut accepted = Vec::new();
    for _ in 0..5 {
        let before = server.jobs().await;
        let writes = accept_in_tasks(&store, 200).await;
        until(async || server.jobs().await > before).await;
        pooler.restart();
        accepted.extend(accepted_by(writes).await);
        until(async || try_accept(&store).await.is_ok()).await;
    }
    assert_pending(&store, &accepted).await;
}

#[tokio::test]
async fn a_commit_that_the_pooler_lost_with_its_server_is_unknown() {
    let (server, _pooler, store) = pooled().await;
    let worker = new_worker(&store).await;
    for _ in 0..10 {
        let job = new_job();
        let accepting = tokio::spawn({
            let (store, job) = (store.clone(), job.clone());
            async move { store.accept(job).await }
        });
        server
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
            )
            .await;
        // What failed for certain is not there.
        match accepting.await.unwrap() {
            Ok(accepted) => assert_eq!(accepted, Acceptance::Stored),
            Err(error) if error.is_indeterminate() => {}
            Err(_) => {
                let there = format!("SELECT count(*) FROM requests WHERE id = '{}'", job.id);
                assert_eq!(server.number(&there).await, 0);
            }
        }
        until(async || store.accept(job.clone()).await.is_ok()).await;
        let candidates = vec![Candidate::notified(job.id)];
        until(async || {
            let claimed = store
                .claim_again(worker, candidates.clone(), usize::MAX)
                .await;
            claimed.is_ok_and(|claimed| claimed.jobs.len() == 1)
        })
        .await;
    }
    assert_eq!(server.jobs().await, 10);
}

#[tokio::test]
async fn a_write_that_a_full_pooler_turned_away_has_failed_and_the_next_one_succeeds() {
    let server = PostgresServer::start(&[]);
    let options = ["default_pool_size = 1", "query_wait_timeout = 1"];
    let pooler = PgBouncer::before(&server, &options);
    let store = Store::open(&pooler.settings()).await.unwrap();
    let url = format!("postgres://storm@{}/postgres", pooler.address());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN").await.unwrap();
    let refused = try_accept(&store).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Failed { .. }),
        "nothing was run: {refused:?}"
    );
    client.batch_execute("COMMIT").await.unwrap();
    accept(&store).await;
    assert_eq!(server.jobs().await, 1);
}
