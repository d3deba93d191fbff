use std::sync::Arc;

use futures_util::future::join_all;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{BATCH_BYTES, Bodies, Clock, OpenFiles, StoreError, Writer, fitting, pending};

#[tokio::test]
async fn a_writer_thread_that_ends_is_reported() {
    let connection = Connection::open_in_memory().unwrap();
    let writer = Writer::start(
        connection.into(),
        OpenFiles::none(),
        Arc::new(Clock::unsaved()),
        1,
    );
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
        let write = |bytes: &usize| pending(|_| Ok(()), Bodies::of(*bytes), true).0;
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
    let clock = Arc::new(Clock::unsaved());
    let writer = Writer::start(connection.into(), OpenFiles::none(), clock, SIZES.len());
    let count = "SELECT count(*) FROM t";
    let (begun, has_begun) = oneshot::channel();
    let (go, goes) = oneshot::channel();
    let first = writer.write(move |_| {
        begun.send(()).unwrap();
        goes.blocking_recv().unwrap();
        Ok(())
    });
    let queued = async {
        has_begun.await.unwrap();
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
    let clock = Arc::new(Clock::unsaved());
    let writer = Writer::start(connection.into(), OpenFiles::none(), clock, 8);
    let (begun, has_begun) = oneshot::channel();
    let (die, dies) = oneshot::channel();
    let dying = writer.write(move |_| -> rusqlite::Result<()> {
        begun.send(()).unwrap();
        dies.blocking_recv().unwrap();
        panic!("expected by this test")
    });
    let queued = async {
        has_begun.await.unwrap();
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
