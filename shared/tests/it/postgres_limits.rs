//! A server that has no room: for connections, or on its disk.

use std::sync::Arc;

use futures_util::future::join_all;
use storm_shared::{
    models::{IdempotencyKey, Status},
    services::store::{NewJob, OwnerId, Store, StoreError, Trouble},
};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::{
    jobs::{accept, accept_in_tasks, assert_pending, new_job, new_worker, status, try_accept},
    postgres_server::{Part, PostgresServer, settings, until},
};

/// A role that may not have more than `most` connections. The store's own is no administrator's,
/// for whom a server keeps some.
async fn with_limit(most: u32) -> (PostgresServer, String) {
    let server = PostgresServer::start(&[]);
    server
        .execute(&format!(
            "CREATE ROLE app LOGIN CONNECTION LIMIT {most}; GRANT CREATE ON SCHEMA public TO app"
        ))
        .await;
    let url = format!("postgres://app@{}/postgres", server.address());
    (server, url)
}

#[tokio::test]
async fn a_start_waits_for_a_connection_that_the_server_has_room_for() {
    let (_server, url) = with_limit(1).await;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let taken = tokio::spawn(connection);
    let opening = tokio::spawn({
        let settings = settings(&url);
        async move { Store::open(&settings).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!opening.is_finished());
    drop(client);
    taken.await.unwrap().unwrap();
    let store = opening.await.unwrap().unwrap();
    accept(&store).await;
}

#[tokio::test]
async fn with_fewer_connections_than_it_wants_a_store_works_with_those_that_it_gets() {
    let (server, url) = with_limit(2).await;
    let store = Store::open(&settings(&url)).await.unwrap();
    let id = accept(&store).await;
    let writes = accept_in_tasks(&store, 300).await;
    let reads = join_all((0..100).map(|_| status(&store, id))).await;
    assert!(reads.iter().all(|status| *status == Status::Pending));
    for write in writes {
        write.await.unwrap().unwrap();
    }
    assert_eq!(server.jobs().await, 301);
}

/// The 12 of docs/SCALING.md, by which the server's `max_connections` is sized.
#[tokio::test]
async fn a_store_has_twelve_connections_at_the_most_however_much_waits_for_the_server() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    let id = accept(&store).await;
    let client = server.client().await;
    let lock = "BEGIN; LOCK TABLE requests, workers IN ACCESS EXCLUSIVE MODE";
    client.batch_execute(lock).await.unwrap();
    let writes = accept_in_tasks(&store, 300).await;
    let others: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let register = store.register(OwnerId::generate(), &[]);
                // Either may be given up for the lock.
                let _ = tokio::join!(store.find(id), register);
            })
        })
        .collect();
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    until(async || server.number(stuck).await >= 12).await;
    client.batch_execute("COMMIT").await.unwrap();
    for write in writes {
        let _ = write.await.unwrap();
    }
    for other in others {
        other.await.unwrap();
    }
    // A pool keeps what it has opened.
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'request-storm-handler'";
    assert_eq!(server.number(open).await, 12);
}

/// The standby refuses, too, for another reason.
#[tokio::test]
async fn a_primary_without_room_is_waited_for_also_beside_a_standby() {
    let (server, url) = with_limit(2).await;
    let standby = server.standby();
    let (before, after) = url.rsplit_once('/').unwrap();
    let url = format!("{before},{}/{after}", standby.address());
    let store = Store::open(&settings(&url)).await.unwrap();
    for write in accept_in_tasks(&store, 300).await {
        write.await.unwrap().unwrap();
    }
    assert_eq!(server.jobs().await, 300);
}

/// A job with an input of so many bytes, which can't be compressed much.
fn large_job(bytes: usize) -> NewJob {
    let text: String = std::iter::repeat_with(fastrand::alphanumeric)
        .take(bytes)
        .collect();
    NewJob {
        input: Arc::from(format!("{{\"text\":\"{text}\"}}")),
        ..new_job()
    }
}

