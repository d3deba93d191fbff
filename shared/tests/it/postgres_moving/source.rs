//! The source of a move: from the mark on, nobody writes to it.

use std::time::Duration;

use rusqlite::Connection;
use storm_shared::{
    models::RequestId,
    services::store::{
        Ended, Outcome, OwnerId, Paused, Scope, Settlement, Store, StoreError, Trouble,
    },
};
use tokio_util::sync::CancellationToken;

use super::{databases, everything::fill, migrate};
use crate::{
    database::TestDatabase,
    jobs::{accept, claimed, finished, new_worker, result_of, try_accept},
};

fn direct(database: &TestDatabase) -> Connection {
    Connection::open(database.settings().database.path().unwrap()).unwrap()
}

fn is_migrated<T>(result: &Result<T, StoreError>) -> bool {
    let trouble = result.as_ref().err().and_then(StoreError::trouble);
    trouble == Some(Trouble::Migrated)
}

#[tokio::test]
async fn every_write_of_a_process_that_has_the_source_open_is_refused() {
    let (from, to) = databases().await;
    let store = from.open().await;
    let worker = new_worker(&store).await;
    let job = claimed(&store).await;
    let over = finished(&store, Outcome::Completed).await;
    let pending = accept(&store).await;
    let before = from.count().await;
    migrate(&from, &to).await.unwrap();

    let refused = try_accept(&store).await;
    assert!(is_migrated(&refused), "{refused:?}");
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("was moved to postgres://storm@"), "{text}");
    assert!(is_migrated(&store.register(OwnerId::generate(), &[]).await));
    assert!(is_migrated(&store.cancel(Scope::All, pending).await));
    assert!(is_migrated(&store.redeliver(Scope::All, over).await));
    assert!(is_migrated(&store.erase(Scope::All, over).await));
    let paused = store
        .pause(Paused::Everything, "ops".parse().unwrap())
        .await;
    assert!(is_migrated(&paused));
    assert!(is_migrated(&store.check().await), "the health check fails");
    assert_eq!(store.trouble(), Some(Trouble::Migrated));
    // Its worker has no lease any more, and gets none; its claim is lost.
    assert!(matches!(
        store.renew(worker, Ended::default()).await,
        Err(StoreError::LeaseLost)
    ));
    let settled = store.settle(job.claim, Some(result_of(&job)), Settlement::GiveBack);
    assert!(matches!(settled.await, Err(StoreError::ClaimLost)));
    // Reads go on.
    assert!(store.find(over).await.unwrap().is_some());
    assert_eq!(from.count().await, before);
    store.close().await;
}

#[tokio::test]
async fn every_table_of_the_source_refuses_every_write_of_another_program() {
    let (from, to) = databases().await;
    let store = from.open().await;
    fill(&store).await;
    store.check().await.unwrap();
    store.close().await;
    let db = direct(&from);
    let tables = |db: &Connection| -> Vec<String> {
        let mut names = db
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'moved_to'")
            .unwrap();
        let names = names.query_map([], |row| row.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    };
    let names = tables(&db);
    assert!(names.len() >= 14, "{names:?}");
    // Prepared before the mark, as a running process has them.
    let mut first_of = Vec::new();
    for table in &names {
        let column: String = db
            .query_row(
                "SELECT name FROM pragma_table_info(?1) LIMIT 1",
                [table],
                |row| row.get(0),
            )
            .unwrap();
        first_of.push((table.clone(), column));
    }
    let statements: Vec<String> = first_of
        .iter()
        .flat_map(|(table, column)| {
            ["", "OR IGNORE ", "OR REPLACE ", "OR FAIL "]
                .map(|or| {
                    format!("INSERT {or}INTO {table} SELECT * FROM {table} WHERE true LIMIT 1")
                })
                .into_iter()
                .chain([
                    format!("UPDATE {table} SET {column} = {column}"),
                    format!("UPDATE OR FAIL {table} SET {column} = {column}"),
                    format!("DELETE FROM {table}"),
                ])
                .collect::<Vec<_>>()
        })
        .collect();
    let mut prepared: Vec<_> = statements
        .iter()
        .filter_map(|sql| Some((sql, db.prepare(sql).ok()?)))
        .collect();
    assert!(prepared.len() > 80, "{}", prepared.len());
    migrate(&from, &to).await.unwrap();
    // What the move itself has emptied has no row to write.
    let is_empty = |sql: &str| {
        ["workers", "cancellations"]
            .iter()
            .any(|table| sql.contains(table))
    };
    for (sql, statement) in &mut prepared {
        let refused = statement.execute([]);
        match refused {
            Err(error) => assert!(
                error.to_string().contains("this store was moved to"),
                "{error}"
            ),
            Ok(rows) => assert!(rows == 0 && is_empty(sql), "{sql}"),
        }
    }
    let insert = "INSERT INTO workers (owner, beat, renewed_at) VALUES ('a', 0, '')";
    assert!(
        db.execute_batch(insert)
            .unwrap_err()
            .to_string()
            .contains("was moved to")
    );
}

#[tokio::test]
async fn no_program_opens_the_source_any_more_and_each_says_where_it_went() {
    let (from, to) = databases().await;
    from.open().await.close().await;
    migrate(&from, &to).await.unwrap();
    let target = to.settings().database.to_string();
    let settings = from.settings();
    let elsewhere = tempfile::TempDir::new().unwrap();
    let copy = elsewhere.path().join("copy.db");
    for refused in [
        Store::open(&settings).await.err().unwrap().to_string(),
        Store::attach(&settings).await.err().unwrap().to_string(),
        Store::vacuum(&settings, false)
            .await
            .unwrap_err()
            .to_string(),
        Store::backup(&settings, &copy, false, CancellationToken::new())
            .await
            .unwrap_err()
            .to_string(),
    ] {
        let says = format!("this store was moved to {target}: set DB_URL to that database");
        assert!(refused.ends_with(&says), "{refused}");
        assert_eq!(refused.lines().count(), 1);
    }
    // The previous release knows no mark, and the version.
    let db = direct(&from);
    let version: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    let oldest: i64 = db
        .query_row("SELECT max(oldest) FROM store", [], |row| row.get(0))
        .unwrap();
    assert!(version > 1000 && oldest > 1000);
    // A dump has the mark, and no version.
    db.pragma_update(None, "user_version", 0).unwrap();
    db.pragma_update(None, "application_id", 0).unwrap();
    let refused = Store::open(&settings).await.err().unwrap().to_string();
    assert!(refused.contains(&target), "{refused}");
}

#[tokio::test]
async fn what_was_accepted_while_the_move_began_is_in_the_target() {
    let (from, to) = databases().await;
    let store = from.open().await;
    accept(&store).await;
    let accepting = tokio::spawn(async move {
        let mut accepted: Vec<RequestId> = Vec::new();
        loop {
            match try_accept(&store).await {
                Ok(id) => accepted.push(id),
                Err(error) if error.trouble() == Some(Trouble::Migrated) => return accepted,
                // The mark has the lock.
                Err(error) => assert_eq!(error.trouble(), Some(Trouble::Busy), "{error}"),
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(20)).await; // any time will do
    migrate(&from, &to).await.unwrap();
    let accepted = accepting.await.unwrap();
    let store = to.open().await;
    assert_eq!(to.count().await, accepted.len() + 1);
    for id in accepted {
        assert!(store.find(id).await.unwrap().is_some());
    }
}
