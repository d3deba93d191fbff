//! The load: counts of unfinished jobs, and of those that each worker has ended.

use std::collections::hash_map::Entry;

use rusqlite::{Connection, OptionalExtension, params};

use super::{clock::StoreTime, columns, handlers, pause};
use crate::{
    models::{ClientName, Status},
    services::store::{Ended, Load, TenantLoad},
};

/// The most tenants that are counted one by one: more than there can be tokens.
const MOST_TENANTS: usize = 2000;

/// The first tenant from `?3` on, of those with jobs of a status, long or short ones.
const NEXT: &str = "SELECT created_by FROM requests INDEXED BY requests_by_status
     WHERE status = ?1 AND is_long = ?2 AND created_by >= CAST(?3 AS TEXT)
     ORDER BY created_by LIMIT 1";

/// Counts up to `?4` such jobs of the tenant `?3`, and those of them that are due at `?5`. Those of
/// the previous release can have no due time: they are due at once.
///
/// The index has all that is read. No row of `/sync` is in these states.
const COUNT: &str = "SELECT count(*), count(*) FILTER (WHERE coalesce(due, 0) <= ?5)
     FROM (SELECT due FROM requests INDEXED BY requests_by_status
           WHERE status = ?1 AND is_long = ?2 AND created_by IS CAST(?3 AS TEXT) LIMIT ?4)";

/// The same of all tenants from `?3` on.
const COUNT_REST: &str = "SELECT count(*), count(*) FILTER (WHERE coalesce(due, 0) <= ?5)
     FROM (SELECT due FROM requests INDEXED BY requests_by_status
           WHERE status = ?1 AND is_long = ?2 AND created_by >= CAST(?3 AS TEXT) LIMIT ?4)";

/// Counts unfinished jobs, up to `most`, and those of them that are due at `due`; those of each
/// handler, if `by_handler` is set.
pub(super) fn load(
    connection: &Connection,
    most: usize,
    due: StoreTime,
    by_handler: bool,
) -> rusqlite::Result<Load> {
    load_of(connection, (most, MOST_TENANTS), due, by_handler)
}

fn load_of(
    connection: &Connection,
    (most, most_tenants): (usize, usize),
    due: StoreTime,
    by_handler: bool,
) -> rusqlite::Result<Load> {
    // One snapshot: a job that is claimed between two statements would be counted twice.
    let snapshot = connection.unchecked_transaction()?;
    let mut load = Load {
        is_paused: pause::is_everything(&snapshot)?,
        ..Load::default()
    };
    let mut delayed = 0;
    for status in [Status::Pending, Status::Processing] {
        for is_long in [false, true] {
            let lane = Lane { status, is_long };
            lane.count(&snapshot, &mut load, (most, most_tenants), due)?;
        }
        if status == Status::Pending {
            delayed = load.unfinished - load.waiting;
        }
    }
    if by_handler {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let others = handlers::jobs(&snapshot, most, due)?;
        load.count_handlers(delayed, others);
    }
    let mut workers = snapshot.prepare_cached("SELECT owner, ended, ended_long FROM workers")?;
    let mut rows = workers.query([])?;
    while let Some(row) = rows.next()? {
        // A row that was edited by hand names no worker.
        if let Ok(owner) = columns::parsed(row, 0) {
            let (jobs, long_jobs): (i64, i64) = (row.get(1)?, row.get(2)?);
            let [jobs, long_jobs] =
                [jobs, long_jobs].map(|ended| u64::try_from(ended).unwrap_or(0));
            load.ended.insert(owner, Ended { jobs, long_jobs });
        }
    }
    Ok(load)
}

/// A part of the index, in which the tenants are in order.
#[derive(Clone, Copy)]
struct Lane {
    status: Status,
    is_long: bool,
}