#[tokio::test]
async fn a_full_disk_is_reported_and_nothing_accepted_is_lost_when_there_is_room_again() {
    let Some(server) = PostgresServer::start_with_little_room(Part::Data, 64, &[]) else {
        return;
    };
    let store = Store::open(&server.settings()).await.unwrap();
    let mut accepted = vec![accept(&store).await];
    server.fill();
    let refused = loop {
        let job = large_job(200_000);
        match store.accept(job.clone()).await {
            Ok(_) => accepted.push(job.id),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(
            &refused,
            StoreError::Failed {
                trouble: Trouble::Full,
                ..
            }
        ),
        "{refused:?}"
    );
    // What can be read is read.
    assert_eq!(status(&store, accepted[0]).await, Status::Pending);
    server.make_room();
    until(async || store.accept(large_job(200_000)).await.is_ok()).await;
    until(async || store.check().await.is_ok()).await;
    assert_pending(&store, &accepted).await;
}

#[tokio::test]
async fn a_server_that_crashed_for_want_of_room_in_its_log_goes_on_when_there_is_some() {
    let options = ["fsync = on", "min_wal_size = 2MB"];
    let Some(server) = PostgresServer::start_with_little_room(Part::Log, 24, &options) else {
        return;
    };
    let store = Store::open(&server.settings()).await.unwrap();
    let mut accepted = vec![accept(&store).await];
    server.fill();
    let mut is_over = false;
    while !is_over {
        let job = large_job(400_000);
        match store.accept(job.clone()).await {
            Ok(_) => accepted.push(job.id),
            Err(error) => {
                assert!(
                    matches!(
                        error,
                        StoreError::Failed { .. } | StoreError::Indeterminate { .. }
                    ),
                    "{error:?}"
                );
                is_over = true;
            }
        }
    }
    assert!(store.check().await.is_err());
    // It can't even write that it has recovered, and ends, unless it finds room by then.
    server.make_room();
    until(async || server.is_up().await || server.try_begin()).await;
    until(async || store.check().await.is_ok()).await;
    assert_pending(&store, &accepted).await;
    try_accept(&store).await.unwrap();
}

/// Begins to look for an earlier submission with a key.
fn look_for(store: &Store, key: usize) -> JoinHandle<()> {
    let (store, key) = (store.clone(), key.to_string());
    tokio::spawn(async move {
        let job = NewJob {
            idempotency_key: Some(IdempotencyKey::try_from(key.as_bytes()).unwrap()),
            ..new_job()
        };
        let _ = store.accepted_before(&job).await;
    })
}

/// Look-ups that are stuck: another program has locked the keys.
async fn with_locked_keys() -> (PostgresServer, Store, Client) {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    let client = server.client().await;
    let lock = "BEGIN; LOCK TABLE idempotency_keys IN ACCESS EXCLUSIVE MODE";
    client.batch_execute(lock).await.unwrap();
    (server, store, client)
}

#[tokio::test]
async fn a_storm_of_repeats_with_keys_leaves_connections_to_writes() {
    let (server, store, client) = with_locked_keys().await;
    let look_ups: Vec<_> = (0..200).map(|key| look_for(&store, key)).collect();
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    until(async || server.number(stuck).await >= 8).await;
    new_worker(&store).await;
    // The write did not wait for its turn behind them.
    assert!(!look_ups.iter().all(JoinHandle::is_finished));
    client.batch_execute("COMMIT").await.unwrap();
    for look_up in look_ups {
        look_up.await.unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_leaves_while_a_key_is_looked_for_costs_no_connection() {
    let (server, store, client) = with_locked_keys().await;
    let look_up = look_for(&store, 0);
    let stuck = "SELECT coalesce(max(pid), 0)::bigint FROM pg_stat_activity
        WHERE wait_event_type = 'Lock'";
    let mut pid = 0;
    until(async || {
        pid = server.number(stuck).await;
        pid > 0
    })
    .await;
    look_up.abort();
    assert!(look_up.await.unwrap_err().is_cancelled());
    client.batch_execute("COMMIT").await.unwrap();
    let of_pid = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    let busy = format!("{of_pid} AND state <> 'idle'");
    until(async || server.number(&busy).await == 0).await;
    accept(&store).await;
    assert_eq!(server.number(&of_pid).await, 1, "it was closed");
}
