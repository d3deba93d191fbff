//! Tests of the wait for a connection, by a clock that they set.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::OwnedSemaphorePermit,
    task::yield_now,
    time::{Instant, advance, pause, resume},
};
use tokio_postgres::Client;

use super::{
    super::{connect::CONNECTIONS, fresh::Fresh},
    DEADLINE, Session, Sessions, WAIT,
};
use crate::services::store::{StoreError, Trouble};

/// Takes all connections.
async fn taken(sessions: &Sessions) -> OwnedSemaphorePermit {
    let all = u32::try_from(CONNECTIONS).unwrap();
    let connections = Arc::clone(&sessions.connections);
    connections.acquire_many_owned(all).await.unwrap()
}

#[tokio::test]
async fn a_write_that_gets_no_connection_in_time_has_failed_and_its_server_is_not_suspected() {
    let fresh = Fresh::open().await;
    let sessions = &fresh.sessions;
    let opened = std::time::Instant::now();
    let taken = taken(sessions).await;
    pause(); // From here on nothing waits for the server: the clock runs ahead to the time-outs.
    let begun = Instant::now();
    let several = |session: Session| async move { session.execute_all("SELECT 1").await };
    let one = |sessions: Arc<Sessions>| async move { sessions.commit_one("SELECT 1", &[]).await };
    let (several, one) = tokio::join!(sessions.write(several), sessions.write_one(one));
    assert!(begun.elapsed() < DEADLINE);
    for failed in [several.unwrap_err(), one.unwrap_err()] {
        let StoreError::Failed { trouble, message } = failed else {
            panic!("{failed:?}");
        };
        assert_eq!(trouble, Trouble::Unreachable);
        assert!(message.contains("was free in time"), "{message}");
    }
    assert!(sessions.hosts.are_trusted_since(opened));
    resume();
    drop(taken);
    fresh.drop().await;
}

#[tokio::test]
async fn a_statement_that_gets_its_connection_late_has_its_whole_time() {
    let fresh = Fresh::open().await;
    let client = fresh.client().await;
    let lock = "SELECT pg_advisory_lock(1)";
    client.batch_execute(lock).await.unwrap();
    let taken = taken(&fresh.sessions).await;
    let reading = {
        let sessions = Arc::clone(&fresh.sessions);
        tokio::spawn(async move { sessions.query("SELECT pg_advisory_xact_lock(1)", &[]).await })
    };
    yield_now().await;
    ahead(WAIT.mul_f64(0.7)).await;
    drop(taken);
    wait_for_lock(&client).await;
    // Later than it would have to end, if the wait before it counted.
    ahead(DEADLINE.mul_f64(0.8)).await;
    client
        .batch_execute("SELECT pg_advisory_unlock(1)")
        .await
        .unwrap();
    reading.await.unwrap().unwrap();
    fresh.drop().await;
}

/// Sets the clock.
async fn ahead(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

/// Waits until another connection waits for the lock.
async fn wait_for_lock(client: &Client) {
    let waits = "SELECT FROM pg_stat_activity
        WHERE wait_event = 'advisory' AND datname = current_database()";
    while client.query(waits, &[]).await.unwrap().is_empty() {}
}
