//! The health check: one read and one write.

use jiff::Timestamp;
use rusqlite::Connection;

use super::columns;

pub(super) fn read(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("SELECT 1 FROM store")?
        .query_one([], |_| Ok(()))
}

/// Overwrites the one row of `health`, with as many pages as a job takes: a disk that can't hold
/// one more job fails the check.
pub(super) fn write(tx: &Connection) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO health (one, checked_at, filler) VALUES (1, ?1, randomblob(12288))
         ON CONFLICT DO UPDATE SET checked_at = excluded.checked_at, filler = excluded.filler",
    )?
    .execute([columns::time(Timestamp::now())])
    .map(drop)
}
