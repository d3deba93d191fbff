//! The lanes of due jobs: parts of indexes, each of which a search reads on its own.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{clock::StoreTime, columns};
use crate::services::store::{Candidate, Sought, Work};

/// A tenant as the tables have it: the bytes of the text, in whose order the index is. That of rows
/// without a client name comes first.
pub(super) type Tenant = Option<Vec<u8>>;

/// A part of an index of due jobs, which has the tenants in order, and for each its jobs by due
/// time.
#[derive(Clone, Copy)]
pub(super) enum Lane<'a> {
    /// Short reports, and all jobs whose work is done.
    Short,
    /// A redelivery has its result: it is never long.
    Redeliveries,
    /// Jobs whose work is to be done by a handler, as the column has it. Reports: long ones.
    Work(Option<&'a str>),
}

impl<'a> Lane<'a> {
    pub(super) const LONG: Self = Self::Work(None);

    /// Those in which a search looks.
    pub(super) fn of(sought: &'a Sought) -> Vec<Self> {
        match sought {
            Sought::Common => vec![Self::Short, Self::Redeliveries, Self::LONG],
            Sought::WorkOf(handler) => vec![Self::Work(columns::handler(handler))],
        }
    }

    /// All lanes: those of the `handlers` beside the common ones.
    pub(super) fn all(handlers: &'a [String]) -> impl Iterator<Item = Self> {
        let work = handlers.iter().map(|handler| Self::Work(Some(handler)));
        [Self::Short, Self::Redeliveries, Self::LONG]
            .into_iter()
            .chain(work)
    }

    /// SQL for the rows of the lane. `?1` is its handler.
    fn rows(self) -> &'static str {
        match self {
            Self::Short => {
                "requests INDEXED BY requests_by_status
                 WHERE status = 'PENDING' AND is_long = 0 AND mode = 'async' AND lost_claims <= 0
                   AND ?1 IS NULL"
            }
            Self::Redeliveries => {
                "redeliveries INDEXED BY redeliveries_by_status
                 WHERE status = 'PENDING' AND lost_claims <= 0 AND ?1 IS NULL"
            }
            Self::Work(_) => {
                "requests INDEXED BY requests_by_handler
                 WHERE status = 'PENDING' AND is_long = 1 AND mode = 'async' AND lost_claims <= 0
                   AND handler IS ?1"
            }
        }
    }

    fn due_sql(self) -> String {
        format!(
            "SELECT id, claim, lost_claims, due FROM {}
               AND created_by IS CAST(?2 AS TEXT) AND due <= ?3
             ORDER BY due LIMIT ?4",
            self.rows()
        )
    }

    fn next_tenant_sql(self, condition: &str) -> String {
        format!(
            "SELECT created_by, due FROM {} AND {condition} AND due IS NOT NULL
             ORDER BY created_by, due LIMIT 1",
            self.rows()
        )
    }

    fn next_due_sql(self) -> String {
        format!(
            "SELECT due FROM {} AND created_by IS CAST(?2 AS TEXT) AND due > ?3
             ORDER BY due LIMIT 1",
            self.rows()
        )
    }

    fn handler(self) -> Option<&'a str> {
        match self {
            Self::Short | Self::Redeliveries => None,
            Self::Work(handler) => handler,
        }
    }

    /// Whether its jobs need room for long reports.
    pub(super) fn is_long(self) -> bool {
        matches!(self, Self::Work(None))
    }

    fn work(self) -> Work {
        match self {
            Self::Short | Self::Work(_) => Work::Job,
            Self::Redeliveries => Work::Redelivery,
        }
    }

    /// Adds up to `most` tenants that have a job which is due at `now`: of those after `after`, if
    /// there is one, and up to `until`.
    pub(super) fn tenants(
        self,
        connection: &Connection,
        now: StoreTime,
        (after, until): (Option<&Tenant>, Option<&Tenant>),
        most: usize,
        found: &mut Vec<Tenant>,
    ) -> rusqlite::Result<()> {
        let most = found.len() + most;
        let mut after = after.cloned();
        while found.len() < most {
            let Some((tenant, due)) = self.next_tenant(connection, after.as_ref())? else {
                break;
            };
            if until.is_some_and(|until| tenant > *until) {
                break;
            }
            if due <= now.millis() {
                found.push(tenant.clone());
            }
            after = Some(tenant);
        }
        Ok(())
    }

    /// The first tenant after `after`, and when its first job is due. A skip scan: one step of the
    /// index for each tenant, however many jobs it has.
    pub(super) fn next_tenant(
        self,
        connection: &Connection,
        after: Option<&Tenant>,
    ) -> rusqlite::Result<Option<(Tenant, i64)>> {
        // A name that was edited by hand can be any bytes, and must not be met again and again.
        let first = |condition: &str, name: &[u8]| {
            connection
                .prepare_cached(&self.next_tenant_sql(condition))?
                .query_row(params![self.handler(), name], |row| {
                    Ok((columns::bytes(row, 0)?, row.get(1)?))
                })
                .optional()
        };
        if let Some(Some(name)) = after {
            return first("created_by > CAST(?2 AS TEXT)", name);
        }
        if after.is_none()
            && let Some(nameless) = first("created_by IS NULL AND ?2 = x''", b"")?
        {
            return Ok(Some(nameless));
        }
        first("created_by >= CAST(?2 AS TEXT)", b"")
    }

    /// The next due time after `now` among the jobs of the first `most` tenants: a step of the
    /// index or two for each.
    pub(super) fn next_due(
        self,
        connection: &Connection,
        most: usize,
        now: StoreTime,
    ) -> rusqlite::Result<Option<i64>> {
        let mut next = None;
        let mut after = None;
        for _ in 0..most {
            let Some((tenant, first)) = self.next_tenant(connection, after.as_ref())? else {
                break;
            };
            let due = if first > now.millis() {
                Some(first)
            } else {
                connection
                    .prepare_cached(&self.next_due_sql())?
                    .query_row(params![self.handler(), tenant, now.millis()], |row| {
                        row.get(0)
                    })
                    .optional()?
            };
            next = next.into_iter().chain(due).min();
            after = Some(tenant);
        }
        Ok(next)
    }

    /// Reads up to `limit` jobs of `tenant` that are due at `now`, with their due times.
    pub(super) fn due(
        self,
        connection: &Connection,
        tenant: &Tenant,
        limit: usize,
        now: StoreTime,
    ) -> rusqlite::Result<Vec<(i64, Candidate)>> {
        connection
            .prepare_cached(&self.due_sql())?
            .query_map(
                params![
                    self.handler(),
                    tenant,
                    now.millis(),
                    columns::integer(limit)
                ],
                |row| Ok((row.get(3)?, candidate(row, self.work())?)),
            )?
            .collect()
    }
}

