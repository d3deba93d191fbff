//! What is not moved, and not moved to.

use std::fs;

use storm_shared::{
    config::{Settings, StoreSettings},
    services::store::{MoveError, MoveStep, Store},
};
use tempfile::TempDir;

use super::{
    databases,
    everything::{assert_same, fill, keyed},
    line, migrate,
};
use crate::{
    database::{Engine, TestDatabase},
    jobs::{accept, accept_in_tasks, row},
};

fn file(path: &std::path::Path) -> StoreSettings {
    let url = format!("sqlite:{}", path.display());
    Settings::with([("DB_URL", url.as_str())]).unwrap().store
}

#[tokio::test]
async fn a_target_with_a_store_of_its_own_is_refused_and_the_source_goes_on() {
    let (from, to) = databases().await;
    let store = from.open().await;
    accept(&to.open().await).await;
    let refused = migrate(&from, &to).await.unwrap_err();
    assert!(matches!(refused, MoveError::Target(_)));
    assert!(line(&refused).contains("a store of its own; use an empty database"));
    accept(&store).await;
    // An empty one may have services that run.
    let empty = TestDatabase::fresh(Engine::Postgres).await;
    empty.open().await;
    assert!(migrate(&from, &empty).await.is_err());
    // And one of a newer schema.
    empty
        .execute("UPDATE store SET version = 1000, oldest = 1000")
        .await;
    assert!(line(&migrate(&from, &empty).await.unwrap_err()).contains("a store of its own"));
    let theirs = TestDatabase::fresh(Engine::Postgres).await;
    theirs.execute("CREATE TABLE requests (id integer)").await;
    let refused = line(&migrate(&from, &theirs).await.unwrap_err());
    assert!(refused.contains("not of this service"), "{refused}");
    accept(&store).await;
    assert_eq!(to.count().await, 1);
}

#[tokio::test]
async fn a_target_that_gets_another_store_is_refused() {
    let (from, to) = databases().await;
    let store = from.open().await;
    accept(&store).await;
    store.close().await;
    // A copy of the file is the same store, and goes on by itself.
    let folder = TempDir::new().unwrap();
    let copy = folder.path().join("copy.db");
    fs::copy(from.settings().database.path().unwrap(), &copy).unwrap();
    let other = TestDatabase::fresh(Engine::Sqlite).await;
    other.open().await.close().await;
    interrupt(&from, &to).await;
    for source in [file(&copy), other.settings()] {
        let refused = Store::migrate(&source, &to.settings(), |_| {})
            .await
            .unwrap_err();
        let text = line(&refused);
        assert!(
            text.contains("another copy of this one, is being moved"),
            "{text}"
        );
        Store::open(&source).await.unwrap().close().await;
    }
    migrate(&from, &to).await.unwrap();
    for source in [file(&copy), other.settings()] {
        let refused = Store::migrate(&source, &to.settings(), |_| {})
            .await
            .unwrap_err();
        assert!(line(&refused).contains("a store of its own"));
    }
}

/// Begins a move, which fails at the first row.
async fn interrupt(from: &TestDatabase, to: &TestDatabase) {
    let (source, target) = (from.settings(), to.settings());
    let moving = Store::migrate(&source, &target, |_| panic!("given up"));
    let moving = std::panic::AssertUnwindSafe(moving);
    let ended = futures_util::FutureExt::catch_unwind(moving).await;
    assert!(ended.is_err());
}

#[tokio::test]
async fn a_source_that_is_marked_goes_to_its_target_only() {
    let (from, to) = databases().await;
    let store = from.open().await;
    accept(&store).await;
    store.close().await;
    interrupt(&from, &to).await;
    let other = TestDatabase::fresh(Engine::Postgres).await;
    let name = to.settings().database.to_string();
    for _ in 0..2 {
        let refused = migrate(&from, &other).await.unwrap_err();
        assert!(matches!(refused, MoveError::Source(_)), "{refused:?}");
        let text = line(&refused);
        assert!(text.contains(&format!("being moved to {name}")), "{text}");
        migrate(&from, &to).await.unwrap();
    }
    assert!(migrate(&from, &to).await.unwrap().was_moved);
    // If it has lost everything, what was written there since is in its backup only.
    to.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .await;
    let refused = line(&migrate(&from, &to).await.unwrap_err());
    assert!(refused.contains("restore its backup"), "{refused}");
}

#[tokio::test]
async fn a_move_begins_anew_if_its_target_was_emptied_before_the_end() {
    let (from, to) = databases().await;
    let store = from.open().await;
    fill(&store).await;
    store.close().await;
    interrupt(&from, &to).await;
    to.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        .await;
    migrate(&from, &to).await.unwrap();
    assert_same(&from, &to).await;
}

