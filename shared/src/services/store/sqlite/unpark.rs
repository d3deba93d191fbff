//! The release of what a pause of an origin has parked.
//!
//! Such a job has a `parked_at` in the future. Once it is released, or parked again for another
//! reason, it has not.

use rusqlite::{Connection, params};

use super::{clock::StoreTime, columns, pause, state};
use crate::{
    models::Origin,
    services::store::{Paused, UnparkCursor, Work},
};

/// The parts of a walk over the jobs of an origin, in order. Each goes along an index.
const LANES: [(Work, &str); 4] = [
    (Work::Job, NAMELESS),
    (Work::Job, NAMED),
    (Work::Redelivery, NAMELESS),
    (Work::Redelivery, NAMED),
];

const NAMELESS: &str = "created_by IS NULL AND ?3 = x'' AND id > ?4";

const NAMED: &str = "(created_by, id) > (CAST(?3 AS TEXT), ?4)";

/// A job or redelivery that a pause has parked.
pub(super) struct Parked(UnparkCursor);

impl Parked {
    /// What comes after it.
    pub(super) fn cursor(&self) -> UnparkCursor {
        self.0.clone()
    }

    fn work(&self) -> Work {
        LANES[self.0.lane].0
    }
}

/// Finds up to `limit` jobs that a pause of `origin` has parked, after `after`.
pub(super) fn find(
    connection: &Connection,
    origin: &Origin,
    after: Option<UnparkCursor>,
    limit: usize,
    now: StoreTime,
) -> rusqlite::Result<Vec<Parked>> {
    let mut after = after.unwrap_or_default();
    let mut found = Vec::new();
    while let Some((work, condition)) = LANES.get(after.lane) {
        let mut query = connection.prepare_cached(&find_sql(*work, condition))?;
        let room = columns::integer(limit - found.len());
        let mut rows = query.query(params![
            origin.as_str(),
            now.millis(),
            after.tenant,
            after.id,
            room
        ])?;
        while let Some(row) = rows.next()? {
            found.push(Parked(UnparkCursor {
                lane: after.lane,
                tenant: columns::bytes(row, 0)?.unwrap_or_default(),
                id: row.get(1)?,
            }));
        }
        if found.len() >= limit {
            break;
        }
        after = UnparkCursor {
            lane: after.lane + 1,
            ..UnparkCursor::default()
        };
    }
    Ok(found)
}

fn find_sql(work: Work, condition: &str) -> String {
    let table = state::table(work);
    // INDEXED BY: the planner would otherwise search every origin's jobs. The order is the index's.
    format!(
        "SELECT created_by, id FROM {table} INDEXED BY {table}_backlog
         WHERE status = 'PENDING' AND claim > 0 AND origin = ?1 AND {condition}
           AND due > ?2 AND parked_at > ?2
         ORDER BY created_by, id LIMIT ?5"
    )
}

/// Makes those of the `parked` due at `now` that are still parked by a pause. Returns how many; or
/// `None` if the origin is paused.
pub(super) fn release(
    tx: &Connection,
    origin: &Origin,
    parked: &[Parked],
    now: StoreTime,
) -> rusqlite::Result<Option<usize>> {
    if pause::is_paused(tx, &Paused::Origin(origin.clone()))? {
        return Ok(None);
    }
    let mut released = 0;
    for job in parked {
        let table = state::table(job.work());
        released += tx
            .prepare_cached(&format!(
                "UPDATE {table} SET due = ?2, parked_at = ?2
                 WHERE id = ?1 AND status = 'PENDING' AND claim > 0
                   AND due > ?2 AND parked_at > ?2"
            ))?
            .execute(params![job.0.id, now.millis()])?;
    }
    Ok(Some(released))
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params};

    use super::{super::schema, LANES, find_sql};

    #[test]
    fn each_walk_goes_on_from_its_cursor_and_is_never_sorted() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        for ((work, condition), range) in LANES.into_iter().zip([
            "created_by=? AND id>?",
            "(created_by,id)>(?,?)",
            "created_by=? AND id>?",
            "(created_by,id)>(?,?)",
        ]) {
            let sql = format!("EXPLAIN QUERY PLAN {}", find_sql(work, condition));
            let mut statement = db.prepare(&sql).unwrap();
            let values = params!["http://a", 7, b"", "", 512];
            let steps = statement.query_map(values, |row| row.get::<_, String>("detail"));
            let steps: Vec<_> = steps.unwrap().map(Result::unwrap).collect();
            assert_eq!(steps.len(), 1, "{steps:?}");
            assert!(
                steps[0].ends_with(&format!("(origin=? AND {range})")),
                "{steps:?}"
            );
        }
    }
}