pub(super) fn candidate(row: &Row<'_>, work: Work) -> rusqlite::Result<Candidate> {
    Ok(Candidate {
        id: columns::parsed(row, 0)?,
        work,
        claims: row.get(1)?,
        lost_claims: columns::count(row.get(2)?),
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params_from_iter, types::Value};

    use super::{super::schema, Lane};

    /// The steps by which `SQLite` reads the rows.
    fn plan(sql: &str) -> Vec<String> {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let values = vec![Value::Null; statement.parameter_count()];
        let steps = statement.query_map(params_from_iter(values), |row| row.get("detail"));
        steps.unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_search_steps_over_no_job_of_another_lane_and_sorts_nothing() {
        let short = "requests USING INDEX requests_by_status (status=? AND is_long=?";
        let redelivery = "redeliveries USING INDEX redeliveries_by_status (status=?";
        let work = "requests USING INDEX requests_by_handler (handler=?";
        for (lane, index) in [
            (Lane::Short, short),
            (Lane::Redeliveries, redelivery),
            (Lane::LONG, work),
            (Lane::Work(Some("pdf")), work),
        ] {
            let search = |columns| [format!("SEARCH {index} AND {columns})")];
            assert_eq!(plan(&lane.due_sql()), search("created_by=? AND due<?"));
            assert_eq!(plan(&lane.next_due_sql()), search("created_by=? AND due>?"));
            let next = |condition| plan(&lane.next_tenant_sql(condition));
            let after = search("created_by>?");
            assert_eq!(next("created_by > CAST(?2 AS TEXT)"), after);
            assert_eq!(next("created_by >= CAST(?2 AS TEXT)"), after);
            // `due > NULL`: not null.
            let nameless = search("created_by=? AND due>?");
            assert_eq!(next("created_by IS NULL AND ?2 = x''"), nameless);
        }
    }
}
