//! Counts for operators, each bounded.

use std::{ffi::OsString, fs, path::Path};

use jiff::Timestamp;
use rusqlite::{Connection, Row, named_params};

use super::{
    clock::StoreTime,
    columns,
    oldest_due::oldest_due_age,
    state::{IS_CLAIMED, table},
};
use crate::{
    models::Status,
    services::store::{
        COUNTED, DestinationStats, FileStats, RequestStats, Stats, Work, WorkerStats,
    },
};

/// The most destinations.
const DESTINATIONS: u32 = 10;

/// The most claimed rows whose owners are read. Unlike the others this count reads the rows.
const CLAIMED: u32 = 100_000;

/// Reads the counts in one snapshot of the database at `path`.
pub(super) fn read(
    connection: &Connection,
    path: &Path,
    store: String,
    now: StoreTime,
) -> rusqlite::Result<Stats> {
    let snapshot = connection.unchecked_transaction()?;
    Ok(Stats {
        store,
        counted_up_to: COUNTED,
        requests: requests(&snapshot, now)?,
        workers: workers(&snapshot)?,
        destinations: destinations(&snapshot, COUNTED, DESTINATIONS)?,
        files: files(&snapshot, path)?,
    })
}

/// The sizes of the files of the database at `path`.
pub(super) fn files(connection: &Connection, path: &Path) -> rusqlite::Result<FileStats> {
    let pragma = |name| {
        let value: i64 = connection.pragma_query_value(None, name, |row| row.get(0))?;
        Ok::<_, rusqlite::Error>(u64::try_from(value).unwrap_or(0))
    };
    let page = pragma("page_size")?;
    let mut log = OsString::from(path);
    log.push("-wal");
    Ok(FileStats {
        // The file is behind the log: pages that a checkpoint has not copied count as well.
        database_bytes: page * pragma("page_count")?,
        free_bytes: page * pragma("freelist_count")?,
        // None if no process has the database open.
        log_bytes: fs::metadata(log).map_or(0, |file| file.len()),
    })
}

fn requests(connection: &Connection, now: StoreTime) -> rusqlite::Result<RequestStats> {
    let of = |status: Status| {
        let rows = format!("requests INDEXED BY requests_by_status WHERE status = '{status}'");
        count(connection, &rows)
    };
    let (pending, due) = connection.query_row(
        // A due time of 0, or none, stands for a time that is over.
        "SELECT count(*), coalesce(sum(coalesce(due, 0) <= :now), 0)
         FROM (SELECT due FROM requests INDEXED BY requests_by_status
               WHERE status = 'PENDING' LIMIT :most)",
        named_params! { ":now": now.millis(), ":most": COUNTED },
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let oldest_due = oldest_due_age(connection, now)?;
    Ok(RequestStats {
        pending,
        due,
        oldest_due_ms: oldest_due.and_then(|age| age.as_millis().try_into().ok()),
        suspects: count(
            connection,
            "requests INDEXED BY requests_suspects WHERE status = 'PENDING' AND lost_claims > 0",
        )?,
        processing: of(Status::Processing)?,
        completed: of(Status::Completed)?,
        failed: of(Status::Failed)?,
        redeliveries: count(connection, "redeliveries")?,
    })
}

/// Counts up to [`COUNTED`] rows.
fn count(connection: &Connection, rows: &str) -> rusqlite::Result<u32> {
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {rows} LIMIT {COUNTED})");
    connection.query_row(&sql, [], |row| row.get(0))
}

fn workers(connection: &Connection) -> rusqlite::Result<Vec<WorkerStats>> {
    let claimed = Work::ALL.map(|work| {
        let table = table(work);
        format!("SELECT * FROM (SELECT owner FROM {table} WHERE {IS_CLAIMED} LIMIT {CLAIMED})")
    });
    let sql = format!(
        "WITH claimed AS ({}),
              held AS (SELECT owner, count(*) AS jobs FROM claimed GROUP BY owner)
         SELECT owner, renewed_at, coalesce(jobs, 0) FROM workers LEFT JOIN held USING (owner)
         ORDER BY owner LIMIT 1000",
        claimed.join(" UNION ALL ")
    );
    let now = Timestamp::now();
    let mut query = connection.prepare(&sql)?;
    let workers = query.query_map([], |row| {
        Ok(WorkerStats {
            owner: columns::text(row, 0)?.unwrap_or_default(),
            heartbeat_age_ms: heartbeat_age_ms(row, 1, now)?,
            jobs: row.get(2)?,
        })
    })?;
    workers.collect()
}

/// The time from the heartbeat in a column until `now`, in milliseconds.
pub(super) fn heartbeat_age_ms(
    row: &Row<'_>,
    column: usize,
    now: Timestamp,
) -> rusqlite::Result<Option<u64>> {
    let renewed = columns::text(row, column)?.and_then(|text| text.parse::<Timestamp>().ok());
    // The hosts of an embedded database are one, so there is one wall clock. It may be set.
    let age = renewed.map(|renewed| now.duration_since(renewed).as_millis().max(0));
    Ok(age.and_then(|age| u64::try_from(age).ok()))
}

/// The `most` destinations with the longest backlogs, by up to `counted` rows of each table.
pub(super) fn destinations(
    connection: &Connection,
    counted: u32,
    most: u32,
) -> rusqlite::Result<Vec<DestinationStats>> {
    let backlog = Work::ALL.map(|work| {
        let table = table(work);
        format!(
            "SELECT * FROM (SELECT origin, created_by FROM {table} INDEXED BY {table}_backlog
                            WHERE status = 'PENDING' AND claim > 0 AND origin IS NOT NULL
                            LIMIT {counted})"
        )
    });
    let sql = format!(
        "SELECT created_by, origin, count(*) AS jobs FROM ({})
         GROUP BY origin, created_by ORDER BY jobs DESC, origin, created_by LIMIT {most}",
        backlog.join(" UNION ALL ")
    );
    let mut query = connection.prepare(&sql)?;
    let destination = |row: &Row<'_>| {
        Ok(DestinationStats {
            tenant: columns::text(row, 0)?,
            origin: columns::text(row, 1)?.unwrap_or_default(),
            backlog: row.get(2)?,
        })
    };
    query.query_map([], destination)?.collect()
}
