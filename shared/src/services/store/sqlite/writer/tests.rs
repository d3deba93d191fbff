use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::Sender,
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use rusqlite::Connection;
use tokio::sync::mpsc::Receiver;

use super::{
    BATCH_BYTES, Bodies, Clock, Durability, OpenFiles, StoreError, Trouble, Writer, fitting,
    pending,
};

/// A writer on `connection`, whose queue has `capacity`.
fn writer_on(connection: Connection, durability: Durability, capacity: usize) -> Writer {
    let clock = Arc::new(Clock::unsaved());
    let files = OpenFiles::none();
    Writer::start(connection.into(), files, clock, durability, capacity)
}

/// A call that waits: it says that it has begun, and goes on when it is told so.
fn gate() -> (impl FnMut() + Send + 'static, Receiver<()>, Sender<()>) {
    let (begun, has_begun) = tokio::sync::mpsc::channel(1);
    let (go, goes) = std::sync::mpsc::channel();
    let wait = move || {
        begun.blocking_send(()).unwrap();
        goes.recv().unwrap();
    };
    (wait, has_begun, go)
}

#[tokio::test]
async fn a_writer_thread_that_ends_is_reported() {
    let connection = Connection::open_in_memory().unwrap();
    let writer = writer_on(connection, Durability::normal(), 1);
    let result = writer.write(|_| -> rusqlite::Result<()> { panic!("expected by this test") });
    let error = result.await.unwrap_err();
    assert!(error.is_indeterminate(), "{error}");
    writer.ended().await;
    let late = writer.write(|_| Ok(())).await;
    assert!(matches!(late, Err(StoreError::Closed)), "{late:?}");
}

#[test]
fn a_batch_has_as_many_writes_as_fit_and_one_that_is_too_large_alone() {
    for (sizes, expected) in [
        (vec![], 0),
        (vec![0; 10], 10),
        (vec![BATCH_BYTES], 1),
        (vec![BATCH_BYTES, 0], 2),
        (vec![BATCH_BYTES, 1], 1),
        (vec![BATCH_BYTES + 1, 0], 1),
        (vec![1, BATCH_BYTES, 1], 1),
        (vec![BATCH_BYTES / 2, 10, BATCH_BYTES / 2, 10], 2),
    ] {
        let write = |bytes: &usize| pending(|_| Ok(()), Bodies::of(*bytes), true, |_| {}).0;
        let writes: Vec<_> = sizes.iter().map(write).collect();
        assert_eq!(fitting(&writes), expected, "{sizes:?}");
    }
}

#[tokio::test]
async fn large_writes_are_split_into_several_transactions_and_committed_in_order() {
    const SIZES: [usize; 7] = [
        BATCH_BYTES / 2,
        BATCH_BYTES / 2,
        10,
        BATCH_BYTES + 1,
        10,
        BATCH_BYTES - 10,
        10,
    ];
    let folder = tempfile::TempDir::new().unwrap();
    let open = || Connection::open(folder.path().join("db")).unwrap();
    let connection = open();
    connection
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n)")
        .unwrap();
    let writer = writer_on(connection, Durability::normal(), SIZES.len());
    let count = "SELECT count(*) FROM t";
    let (mut wait, mut has_begun, go) = gate();
    let first = writer.write(move |_| {
        wait();
        Ok(())
    });
    let queued = async {
        has_begun.recv().await.unwrap();
        // Each returns how many writes are before it, and how many of them are committed.
        let large = SIZES.map(|bytes| {
            let other = open();
            writer.try_write_bodies(Bodies::of(bytes), move |tx| {
                let before: i64 = tx.query_row(count, [], |row| row.get(0))?;
                tx.execute("INSERT INTO t VALUES (1)", [])?;
                let committed: i64 = other.query_row(count, [], |row| row.get(0))?;
                Ok((before, committed))
            })
        });
        let go = async { go.send(()).unwrap() };
        // In this order: all are queued before the first one ends, and received together.
        tokio::join!(biased; join_all(large), go).0
    };
    let (first, written) = tokio::join!(first, queued);
    first.unwrap();
    let written: Vec<_> = written.into_iter().map(Result::unwrap).collect();
    let expected = [(0, 0), (1, 0), (2, 2), (3, 3), (4, 4), (5, 4), (6, 6)];
    assert_eq!(written, expected);
}

