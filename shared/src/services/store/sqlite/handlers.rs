//! What the handlers beside the report have to do.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    breakers,
    clock::{Clock, StoreTime},
};
use crate::{
    models::{HandlerName, Status},
    services::store::HandlerLoad,
};

/// The most handlers with jobs that are told apart: more than can be configured at a time.
const MOST: usize = 256;

/// The first handler after `?1` that has jobs whose work is to be done, and that no worker holds.
const NEXT_WAITING: &str = "SELECT handler FROM requests INDEXED BY requests_by_handler
     WHERE status = 'PENDING' AND is_long = 1 AND handler > ?1 ORDER BY handler LIMIT 1";

/// The same of those that workers hold.
const NEXT_RUNNING: &str = "SELECT handler FROM requests INDEXED BY requests_running
     WHERE status = 'PROCESSING' AND is_long = 1 AND handler > ?1 ORDER BY handler LIMIT 1";

/// Counts up to `?2` jobs of the handler `?1`, and those of them that are due at `?3`.
const COUNT_WAITING: &str = "SELECT count(*), count(*) FILTER (WHERE coalesce(due, 0) <= ?3)
     FROM (SELECT due FROM requests INDEXED BY requests_by_handler
           WHERE status = 'PENDING' AND is_long = 1 AND handler = ?1 LIMIT ?2)";

/// The same of those that workers hold.
const COUNT_RUNNING: &str = "SELECT count(*)
     FROM (SELECT 1 FROM requests INDEXED BY requests_running
           WHERE status = 'PROCESSING' AND is_long = 1 AND handler = ?1 LIMIT ?2)";

/// The handlers with jobs whose work is to be done, and that no worker holds.
pub(super) fn waiting(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    names(connection, NEXT_WAITING)
}

/// The names that `next` finds, by a skip scan: one step of the index for each.
fn names(connection: &Connection, next: &str) -> rusqlite::Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    let mut next = connection.prepare_cached(next)?;
    while found.len() < MOST {
        let last = found.last().map_or("", String::as_str);
        let Some(name) = next.query_row([last], |row| row.get(0)).optional()? else {
            break;
        };
        found.push(name);
    }
    Ok(found)
}

/// The jobs whose work each handler is to do at `now`: of each of them up to `most` that wait, and
/// as many that run.
pub(super) fn jobs(
    snapshot: &Connection,
    most: u32,
    now: StoreTime,
) -> rusqlite::Result<BTreeMap<HandlerName, HandlerLoad>> {
    let mut load: BTreeMap<HandlerName, HandlerLoad> = BTreeMap::new();
    for (status, next) in [
        (Status::Pending, NEXT_WAITING),
        (Status::Processing, NEXT_RUNNING),
    ] {
        for name in names(snapshot, next)? {
            // One that can't be parsed was edited by hand: nobody serves it.
            let Ok(handler) = name.parse() else { continue };
            let of_handler = load.entry(handler).or_default();
            if status == Status::Pending {
                let mut count = snapshot.prepare_cached(COUNT_WAITING)?;
                let (jobs, due) = count.query_one(params![name, most, now.millis()], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
                (of_handler.waiting, of_handler.due) = (jobs, due);
            } else {
                let mut count = snapshot.prepare_cached(COUNT_RUNNING)?;
                of_handler.running = count.query_one(params![name, most], |row| row.get(0))?;
            }
        }
    }
    Ok(load)
}

/// What each handler has to do now, by `clock`.
pub(super) fn load(
    connection: &Connection,
    clock: &Clock,
) -> rusqlite::Result<BTreeMap<HandlerName, HandlerLoad>> {
    // One snapshot: a job that is claimed between two statements would be counted twice.
    let snapshot = connection.unchecked_transaction()?;
    let mut load = jobs(&snapshot, HandlerLoad::MOST, clock.now())?;
    for serving in breakers::of_all(&snapshot, clock)? {
        if let Ok(handler) = serving.handler.parse() {
            let of_handler = load.entry(handler).or_default();
            (of_handler.workers, of_handler.breakers) = (serving.workers, serving.breakers);
        }
    }
    Ok(load)
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params_from_iter, types::Value};

    use super::{super::schema, COUNT_RUNNING, COUNT_WAITING, NEXT_RUNNING, NEXT_WAITING};

    /// The steps by which `SQLite` reads the table.
    fn plan(sql: &str) -> Vec<String> {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let values = vec![Value::Null; statement.parameter_count()];
        let steps = statement.query_map(params_from_iter(values), |row| row.get("detail"));
        let steps = steps.unwrap().map(Result::unwrap);
        steps
            .filter(|step: &String| step.contains(" requests") || step.contains("TEMP"))
            .collect()
    }

    #[test]
    fn the_jobs_of_a_handler_are_counted_in_one_index() {
        let search = |index: &str, name: &str| {
            [format!(
                "SEARCH requests USING COVERING INDEX {index} (handler{name}?)"
            )]
        };
        assert_eq!(plan(COUNT_WAITING), search("requests_by_handler", "="));
        assert_eq!(plan(NEXT_WAITING), search("requests_by_handler", ">"));
        assert_eq!(plan(COUNT_RUNNING), search("requests_running", "="));
        assert_eq!(plan(NEXT_RUNNING), search("requests_running", ">"));
    }
}
