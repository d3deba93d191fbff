//! The sizes of the database, for its metrics.

use std::fs;

use rusqlite::Connection;

use super::checkpoint;
use crate::services::store::metrics::Sizes;

/// Measures the database. Reads one page at most.
pub(super) fn of(connection: &Connection) -> rusqlite::Result<Sizes> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let page = pragma("page_size")?;
    let bytes = |pages: i64| u64::try_from(pages.saturating_mul(page)).unwrap_or(0);
    let file = fs::metadata(connection.path().unwrap_or_default());
    Ok(Sizes {
        // Of a database in memory, which only tests have, the pages.
        database: match file {
            Ok(file) => file.len(),
            Err(_) => bytes(pragma("page_count")?),
        },
        free: bytes(pragma("freelist_count")?),
        log: checkpoint::log_bytes(connection),
    })
}
