//! The load: counts of unfinished jobs, and of those that each worker has ended.

use rusqlite::{Connection, params};

use super::{clock::StoreTime, columns};
use crate::services::store::Load;

/// Counts up to `?1` jobs that wait, and those of them that are due at `?2`. Those of the release
/// before can have no due time: they are due at once.
///
/// The index has all that is read. No row of `/sync` is in this state, nor in the next one.
const PENDING: &str = "SELECT count(*), count(*) FILTER (WHERE coalesce(due, 0) <= ?2)
     FROM (SELECT due FROM requests INDEXED BY requests_by_status
           WHERE status = 'PENDING' LIMIT ?1)";

/// Counts up to `?1` jobs that workers hold.
const PROCESSING: &str = "SELECT count(*)
     FROM (SELECT 1 FROM requests INDEXED BY requests_by_status
           WHERE status = 'PROCESSING' LIMIT ?1)";

/// Counts unfinished jobs, up to `most`, and those of them that are due at `due`.
pub(super) fn load(connection: &Connection, most: usize, due: StoreTime) -> rusqlite::Result<Load> {
    // One snapshot: a job that is claimed between two statements would be counted twice.
    let snapshot = connection.unchecked_transaction()?;
    let most = columns::integer(most);
    let (pending, waiting): (i64, i64) = snapshot
        .prepare_cached(PENDING)?
        .query_one(params![most, due.millis()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let processing: i64 = snapshot
        .prepare_cached(PROCESSING)?
        .query_one([most - pending], |row| row.get(0))?;
    let mut workers = snapshot.prepare_cached("SELECT owner, ended FROM workers")?;
    let mut rows = workers.query([])?;
    let mut load = Load {
        unfinished: usize::try_from(pending + processing).unwrap_or(usize::MAX),
        waiting: usize::try_from(waiting).unwrap_or(usize::MAX),
        ..Load::default()
    };
    while let Some(row) = rows.next()? {
        // A row that was edited by hand names no worker.
        if let Ok(owner) = columns::parsed(row, 0) {
            let ended: i64 = row.get(1)?;
            load.ended.insert(owner, u64::try_from(ended).unwrap_or(0));
        }
    }
    Ok(load)
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params_from_iter};

    use super::{super::schema, PENDING, PROCESSING};

    /// The steps by which `SQLite` counts, but for those within its memory.
    fn plan(sql: &str, values: &[i64]) -> Vec<String> {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps = statement.query_map(params_from_iter(values), |row| row.get("detail"));
        let steps = steps.unwrap().map(Result::unwrap);
        steps
            .filter(|step: &String| step.contains(" requests"))
            .collect()
    }

    #[test]
    fn a_count_reads_the_entries_of_one_index_and_no_row() {
        let search = "SEARCH requests USING COVERING INDEX requests_by_status (status=?)";
        assert_eq!(plan(PENDING, &[1_000_000, 0]), [search]);
        assert_eq!(plan(PROCESSING, &[1_000_000]), [search]);
    }
}
