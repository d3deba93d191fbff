//! A move that ends on the way is repeated, and nothing is missing or there twice.

use storm_shared::services::store::{MoveError, Moved, Store, StoreError};
use tokio::sync::mpsc;

use super::{
    databases,
    everything::{assert_same, fill},
    line, migrate,
};
use crate::{
    database::{Engine, TestDatabase},
    jobs::accept,
    postgres_server::{PostgresServer, settings},
};

/// More than any of these moves has.
const MOST_BATCHES: usize = 10_000;

/// Moves, and gives up after `most` batches, as a process that is killed there. `None` if it was
/// given up.
async fn migrate_some(
    from: &TestDatabase,
    to: &TestDatabase,
    most: usize,
) -> Option<Result<Moved, MoveError>> {
    let (told, mut batches) = mpsc::channel(MOST_BATCHES);
    let (from, to) = (from.settings(), to.settings());
    let moving = async {
        // Without a receiver, it is given up at its next step.
        Store::migrate(&from, &to, |_| {
            let _ = told.try_send(());
        })
        .await
    };
    let enough = async {
        for _ in 0..most {
            batches.recv().await;
        }
    };
    tokio::select! {
        biased;
        () = enough => None,
        moved = moving => Some(moved),
    }
}

async fn refuses_services(to: &TestDatabase) {
    for refused in [
        Store::open(&to.settings()).await.err(),
        Store::attach(&to.settings()).await.err(),
    ] {
        let refused = refused.unwrap();
        assert!(matches!(refused, StoreError::Unusable(_)), "{refused:?}");
        let text = refused.to_string();
        assert!(
            text.contains("not all of it is there: run `storm-api migrate`"),
            "{text}"
        );
        assert!(!text.contains('\n'), "{text}");
    }
}

#[tokio::test]
async fn a_move_that_is_given_up_after_any_batch_goes_on_where_it_was() {
    let (from, to) = databases().await;
    let store = from.open().await;
    fill(&store).await;
    from.add_completed("billing", 2500).await;
    store.close().await;
    let mut given_up = 0;
    let moved = loop {
        // One batch more each time: sooner or later it gets through.
        match migrate_some(&from, &to, 1 + given_up / 3).await {
            Some(moved) => break moved.unwrap(),
            None => given_up += 1,
        }
        if given_up < 30 {
            refuses_services(&to).await;
        }
    };
    assert!(given_up > 10, "{given_up}");
    // Comparing begins anew each time, and sees every row.
    assert_eq!(moved.rows[0].1, from.count().await as u64);
    assert_same(&from, &to).await;
    to.open().await;
    assert!(migrate(&from, &to).await.unwrap().was_moved);
}

#[tokio::test]
async fn a_batch_that_fails_is_repeated_as_a_whole() {
    let (from, to) = databases().await;
    let store = from.open().await;
    fill(&store).await;
    store.close().await;
    assert!(migrate_some(&from, &to, 1).await.is_none());
    for table in [
        "attempts",
        "events",
        "resends",
        "idempotency_keys",
        "pauses",
        "audit",
    ] {
        to.execute(&format!(
            "CREATE FUNCTION fail_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF TG_TABLE_NAME = 'resends' OR (SELECT count(*) FROM {table}) > 0 THEN RAISE 'no more'; END IF; RETURN NEW;
             END $$;
             CREATE TRIGGER fail BEFORE INSERT ON {table}
                 FOR EACH ROW EXECUTE FUNCTION fail_{table}();"
        ))
        .await;
        let failed = migrate(&from, &to).await.unwrap_err();
        assert!(matches!(failed, MoveError::Interrupted(_)), "{failed:?}");
        let text = line(&failed);
        assert!(
            text.contains("no more") && text.contains("run the same command again"),
            "{text}"
        );
        refuses_services(&to).await;
        to.execute(&format!("DROP TRIGGER fail ON {table}")).await;
    }
    migrate(&from, &to).await.unwrap();
    assert_same(&from, &to).await;
}

#[tokio::test]
async fn two_calls_at_once_move_no_row_twice() {
    let (from, to) = databases().await;
    let store = from.open().await;
    fill(&store).await;
    from.add_completed("billing", 2500).await;
    store.close().await;
    loop {
        let (one, other) = tokio::join!(migrate(&from, &to), migrate(&from, &to));
        if one.is_ok() || other.is_ok() {
            break;
        }
    }
    assert_same(&from, &to).await;
}

