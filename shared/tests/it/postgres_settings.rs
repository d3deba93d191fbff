//! What administrators set for a server, a database or a role, and what other transactions do to
//! ours: no promise depends on it.

use std::time::Duration;

use futures_util::future::join_all;
use storm_shared::{
    models::{AttemptClass, IdempotencyKey, Status},
    services::store::{Acceptance, NewJob, Outcome, Scope, Store, StoreError},
};
use tokio::task::JoinHandle;

use crate::{
    jobs::{
        accept, accept_in_tasks, attempted, claim_due, claim_new, claim_one, delivered,
        fail_attempt, finish, finished, new_job, new_worker, redeliver, row, status, success,
    },
    postgres_server::{PostgresServer, settings, until},
};

/// Settings of a role, each of which changes what a statement means, sees or waits for.
const OF_ROLE: [&str; 14] = [
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = 'sql_standard'",
    "TimeZone = 'Pacific/Apia'",
    "standard_conforming_strings = off",
    "client_encoding = 'LATIN1'",
    "bytea_output = 'escape'",
    "array_nulls = off",
    "search_path = 'own, public'",
    "lock_timeout = '1h'",
    "idle_session_timeout = '300ms'",
    "idle_in_transaction_session_timeout = '1h'",
    "statement_timeout = '1h'",
];

#[tokio::test]
async fn a_roles_settings_change_nothing() {
    let server = PostgresServer::start(&[]);
    server.execute("CREATE ROLE app LOGIN").await;
    server.execute("CREATE SCHEMA own AUTHORIZATION app").await;
    for setting in OF_ROLE {
        // A list of schemas is no single name.
        let setting = setting.replace("'own, public'", "own, public");
        server
            .execute(&format!("ALTER ROLE app SET {setting}"))
            .await;
    }
    let url = format!("postgres://app@{}/postgres", server.address());
    let (store, other) = (
        Store::open(&settings(&url)).await.unwrap(),
        Store::open(&settings(&url)).await.unwrap(),
    );
    for round in 0..3 {
        let key = format!("key\\{round}");
        let keyed = NewJob {
            idempotency_key: Some(IdempotencyKey::try_from(key.as_bytes()).unwrap()),
            ..new_job()
        };
        let submissions = [&store, &other].map(|store| {
            let again = NewJob {
                id: new_job().id,
                ..keyed.clone()
            };
            store.accept(again)
        });
        let accepted = join_all(submissions).await;
        let stored = |it: &Result<_, StoreError>| matches!(it, Ok(Acceptance::Stored));
        assert_eq!(
            accepted.iter().filter(|it| stored(it)).count(),
            1,
            "{accepted:?}"
        );
        let [first, second] = [accept(&store).await, accept(&other).await];
        let job = claim_one(&store, first).await.unwrap();
        finish(&store, &job, success(), Outcome::Completed).await;
        let job = claim_one(&other, second).await.unwrap();
        fail_attempt(&other, &job).await;
        for job in claim_due(&store).await {
            let last = attempted(job.attempts + 1, AttemptClass::Success);
            finish(&store, &job, last, Outcome::Completed).await;
        }
        let times = row(&store, first).await;
        assert!(times.completed_at.unwrap() >= times.created_at);
        assert_eq!(status(&store, second).await, Status::Completed);
        // Longer than a session may be idle: the server has closed them all.
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
        until(async || server.number(sessions).await == 0).await;
    }
    // In the schema that the role's path names first.
    assert_eq!(server.number("SELECT count(*) FROM own.requests").await, 9);
}