#[tokio::test]
async fn only_the_writes_of_the_transaction_that_the_writer_died_in_are_unknown() {
    let connection = Connection::open_in_memory().unwrap();
    let writer = writer_on(connection, Durability::normal(), 8);
    let (mut wait, mut has_begun, die) = gate();
    let dying = writer.write(move |_| -> rusqlite::Result<()> {
        wait();
        panic!("expected by this test")
    });
    let queued = async {
        has_begun.recv().await.unwrap();
        let queued = std::pin::pin!(writer.write(|_| Ok(())));
        // Polled first, so the write is queued before the writer dies.
        let dying = async { die.send(()).unwrap() };
        let (queued, ()) = tokio::join!(biased; queued, dying);
        queued
    };
    let (dead, queued) = tokio::join!(dying, queued);
    assert!(dead.unwrap_err().is_indeterminate());
    assert!(matches!(queued, Err(StoreError::Closed)), "{queued:?}");
}

/// What five writes of one batch return, and what the table has then. Each inserts its number and
/// returns how many rows were there before. `fails` names the writes that fail, and in which run.
async fn five_writes(fails: &'static [(i64, u32)]) -> (Vec<Result<i64, StoreError>>, Vec<i64>) {
    let folder = tempfile::TempDir::new().unwrap();
    let open = || Connection::open(folder.path().join("db")).unwrap();
    let connection = open();
    connection
        .execute_batch("CREATE TABLE t (n UNIQUE)")
        .unwrap();
    let writer = writer_on(connection, Durability::normal(), 8);
    let (mut wait, mut has_begun, go) = gate();
    let first = writer.write(move |_| {
        wait();
        Ok(())
    });
    let queued = async {
        has_begun.recv().await.unwrap();
        let five = [1, 2, 3, 4, 5].map(|number| {
            let mut run = 0;
            writer.write(move |tx| {
                run += 1;
                let before = tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?;
                let insert = || tx.execute("INSERT INTO t VALUES (?1)", [number]);
                insert()?;
                if fails.contains(&(number, run)) {
                    insert()?; // after a row that must be rolled back
                }
                Ok(before)
            })
        });
        let go = async { go.send(()).unwrap() };
        // In this order: all are queued before the first one ends.
        tokio::join!(biased; join_all(five), go).0
    };
    let (first, written) = tokio::join!(first, queued);
    first.unwrap();
    let other = open();
    let mut rows = other.prepare("SELECT n FROM t ORDER BY n").unwrap();
    let rows = rows.query_map([], |row| row.get(0)).unwrap();
    (written, rows.collect::<Result<_, _>>().unwrap())
}

#[tokio::test]
async fn of_a_batch_with_failing_writes_the_others_are_committed_and_all_are_answered() {
    // The fourth fails in the run that the third one has caused.
    let (written, rows) = five_writes(&[(3, 1), (3, 2), (4, 1)]).await;
    assert_eq!(rows, [1, 2, 5]);
    let [Ok(0), Ok(1), Err(third), Err(fourth), Ok(2)] = &written[..] else {
        panic!("{written:?}");
    };
    for failed in [third, fourth] {
        assert!(matches!(failed, StoreError::Failed { .. }), "{failed}");
    }
}

#[tokio::test]
async fn only_the_second_run_of_a_write_counts_if_there_is_one() {
    // The third fails in the first run only, and the first one in the second run only.
    let (written, rows) = five_writes(&[(3, 1), (1, 2)]).await;
    assert_eq!(rows, [2, 3, 4, 5]);
    assert!(
        matches!(
            written[..],
            [Err(StoreError::Failed { .. }), Ok(0), Ok(1), Ok(2), Ok(3)]
        ),
        "{written:?}"
    );
}

/// A new database with a table, in WAL mode. It waits for no lock.
fn table(folder: &Path) -> Connection {
    let connection = Connection::open(folder.join("db")).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t (n)")
        .unwrap();
    connection
}

/// A writer on `table`, which calls `sync` to sync the log.
fn synced_by(folder: &Path, sync: impl FnMut() -> io::Result<()> + Send + 'static) -> Writer {
    writer_on(table(folder), Durability::synced_by(sync), 8)
}

fn insert(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute("INSERT INTO t VALUES (1)", []).map(drop)
}