#[tokio::test]
async fn values_that_another_program_has_changed_in_the_target_are_found() {
    let (from, to) = databases().await;
    let store = from.open().await;
    fill(&store).await;
    store.close().await;
    let change = "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.claim = NEW.claim + 1; RETURN NEW;
         END $$;
         CREATE TRIGGER change BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION change();";
    let forge =
        "INSERT INTO audit (number, at, operator, action, filter, matched, changed, dry_run)
         VALUES (1000, now(), 'a', 'a', '{}', 0, 0, false)";
    for (tamper, table) in [(change, "events"), (forge, "audit")] {
        assert!(migrate_some(&from, &to, 1).await.is_none());
        to.execute(tamper).await;
        let failed = migrate(&from, &to).await.unwrap_err();
        let is_found =
            matches!(&failed, MoveError::Different { table: found, .. } if *found == table);
        assert!(is_found, "{failed:?}");
        assert!(line(&failed).contains("drop the target's tables"));
        refuses_services(&to).await;
        // As the error says.
        to.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            .await;
    }
    migrate(&from, &to).await.unwrap();
    assert_same(&from, &to).await;
}

#[tokio::test]
async fn a_move_survives_cut_connections_and_kills_of_the_server() {
    let server = PostgresServer::start(&["fsync = on"]);
    let from = TestDatabase::fresh(Engine::Sqlite).await;
    let store = from.open().await;
    fill(&store).await;
    from.add_completed("billing", 6000).await;
    store.close().await;
    let mut after = 1;
    loop {
        let (told, mut batches) = mpsc::channel(MOST_BATCHES);
        let (source, target) = (from.settings(), server.settings());
        let moving = tokio::spawn(async move {
            Store::migrate(&source, &target, |_| {
                let _ = told.try_send(());
            })
            .await
        });
        for _ in 0..after {
            if batches.recv().await.is_none() {
                break;
            }
        }
        if after % 3 == 0 {
            server.kill();
        } else {
            server
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE application_name = 'request-storm-handler'",
                )
                .await;
        }
        let moved = moving.await.unwrap();
        if after % 3 == 0 {
            server.begin();
        }
        match moved {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, MoveError::Interrupted(_)), "{error:?}"),
        }
        after += 1;
    }
    let moved = Store::migrate(&from.settings(), &server.settings(), |_| {}).await;
    assert!(moved.unwrap().was_moved);
    let client = server.client().await;
    let row = client
        .query_one("SELECT count(*) FROM requests", &[])
        .await
        .unwrap();
    assert_eq!(
        row.get::<_, i64>(0),
        i64::try_from(from.count().await).unwrap()
    );
    accept(&Store::open(&server.settings()).await.unwrap()).await;
}

/// Batches do not wait for the disk: a server that crashes loses them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_crash_of_the_server_has_lost_are_copied_again() {
    // It writes its log when it has to.
    let server = PostgresServer::start(&["wal_writer_delay = '10s'"]);
    // After the first batch, before the comparison, and before the end.
    for (is_check, table) in [(false, "requests"), (false, "audit"), (true, "audit")] {
        let mut losses = 0;
        for _ in 0..10 {
            server
                .execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
                .await;
            let from = TestDatabase::fresh(Engine::Sqlite).await;
            let store = from.open().await;
            accept(&store).await;
            store.close().await;
            let (from, to) = (from.settings(), server.settings());
            let moved = Store::migrate(&from, &to, |progress| {
                if (progress.is_check, progress.table) == (is_check, table) {
                    server.stop("immediate");
                    server.begin();
                }
            })
            .await;
            // It may have written it all the same, and a connection may be found to be cut only by
            // its use.
            if let Err(error) = moved {
                assert!(matches!(error, MoveError::Interrupted(_)), "{error:?}");
                losses += usize::from(line(&error).contains("has lost the rows"));
                let moved = Store::migrate(&from, &to, |_| {}).await.unwrap();
                assert_eq!(moved.rows[0], ("requests", 1));
            }
            assert_eq!(server.jobs().await, 1);
            if losses > 0 {
                break;
            }
        }
        assert!(losses > 0, "{is_check} {table}");
    }
}

#[tokio::test]
async fn a_target_that_is_down_or_refuses_changes_nothing_and_is_said_in_one_line() {
    let server = PostgresServer::start(&[]);
    server.add_poor_role().await;
    let from = TestDatabase::fresh(Engine::Sqlite).await;
    let store = from.open().await;
    let address = server.address();
    for (login, database, remedy) in [
        ("poor:hunter3", "postgres", "correct the user and password"),
        ("storm", "missing", "create the database"),
        ("poor:hunter2", "postgres", "GRANT CREATE"),
        ("storm", "postgres", "onnect"),
    ] {
        if remedy == "onnect" {
            server.stop("fast");
        }
        let to = settings(&format!("postgres://{login}@{address}/{database}"));
        let refused = Store::migrate(&from.settings(), &to, |_| {})
            .await
            .unwrap_err();
        assert!(matches!(refused, MoveError::Target(_)), "{refused:?}");
        let text = line(&refused);
        assert!(text.contains(remedy) && !text.contains("hunter"), "{text}");
        accept(&store).await;
    }
}