#[tokio::test]
async fn writes_that_others_are_in_the_way_of_are_tried_again() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    for (code, failures) in [("40001", 2), ("40P01", 3)] {
        server
            .execute(&format!(
                "DROP SEQUENCE IF EXISTS tries; CREATE SEQUENCE tries;
                 CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     -- A sequence does not roll back.
                     IF nextval('tries') <= {failures} THEN RAISE SQLSTATE '{code}'; END IF;
                     RETURN NEW;
                 END $$;
                 CREATE OR REPLACE TRIGGER fails BEFORE INSERT OR UPDATE ON requests
                     FOR EACH STATEMENT EXECUTE FUNCTION fail()"
            ))
            .await;
        let again = async || server.execute("ALTER SEQUENCE tries RESTART").await;
        let id = accept(&store).await;
        again().await;
        let job = claim_one(&store, id).await.unwrap();
        again().await;
        finish(&store, &job, success(), Outcome::Completed).await;
        redeliver(&store, id).await.unwrap();
        again().await;
        // Of several statements.
        store.cancel(Scope::All, id).await.unwrap().unwrap();
        assert_eq!(row(&store, id).await.attempts.len(), 1);
        assert_eq!(store.trouble(), None);
    }
    let many = "ALTER SEQUENCE tries RESTART; CREATE OR REPLACE FUNCTION fail() RETURNS trigger
        LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '40001'; END $$";
    server.execute(many).await;
    let refused = store.accept(new_job()).await;
    assert!(
        matches!(refused, Err(StoreError::Failed { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn of_a_batch_only_what_the_database_refuses_fails() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    let jobs: Vec<_> = (0..40).map(|_| new_job()).collect();
    let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
    let bad = [ids[7], ids[31]];
    server
        .execute(&format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.id IN ('{}', '{}') THEN RAISE SQLSTATE '22000'; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER refuses BEFORE INSERT ON requests
                 FOR EACH ROW EXECUTE FUNCTION refuse()",
            bad[0], bad[1]
        ))
        .await;
    // All are queued before the first one is sent.
    let accepted = join_all(jobs.into_iter().map(|job| store.accept(job))).await;
    for (id, accepted) in ids.into_iter().zip(accepted) {
        let is_bad = bad.contains(&id);
        assert_eq!(accepted.is_err(), is_bad, "{id}: {accepted:?}");
        let rows = format!("SELECT count(*) FROM requests WHERE id = '{id}'");
        assert_eq!(server.number(&rows).await == 0, is_bad, "{id}");
    }
    // The data of one job says nothing of the database.
    assert_eq!(store.trouble(), None);
}

/// What the time-out of a statement sends, and an operator's `pg_cancel_backend`.
#[tokio::test]
async fn a_statement_that_the_server_cancels_has_failed_and_the_next_one_succeeds() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    let id = accept(&store).await;
    let client = server.client().await;
    let lock = "BEGIN; LOCK TABLE requests IN ACCESS EXCLUSIVE MODE";
    let cancel = "SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock'";
    let cancelled = async |task: &JoinHandle<Result<(), StoreError>>| {
        until(async || server.number(cancel).await > 0 || task.is_finished()).await;
    };
    for several in [false, true] {
        client.batch_execute(lock).await.unwrap();
        let writing = tokio::spawn({
            let store = store.clone();
            async move {
                if several {
                    store.cancel(Scope::All, id).await.map(drop)
                } else {
                    store.accept(new_job()).await.map(drop)
                }
            }
        });
        cancelled(&writing).await;
        let failed = writing.await.unwrap();
        // Nothing of it is in the database, so no outcome is unknown.
        assert!(
            matches!(&failed, Err(StoreError::Failed { message, .. }) if message.contains("57014")),
            "{failed:?}"
        );
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(server.jobs().await, 1);
        assert_eq!(status(&store, id).await, Status::Pending);
    }
    store.cancel(Scope::All, id).await.unwrap().unwrap();
    accept(&store).await;
    assert_eq!(store.trouble(), None);
}

#[tokio::test]
async fn a_store_works_by_the_socket_of_its_host() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&settings(&server.socket_url())).await.unwrap();
    let by_socket = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'request-storm-handler' AND client_addr IS NULL";
    assert!(server.number(by_socket).await > 0);
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    finish(&store, &job, success(), Outcome::Completed).await;
    assert_eq!(status(&store, id).await, Status::Completed);
    // It comes back by itself, as over the network.
    server.stop("fast");
    assert!(store.check().await.is_err());
    server.begin();
    until(async || store.check().await.is_ok()).await;
}

#[tokio::test]
async fn sessions_that_are_terminated_in_the_middle_of_verbs_lose_and_double_nothing() {
    let server = PostgresServer::start(&[]);
    let store = Store::open(&server.settings()).await.unwrap();
    let mut ids = Vec::new();
    for write in accept_in_tasks(&store, 200).await {
        ids.push(write.await.unwrap().unwrap());
    }
    let mut jobs = Vec::new();
    for id in ids.chunks(50) {
        let owner = new_worker(&store).await;
        jobs.extend(claim_new(&store, owner, id).await);
    }
    let killing = tokio::spawn(async move {
        loop {
            server
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE application_name = 'request-storm-handler'",
                )
                .await;
            if jobs_left(&server).await == 0 {
                return server;
            }
        }
    });
    let settling = jobs.iter().map(|job| async {
        until(async || store.settle(job.claim, None, delivered()).await.is_ok()).await;
    });
    join_all(settling).await;
    let server = killing.await.unwrap();
    assert_eq!(server.number("SELECT count(*) FROM attempts").await, 0);
    let once = "SELECT count(*) FROM requests WHERE status = 'COMPLETED' AND claim = 1
        AND delivered IS NOT NULL";
    assert_eq!(server.number(once).await, 200);
}