#[tokio::test]
async fn what_is_no_database_of_this_version_is_not_moved() {
    let to = TestDatabase::fresh(Engine::Postgres).await;
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(
        path("text"),
        "no database, but some text that is long enough",
    )
    .unwrap();
    rusqlite::Connection::open(path("theirs"))
        .unwrap()
        .execute_batch("CREATE TABLE theirs (x)")
        .unwrap();
    for (name, version) in [("older", 24), ("newer", 1000)] {
        Store::open(&file(&path(name))).await.unwrap().close().await;
        let db = rusqlite::Connection::open(path(name)).unwrap();
        db.pragma_update(None, "user_version", version).unwrap();
    }
    for (name, says) in [
        ("missing", "there is no database at this path"),
        ("text", "is not an SQLite database"),
        ("theirs", "not a database of this service"),
        (
            "older",
            "start the API or a worker of this version, which migrates it",
        ),
        ("newer", "run a newer version"),
    ] {
        let refused = Store::migrate(&file(&path(name)), &to.settings(), |_| {}).await;
        let refused = refused.unwrap_err();
        assert!(matches!(refused, MoveError::Source(_)), "{refused:?}");
        let text = line(&refused);
        assert!(text.contains(says) && text.contains(name), "{text}");
    }
    assert!(!path("missing").exists());
    // Nothing was begun.
    to.open().await;
}

#[tokio::test]
async fn nothing_is_moved_back() {
    let (from, to) = databases().await;
    let (file, server) = (from.settings(), to.settings());
    let back = Store::migrate(&server, &file, |_| {}).await.unwrap_err();
    assert!(line(&back).contains("from SQLite to PostgreSQL only, and never back"));
    let aside = Store::migrate(&file, &file, |_| {}).await;
    assert!(aside.is_err());
}

#[tokio::test]
async fn a_source_whose_lock_is_held_is_left_as_it_is() {
    let (from, to) = databases().await;
    let store = from.open().await;
    accept(&store).await;
    let lock = from.hold_lock().await;
    let refused = migrate(&from, &to).await.unwrap_err();
    assert!(
        line(&refused).contains("has held its write lock"),
        "{refused}"
    );
    lock.release().await;
    accept(&store).await;
    // The tables that the first call has made are no obstacle.
    migrate(&from, &to).await.unwrap();
    assert_same(&from, &to).await;
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing() {
    let (from, to) = databases().await;
    let store = from.open().await;
    for write in accept_in_tasks(&store, 5).await {
        write.await.unwrap().unwrap();
    }
    let plan = Store::plan_migration(&from.settings(), &to.settings())
        .await
        .unwrap();
    assert_eq!(
        (plan.rows[0], plan.next),
        (("requests", 5), MoveStep::Begin)
    );
    accept(&store).await;
    interrupt(&from, &to).await;
    let plan = Store::plan_migration(&from.settings(), &to.settings())
        .await
        .unwrap();
    assert_eq!((plan.rows[0], plan.next), (("requests", 6), MoveStep::GoOn));
    migrate(&from, &to).await.unwrap();
    let plan = Store::plan_migration(&from.settings(), &to.settings())
        .await
        .unwrap();
    assert_eq!(plan.next, MoveStep::Nothing);
}

#[tokio::test]
async fn rows_that_were_edited_by_hand_are_moved_as_they_are_shown() {
    let (from, to) = databases().await;
    let store = from.open().await;
    let edits = from.invalid_jobs().iter().chain(from.invalid_traces());
    let mut ids = Vec::new();
    for edit in edits
        .chain(from.invalid_due_times())
        .chain(&[from.invalid_created_at()])
    {
        let id = accept(&store).await;
        from.edit(id, edit).await;
        ids.push((id, *edit));
    }
    for name in from.odd_client_names() {
        let id = accept(&store).await;
        from.edit(id, &format!("created_by = {name}")).await;
        ids.push((id, name));
    }
    let before = {
        let mut before = Vec::new();
        for (id, edit) in &ids {
            before.push((
                *id,
                *edit,
                serde_json::to_value(row(&store, *id).await).unwrap(),
            ));
        }
        before
    };
    store.accept(keyed("old")).await.unwrap();
    from.forget_expectations().await;
    store.close().await;
    let db = rusqlite::Connection::open(from.settings().database.path().unwrap()).unwrap();
    db.execute_batch(
        "INSERT INTO events (request_id, number, at, event, claim)
             VALUES ('nobody', 1, '', 'given_back', 1), ('', -5, '', 'given_back', 1);
         INSERT INTO pauses (origin, since, operator) VALUES (CAST(x'ff' AS TEXT), '', '');",
    )
    .unwrap();
    let moved = migrate(&from, &to).await.unwrap();
    assert_eq!(moved.left_out, 3);
    let store = to.open().await;
    for (id, edit, before) in before {
        let after = serde_json::to_value(row(&store, id).await).unwrap();
        for field in [
            "input_payload",
            "result_payload",
            "status",
            "traceparent",
            "callback_url",
        ] {
            assert_eq!(after[field], before[field], "{edit}: {field}");
        }
        let at = before["created_at"].as_str().unwrap();
        if at.parse::<jiff::Timestamp>().is_ok() {
            assert_eq!(after["created_at"], at);
        }
    }
}
