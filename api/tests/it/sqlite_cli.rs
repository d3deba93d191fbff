//! The commands about the database's file, and commands without a database.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::Command,
};

use rusqlite::Connection;

use crate::{
    cli::{Place, Ran, accept},
    service::{Service, exited_with},
};

#[tokio::test]
async fn without_a_database_of_this_version_no_command_creates_or_migrates_one() {
    let place = Place::on_sqlite();
    let commands: [&[&str]; 6] = [
        &["requests", "list"],
        &["requests", "cancel", "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42"],
        &["stats"],
        &["audit"],
        &["backup", "b.db"],
        &["vacuum"],
    ];
    for arguments in commands {
        let ran = place.run(arguments);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let problem = "storm.db: there is no database; run the command with the settings";
        assert!(
            ran.stderr.starts_with("DB_URL: ") && ran.stderr.contains(problem),
            "{ran:?}"
        );
        assert!(place.files().is_empty());
    }
    let place = migrated().await;
    let db = place.file();
    let version: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    for (found, remedy) in [
        (version - 1, "start the API or a worker of this version"),
        (version + 1, "run a newer version"),
    ] {
        db.pragma_update(None, "user_version", found).unwrap();
        // A newer schema works with its own version only.
        db.execute("UPDATE store SET oldest = ?1", [version + 1])
            .unwrap();
        for arguments in [&["requests", "list"][..], &["stats"]] {
            let ran = place.run(arguments);
            let says = format!("has schema version {found}");
            assert!(
                ran.stderr.contains(&says) && ran.stderr.contains(remedy),
                "{ran:?}"
            );
            assert_eq!(ran.code, Some(1));
        }
    }
    let unchanged: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    assert_eq!(unchanged, version + 1);
}

#[tokio::test]
async fn a_backup_is_private_and_whole_and_replaces_a_file_only_by_force() {
    let place = Place::on_sqlite();
    let service = Service::start_in(place.0.path()).await;
    let id = accept(&service).await;
    let ran = place.run(&["backup", "b.db"]).ok();
    assert!(ran.starts_with("b.db: "), "{ran}");
    let mode = |name| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("b.db"), 0o600);
    assert_eq!(ids_in(&place.0.path().join("b.db")), [id.as_str()]);
    let second = accept(&service).await;
    let ran = place.run(&["backup", "b.db"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("there is a file already"), "{ran:?}");
    assert_eq!(ids_in(&place.0.path().join("b.db")), [id.as_str()]);
    place.run(&["backup", "--force", "b.db"]).ok();
    assert_eq!(ids_in(&place.0.path().join("b.db")), [id, second]);
    for (target, problem) in [
        ("storm.db", "is the database itself"),
        ("storm.db-wal", "is the database itself"),
        (".", "is not a file"),
        ("missing/b.db", "its folder does not exist"),
    ] {
        let ran = place.run(&["backup", "--force", target]);
        assert!(
            ran.code == Some(1) && ran.stderr.contains(problem),
            "{ran:?}"
        );
    }
    assert_eq!(
        place.files(),
        ["b.db", "storm.db", "storm.db-shm", "storm.db-wal"]
    );
    assert!(exited_with(service.stop().await, 0));
}

/// With the tables of this version, and no service.
async fn migrated() -> Place {
    let place = Place::on_sqlite();
    place.store().await.close().await;
    place
}

fn ids_in(database: &Path) -> Vec<String> {
    let db = Connection::open(database).unwrap();
    let check: String = db
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    let mut query = db.prepare("SELECT id FROM requests ORDER BY id").unwrap();
    let ids = query.query_map([], |row| row.get(0)).unwrap();
    let ids = ids.map(Result::unwrap).collect();
    drop(query);
    // The last connection to close leaves no write-ahead log.
    db.close().unwrap();
    ids
}

/// A database of some 40 MB, in free pages but for a few.
async fn large() -> Place {
    let place = migrated().await;
    let db = place.file();
    db.execute_batch(
        "CREATE TABLE filler (x);
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 400)
         INSERT INTO filler SELECT zeroblob(100000) FROM n;",
    )
    .unwrap();
    place
}

#[tokio::test]
async fn a_backup_without_room_leaves_nothing_and_says_so() {
    let place = large().await;
    let arguments = ["-c", r#"ulimit -f 8000; exec "$0" backup b.db"#];
    let mut shell = Command::new("bash");
    let program = place.command(&[]);
    shell.args(arguments).arg(program.get_program());
    let variables = program.get_envs();
    shell
        .envs(variables.filter_map(|(name, value)| Some((name, value?))))
        .current_dir(place.0.path());
    let ran = Ran::of(&shell.output().unwrap());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stderr
            .contains("b.db: the disk is full, or a limit is reached"),
        "{ran:?}"
    );
    assert_eq!(place.files(), ["storm.db"]);
}

#[tokio::test]
async fn a_backup_that_is_interrupted_leaves_nothing() {
    let place = large().await;
    let child = place.command(&["backup", "b.db"]).spawn().unwrap();
    // Once it has opened the database, which adds files, the handlers are in place.
    let is_open = || place.files().len() > 1;
    crate::eventually("the database is open", is_open).await;
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", "INT", &pid]).status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let partial = |name: &String| name.contains("partial");
    assert!(!place.files().iter().any(partial), "{:?}", place.files());
    match output.status.code() {
        Some(130) => assert!(!place.files().contains(&"b.db".to_owned())),
        // It was quicker than the signal.
        code => assert_eq!((code, output.status.signal()), (Some(0), None)),
    }
}

#[tokio::test]
async fn vacuum_shrinks_the_file_and_is_refused_while_a_service_runs() {
    let place = large().await;
    place.file().execute_batch("DROP TABLE filler").unwrap();
    let size = || fs::metadata(place.path("storm.db")).unwrap().len();
    let before = size();
    let service = Service::start_in(place.0.path()).await;
    let id = accept(&service).await;
    let ran = place.run(&["vacuum"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stderr
            .contains("the database is in use: stop the API and the workers"),
        "{ran:?}"
    );
    assert!(size() >= before);
    assert!(exited_with(service.stop().await, 0));

    let text = place.run(&["vacuum"]).ok();
    assert!(
        text.starts_with("before  ") && text.contains("\nafter   "),
        "{text}"
    );
    assert!(size() < before / 10, "{before} {}", size());
    assert_eq!(ids_in(&place.0.path().join("storm.db")), [id]);
    assert_eq!(place.files(), ["storm.db"]);
}

#[tokio::test]
async fn vacuum_beside_a_running_service_loses_nothing() {
    let place = large().await;
    place.file().execute_batch("DROP TABLE filler").unwrap();
    let service = Service::start_in(place.0.path()).await;
    let first = accept(&service).await;
    place.run(&["vacuum", "--while-running"]).ok();
    let second = accept(&service).await;
    assert!(exited_with(service.stop().await, 0));
    let size = fs::metadata(place.path("storm.db")).unwrap().len();
    assert!(size < 4 << 20, "{size}");
    assert_eq!(ids_in(&place.0.path().join("storm.db")), [first, second]);
}
