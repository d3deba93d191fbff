//! Reads how far requests are, for those who wait for their results.

use rusqlite::{Connection, OptionalExtension};

use crate::{models::RequestId, services::store::Progress};

/// The most requests in one read: it holds back a checkpoint for some milliseconds.
pub(super) const BATCH: usize = 1000;

/// A search by the primary key, since `requests` is clustered by it. The lengths of a row's columns
/// are in its head, so that no result is read to know whether there is one.
const PROGRESS: &str = "SELECT CASE WHEN status IN ('COMPLETED', 'FAILED') THEN 2
                                    WHEN result_payload IS NOT NULL THEN 1
                                    ELSE 0 END
     FROM requests WHERE id = ?1";

/// How far each of these requests is, in their order.
pub(super) fn of(connection: &Connection, ids: &[RequestId]) -> rusqlite::Result<Vec<Progress>> {
    // One transaction: without it, each search would take and release the lock of the reader.
    let snapshot = connection.unchecked_transaction()?;
    let mut search = snapshot.prepare_cached(PROGRESS)?;
    let of = |id: &RequestId| {
        let found = search.query_row([id.to_string()], |row| row.get(0));
        Ok(match found.optional()? {
            None => Progress::Unknown,
            Some(0) => Progress::Unfinished,
            Some(1) => Progress::Worked,
            Some(_) => Progress::Over,
        })
    };
    ids.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{super::schema, PROGRESS};

    #[test]
    fn the_progress_of_a_request_is_one_search_by_its_id() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let plan = format!("EXPLAIN QUERY PLAN {PROGRESS}");
        let mut plan = db.prepare(&plan).unwrap();
        let steps = plan.query_map(["id"], |row| row.get("detail")).unwrap();
        let steps: Vec<String> = steps.map(Result::unwrap).collect();
        assert_eq!(steps, ["SEARCH requests USING PRIMARY KEY (id=?)"]);
    }
}
