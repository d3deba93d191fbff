//! What the live page shows of the workers and of backlogs.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{columns, stats};
use crate::{
    models::WorkerReport,
    services::store::{Overview, WorkerSeen},
};

/// Reads it in one snapshot.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Overview> {
    let snapshot = connection.unchecked_transaction()?;
    Ok(Overview {
        workers: workers(&snapshot)?,
        destinations: stats::destinations(&snapshot, Overview::COUNTED, Overview::DESTINATIONS)?,
    })
}

fn workers(connection: &Connection) -> rusqlite::Result<Vec<WorkerSeen>> {
    let now = Timestamp::now();
    let mut query = connection.prepare_cached(
        // An edit by hand can make it as long as it likes.
        "SELECT owner, renewed_at, iif(octet_length(report) <= ?1, report, NULL) FROM workers
         ORDER BY owner LIMIT ?2",
    )?;
    let most = columns::integer(WorkerReport::MAX_BYTES);
    let workers = query.query_map(params![most, Overview::WORKERS], |row| {
        let report = columns::text(row, 2)?;
        Ok(WorkerSeen {
            owner: columns::text(row, 0)?.unwrap_or_default(),
            heartbeat_age_ms: stats::heartbeat_age_ms(row, 1, now)?,
            report: report.as_deref().and_then(WorkerReport::parse),
        })
    })?;
    workers.collect()
}