impl Lane {
    /// Adds its jobs to `load`, by a skip scan: one step of the index for each tenant.
    fn count(
        self,
        snapshot: &Connection,
        load: &mut Load,
        (most, most_tenants): (usize, usize),
        due: StoreTime,
    ) -> rusqlite::Result<()> {
        let (status, is_long) = (self.status.as_str(), self.is_long);
        let mut next = snapshot.prepare_cached(NEXT)?;
        // The jobs without a client name come first.
        let mut tenant: Option<Vec<u8>> = None;
        for step in 0..=most_tenants {
            let is_last = step == most_tenants;
            let left = columns::integer(most.saturating_sub(load.unfinished));
            let sql = if is_last { COUNT_REST } else { COUNT };
            let (jobs, are_due): (i64, i64) = snapshot.prepare_cached(sql)?.query_one(
                params![status, is_long, tenant, left, due.millis()],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let [jobs, are_due] = [jobs, are_due].map(|jobs| usize::try_from(jobs).unwrap_or(0));
            load.unfinished += jobs;
            if self.status == Status::Pending {
                load.waiting += are_due;
            }
            if is_last {
                return Ok(());
            }
            if jobs > 0 {
                let known = load.tenants.len();
                let name = tenant.as_deref().and_then(client);
                match load.tenants.entry(name) {
                    Entry::Vacant(_) if known >= most_tenants => {}
                    entry => self.add(entry.or_default(), jobs, are_due),
                }
            }
            let from = tenant
                .as_ref()
                .map_or(Vec::new(), |name| [name, &b"\0"[..]].concat());
            let following = next
                .query_row(params![status, is_long, from], |row| columns::bytes(row, 0))
                .optional()?
                .flatten();
            // One that is no text, by an edit by hand, would be found again and again.
            if following.is_none() || following == tenant {
                return Ok(());
            }
            tenant = following;
        }
        Ok(())
    }

    /// Adds `jobs` of a tenant, and those of them that are `due`.
    fn add(self, tenant: &mut TenantLoad, jobs: usize, due: usize) {
        tenant.unfinished += jobs;
        match self.status {
            Status::Pending if self.is_long => tenant.waiting_long += due,
            Status::Pending => tenant.waiting_short += due,
            _ => {}
        }
    }
}

/// A name that can't be parsed was edited by hand, and counts as none.
fn client(name: &[u8]) -> Option<ClientName> {
    str::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params_from_iter, types::Value};

    use super::{
        super::{clock::StoreTime, schema},
        COUNT, COUNT_REST, NEXT, load_of,
    };
    use crate::models::RequestId;

    fn database() -> Connection {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        db
    }

    /// The steps by which `SQLite` counts, but for those within its memory.
    fn plan(sql: &str) -> Vec<String> {
        let db = database();
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let values = vec![Value::Null; statement.parameter_count()];
        let steps = statement.query_map(params_from_iter(values), |row| row.get("detail"));
        let steps = steps.unwrap().map(Result::unwrap);
        steps
            .filter(|step: &String| step.contains(" requests") || step.contains("TEMP"))
            .collect()
    }

    #[test]
    fn a_count_reads_the_entries_of_one_index_and_no_row() {
        let search = |tenant| {
            format!(
                "SEARCH requests USING COVERING INDEX requests_by_status \
                 (status=? AND is_long=? AND created_by{tenant}?)"
            )
        };
        assert_eq!(plan(COUNT), [search("=")]);
        assert_eq!(plan(NEXT), [search(">")]);
        assert_eq!(plan(COUNT_REST), [search(">")]);
    }

    #[test]
    fn past_the_most_tenants_the_others_count_together() {
        let db = database();
        for tenant in ["NULL", "'a'", "'b'", "'b'", "'c'"] {
            let id = RequestId::generate();
            db.execute_batch(&format!(
                "INSERT INTO requests (id, mode, status, input_payload, created_at, created_by, due)
                 VALUES ('{id}', 'async', 'PENDING', '{{}}', '', {tenant}, 7)"
            ))
            .unwrap();
        }
        let counted = |most_tenants| {
            let load = load_of(&db, (100, most_tenants), StoreTime::stored(7), false).unwrap();
            (load.unfinished, load.waiting, load.tenants.len())
        };
        for most_tenants in 1..=5 {
            assert_eq!(
                counted(most_tenants),
                (5, 5, most_tenants.min(4)),
                "{most_tenants}"
            );
        }
    }
}
