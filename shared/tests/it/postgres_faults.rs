//! The faults that only the engine for several hosts can have: of its server, and of the network.

use std::time::Duration;

use storm_shared::services::store::{Outcome, Store, StoreError};
use tokio::time::sleep;

use crate::{
    jobs::{accept_in_tasks, assert_pending, finished, try_accept},
    postgres_server::{PostgresServer, settings, until},
};

#[tokio::test]
async fn a_start_waits_for_a_server_that_is_down() {
    let server = PostgresServer::start(&[]);
    server.stop("fast");
    let opening = tokio::spawn({
        let settings = server.settings();
        async move { Store::open(&settings).await }
    });
    sleep(Duration::from_millis(100)).await;
    assert!(!opening.is_finished());
    server.begin();
    let store = opening.await.unwrap().unwrap();
    store.check().await.unwrap();
}

#[tokio::test]
async fn what_was_accepted_survives_a_kill_of_the_server_and_the_store_goes_on_by_itself() {
    let server = PostgresServer::start(&["fsync = on"]);
    let store = Store::open(&server.settings()).await.unwrap();
    let writes = accept_in_tasks(&store, 2000).await;
    until(async || server.jobs().await > 0).await;
    server.kill();
    let mut accepted = Vec::new();
    for write in writes {
        match write.await.unwrap() {
            Ok(id) => accepted.push(id),
            Err(error) => assert!(
                matches!(
                    error,
                    StoreError::Failed { .. } | StoreError::Indeterminate { .. }
                ),
                "{error:?}"
            ),
        }
    }
    assert!(store.check().await.is_err());
    assert!(try_accept(&store).await.is_err());
    server.begin();
    until(async || store.check().await.is_ok()).await;
    assert_pending(&store, &accepted).await;
    try_accept(&store).await.unwrap();
    assert_eq!(store.trouble(), None);
}

#[tokio::test]
async fn a_store_goes_on_after_all_its_connections_were_cut() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    for _ in 0..5 {
        let writes = accept_in_tasks(&store, 200).await;
        server
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE application_name = 'request-storm-handler'",
            )
            .await;
        for write in writes {
            let _ = write.await.unwrap(); // each has an answer
        }
        until(async || try_accept(&store).await.is_ok()).await;
    }
}

#[tokio::test]
async fn a_login_a_database_or_rights_that_are_missing_are_said_in_one_line_without_the_password() {
    let server = PostgresServer::start(&[]);
    server.add_poor_role().await;
    let address = server.address();
    for (login, database, remedy) in [
        ("nobody", "postgres", "correct the user and password"),
        ("poor:hunter3", "postgres", "correct the user and password"),
        ("poor", "postgres", ""),
        ("storm", "missing", "create the database"),
        ("poor:hunter2", "postgres", "GRANT CREATE"),
    ] {
        let url = format!("postgres://{login}@{address}/{database}");
        let refused = Store::open(&settings(&url)).await.err().unwrap();
        let text = refused.to_string();
        assert!(matches!(refused, StoreError::Unusable(_)), "{refused:?}");
        assert!(text.contains(remedy), "{login}: {text}");
        assert!(!text.contains("hunter") && !text.contains('\n'), "{text}");
    }
}

#[tokio::test]
async fn the_functions_of_another_release_stay_and_each_release_calls_its_own() {
    const FUNCTIONS: &str = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'storm\\_%'";
    let server = PostgresServer::start(&[]);
    let before = Store::open(&server.settings()).await.unwrap();
    let functions = server.number(FUNCTIONS).await;
    assert!(functions > 0);
    // As if another release had made them, whose definitions differ.
    server
        .execute(
            "DO $$ DECLARE it record; BEGIN
                 FOR it IN SELECT oid::regprocedure AS function, proname FROM pg_proc
                     WHERE proname LIKE 'storm\\_%' LOOP
                     EXECUTE format('ALTER FUNCTION %s RENAME TO %I', it.function,
                         overlay(it.proname PLACING 'other' FROM length(it.proname) - 4));
                 END LOOP;
             END $$",
        )
        .await;
    assert!(try_accept(&before).await.is_err(), "its functions are gone");
    let store = Store::open(&server.settings()).await.unwrap();
    assert_eq!(server.number(FUNCTIONS).await, 2 * functions);
    for store in [&store, &before] {
        finished(store, Outcome::Completed).await;
    }
    // A newer schema may say that this release can work with it. It stays what it is.
    server.execute("UPDATE store SET version = 1000").await;
    let again = Store::open(&server.settings()).await.unwrap();
    finished(&again, Outcome::Completed).await;
    let schema = "SELECT version::bigint * 100 + oldest FROM store";
    assert_eq!(server.number(schema).await, 100_001);
    assert_eq!(server.number(FUNCTIONS).await, 2 * functions);
}

#[tokio::test]
async fn the_schema_of_the_release_before_is_migrated_by_the_first_of_two_that_start() {
    let server = PostgresServer::start(&[]);
    server
        .execute(include_str!("../../migrations/postgres/0001_schema.sql"))
        .await;
    server
        .execute("INSERT INTO store (id, version, oldest) VALUES ('before', 1, 1)")
        .await;
    let settings = server.settings();
    let (one, other) = tokio::join!(Store::open(&settings), Store::open(&settings));
    for store in [one.unwrap(), other.unwrap()] {
        assert_eq!(store.id(), "before");
        finished(&store, Outcome::Completed).await;
    }
    let reports = "SELECT count(*) FROM information_schema.columns
        WHERE table_name = 'workers' AND column_name = 'report'";
    assert_eq!(server.number(reports).await, 1);
    let newest = "SELECT version::bigint * 100 + oldest FROM store";
    assert_eq!(server.number(newest).await, 201);
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused() {
    let server = PostgresServer::start(&[]);
    // Found before the server's own function.
    server
        .execute(
            "CREATE SCHEMA older;
             CREATE FUNCTION older.current_setting(text) RETURNS text LANGUAGE sql AS $$
                 SELECT CASE $1 WHEN 'server_version_num' THEN '130023' ELSE '13.23' END
             $$;
             ALTER ROLE storm SET search_path = older, pg_catalog",
        )
        .await;
    let refused = Store::open(&server.settings()).await.err().unwrap();
    assert!(matches!(refused, StoreError::Unusable(_)), "{refused:?}");
    let text = refused.to_string();
    assert!(
        text.contains("13.23") && text.contains("14 or newer"),
        "{text}"
    );
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname IN ('older', 'public')";
    assert_eq!(server.number(tables).await, 0);
}

#[tokio::test]
async fn a_newer_schema_and_another_programs_tables_are_refused() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    store.close().await;
    server
        .execute("UPDATE store SET version = 1000, oldest = 1000")
        .await;
    let refused = Store::open(&server.settings()).await.err().unwrap();
    assert!(
        refused.to_string().contains("run a newer version"),
        "{refused}"
    );
    server.execute("UPDATE store SET oldest = 1").await;
    Store::open(&server.settings()).await.unwrap();
    server.execute("CREATE DATABASE other").await;
    let url = format!("postgres://storm@{}/other", server.address());
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
        .batch_execute("CREATE TABLE requests (id integer)")
        .await
        .unwrap();
    let refused = Store::open(&settings(&url)).await.err().unwrap();
    assert!(
        refused.to_string().contains("another database"),
        "{refused}"
    );
}