async fn jobs_left(server: &PostgresServer) -> i64 {
    let left = "SELECT count(*) FROM requests WHERE status <> 'COMPLETED'";
    server.number(left).await
}

/// A redelivery keeps its request, and a deleted request begins none.
#[tokio::test]
async fn a_sweep_and_a_redelivery_at_the_same_instant_leave_no_redelivery_without_a_request() {
    let server = PostgresServer::start(&[]);
    let stores = [
        Store::open(&server.settings()).await.unwrap(),
        Store::open(&server.settings()).await.unwrap(),
    ];
    let mut begun = 0;
    for _ in 0..20 {
        let mut ids = Vec::new();
        for _ in 0..10 {
            ids.push(finished(&stores[0], Outcome::Completed).await);
        }
        let redelivering = ids.iter().map(|id| stores[0].redeliver(Scope::All, *id));
        let (redelivered, swept) = tokio::join!(
            join_all(redelivering),
            stores[1].sweep(Duration::ZERO, None)
        );
        let deleted = swept.unwrap().deleted;
        let there = redelivered
            .iter()
            .filter(|it| matches!(it, Ok(Ok(()))))
            .count();
        begun += there;
        assert!(redelivered.iter().all(Result::is_ok));
        assert_eq!(server.jobs().await, i64::try_from(begun).unwrap());
        assert!(there + deleted >= 10, "{there} and {deleted}");
        let redeliveries = server.number("SELECT count(*) FROM redeliveries").await;
        assert_eq!(redeliveries, i64::try_from(begun).unwrap());
    }
    let orphans = "SELECT count(*) FROM redeliveries WHERE id NOT IN (SELECT id FROM requests)";
    assert_eq!(server.number(orphans).await, 0);
}

#[tokio::test]
async fn a_store_takes_nothing_in_another_schema_for_its_own() {
    const FUNCTIONS: &str = "SELECT count(*) FROM pg_proc
        WHERE pronamespace = 'second'::regnamespace AND proname LIKE 'storm%'";
    let server = PostgresServer::start(&[]);
    let first = Store::open(&server.settings()).await.unwrap();
    let set_path = async |path: &str| {
        let set = format!("ALTER ROLE storm SET search_path = {path}");
        server.execute(&set).await;
    };
    server.execute("CREATE SCHEMA second").await;
    set_path("second, public").await;
    // To begin an empty store, or to take the other one: neither may be meant.
    let refused = Store::open(&server.settings()).await.err().unwrap();
    let text = refused.to_string();
    assert!(matches!(refused, StoreError::Unusable(_)), "{refused:?}");
    assert!(text.contains("search_path"), "{text}");
    assert!(text.contains("second") && text.contains("public"), "{text}");

    set_path("second").await;
    let second = Store::open(&server.settings()).await.unwrap();
    assert_ne!(first.id(), second.id());
    accept(&second).await;
    assert_eq!(server.number(FUNCTIONS).await, 4);
    second.close().await;

    // A function that has its name is not its own.
    server
        .execute(
            "DO $$ DECLARE it regprocedure; BEGIN
                 FOR it IN SELECT oid FROM pg_proc WHERE pronamespace = 'second'::regnamespace LOOP
                     EXECUTE format('DROP FUNCTION %s', it);
                 END LOOP;
             END $$",
        )
        .await;
    set_path("second, public").await;
    let second = Store::open(&server.settings()).await.unwrap();
    assert_eq!(server.number(FUNCTIONS).await, 4);
    let id = accept(&second).await;
    let job = claim_one(&second, id).await.unwrap();
    finish(&second, &job, success(), Outcome::Completed).await;
    assert_eq!(
        server.number("SELECT count(*) FROM public.requests").await,
        0
    );
    assert_eq!(
        server.number("SELECT count(*) FROM second.requests").await,
        2
    );
}
