//! The sizes of the database, for its metrics.

use std::fs;

use rusqlite::Connection;

use super::checkpoint;
use crate::services::store::metrics::Sizes;

/// Measures the database. Reads one page at most.
pub(super) fn of(connection: &Connection) -> rusqlite::Result<Sizes> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let page = pragma("page_size")?;
    let file = fs::metadata(connection.path().unwrap_or_default());
    let free = pragma("freelist_count")?.saturating_mul(page);
    Ok(Sizes {
        database: file.map_or(0, |file| file.len()),
        free: u64::try_from(free).unwrap_or(0),
        log: checkpoint::log_bytes(connection),
    })
}