fn count(connection: &Connection) -> i64 {
    let count = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0));
    count.unwrap()
}

#[tokio::test]
async fn a_commit_is_answered_after_its_sync_for_which_no_other_writer_waits() {
    let folder = tempfile::TempDir::new().unwrap();
    let other = table(folder.path());
    let (mut wait, mut syncs, go) = gate();
    let writer = synced_by(folder.path(), move || {
        wait();
        Ok(())
    });
    let mut write = Box::pin(writer.write(insert));
    assert!((&mut write).now_or_never().is_none());
    syncs.recv().await.unwrap();
    assert_eq!(count(&other), 1, "committed");
    insert(&other).unwrap();
    assert!((&mut write).now_or_never().is_none(), "not answered");
    go.send(()).unwrap();
    write.await.unwrap();
}

#[tokio::test]
async fn after_a_failed_sync_no_commit_counts_until_the_whole_log_is_in_the_database() {
    let folder = tempfile::TempDir::new().unwrap();
    let reader = table(folder.path());
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&syncs);
    let writer = synced_by(folder.path(), move || {
        match counted.fetch_add(1, Ordering::Relaxed) {
            // As the kernel does: the next one says nothing of this.
            1 => Err(io::ErrorKind::Other.into()),
            _ => Ok(()),
        }
    });
    writer.write(insert).await.unwrap();
    assert_eq!(writer.trouble(), None);
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(count(&reader), 1);
    for _ in 0..2 {
        // The first one fails by its sync, and both by a checkpoint that the reader prevents.
        let unknown = writer.write(insert).await.unwrap_err();
        assert!(unknown.is_indeterminate(), "{unknown}");
        assert_eq!(writer.trouble(), Some(Trouble::Io));
        let unconfirmed = writer.confirm().await.unwrap_err();
        assert!(
            matches!(unconfirmed, StoreError::Failed { .. }),
            "{unconfirmed}"
        );
    }
    assert_eq!(syncs.load(Ordering::Relaxed), 2, "no other was tried");
    reader.execute_batch("COMMIT").unwrap();
    writer.write(insert).await.unwrap();
    assert_eq!(writer.trouble(), None);
    let log = folder.path().join("db-wal");
    assert_eq!(log.metadata().unwrap().len(), 0, "all is in the database");
    assert_eq!(count(&reader), 4);
    writer.write(insert).await.unwrap();
    assert_eq!(syncs.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_failed_sync_is_made_up_for_at_once_if_no_reader_is_in_the_way() {
    let folder = tempfile::TempDir::new().unwrap();
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&syncs);
    let writer = synced_by(folder.path(), move || {
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 => Err(io::ErrorKind::Other.into()),
            _ => Ok(()),
        }
    });
    writer.write(insert).await.unwrap();
    let log = folder.path().join("db-wal");
    assert_eq!(log.metadata().unwrap().len(), 0, "all is in the database");
    assert_eq!(writer.trouble(), None);
    writer.write(insert).await.unwrap();
    assert_eq!(syncs.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_was_read_is_confirmed_by_a_sync_that_began_after_and_needs_no_lock() {
    let folder = tempfile::TempDir::new().unwrap();
    let other = table(folder.path());
    let (mut wait, mut syncs, go) = gate();
    let writer = synced_by(folder.path(), move || {
        wait();
        Ok(())
    });
    let mut write = Box::pin(writer.write(insert));
    assert!((&mut write).now_or_never().is_none());
    syncs.recv().await.unwrap();
    // From here on a read finds the commit.
    let mut confirm = Box::pin(writer.confirm());
    assert!((&mut confirm).now_or_never().is_none());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    go.send(()).unwrap();
    write.await.unwrap();
    let confirmed = async { syncs.recv().await.unwrap() };
    tokio::select! {
        biased;
        result = &mut confirm => panic!("confirmed by the sync before: {result:?}"),
        () = confirmed => {}
    }
    go.send(()).unwrap();
    confirm.await.unwrap();
}

#[tokio::test]
async fn without_syncs_there_is_nothing_to_confirm() {
    let folder = tempfile::TempDir::new().unwrap();
    let writer = writer_on(table(folder.path()), Durability::normal(), 8);
    assert!(matches!(writer.confirm().now_or_never(), Some(Ok(()))));
}
