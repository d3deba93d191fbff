//! The lanes of due jobs: parts of indexes, each of which a search reads on its own.

use std::time::{Duration, SystemTime};

use tokio_postgres::{Row, types::Type};

use super::{columns, error::Error, session::Session};
use crate::{
    models::RequestId,
    services::store::{Candidate, Sought, Work},
};

/// SQL for the tenant of a row, as the indexes have it: empty without a client name.
const TENANT: &str = "coalesce(created_by, '')";

/// SQL for a due time that no wait reaches: the server's clock was set back since. Such a job is
/// due, unless a pause has parked it, which says so by a `parked_at` in the future.
pub(super) const BEYOND_WAITS: &str =
    "due > now() + interval '60 days' AND coalesce(parked_at <= now(), true)";

/// A part of an index of due jobs, which has the tenants in order, and for each its jobs by due
/// time.
#[derive(Clone, Copy)]
pub(super) enum Lane<'a> {
    /// Short reports, and all jobs whose work is done.
    Short,
    /// A redelivery has its result: it is never long.
    Redeliveries,
    /// Jobs whose work is to be done by a handler, as the index has it. Reports: long ones.
    Work(&'a str),
}

impl<'a> Lane<'a> {
    /// Long reports.
    pub(super) const LONG: Self = Self::Work("");

    /// Those in which a search looks.
    pub(super) fn of(sought: &'a Sought) -> Vec<Self> {
        match sought {
            Sought::Common => vec![Self::Short, Self::Redeliveries, Self::LONG],
            Sought::WorkOf(handler) => vec![Self::Work(columns::handler(handler).unwrap_or(""))],
        }
    }

    /// SQL for the rows of the lane. `$1` is its handler.
    fn rows(self) -> &'static str {
        match self {
            Self::Short => {
                "requests
                 WHERE status = 'PENDING' AND NOT is_long AND lost_claims <= 0 AND mode = 'async'"
            }
            Self::Redeliveries => "redeliveries WHERE status = 'PENDING' AND lost_claims <= 0",
            Self::Work(_) => {
                "requests
                 WHERE status = 'PENDING' AND is_long AND lost_claims <= 0 AND mode = 'async'
                   AND coalesce(handler, '') = $1"
            }
        }
    }

    fn handler(self) -> &'a str {
        match self {
            Self::Short | Self::Redeliveries => "",
            Self::Work(handler) => handler,
        }
    }

    /// Whether its jobs need room for long reports.
    pub(super) fn is_long(self) -> bool {
        matches!(self, Self::Work(""))
    }

    fn work(self) -> Work {
        match self {
            Self::Short | Self::Work(_) => Work::Job,
            Self::Redeliveries => Work::Redelivery,
        }
    }

    /// Up to `most` tenants that have a job which has been due for `overdue_by`: of those after
    /// `last`, and then of the others.
    pub(super) async fn tenants(
        self,
        session: &Session,
        overdue_by: Duration,
        last: &str,
        most: usize,
    ) -> Result<Vec<String>, Error> {
        let (sql, handler) = (self.tenants_sql(), self.handler());
        // The first name after another one: it is longer by the least character.
        let after = format!("{last}\u{1}");
        let (overdue_by, most) = (columns::millis(overdue_by), columns::integer(most));
        let find = async |from: &str, until: Option<&str>| {
            let values = [
                (&handler as _, Type::TEXT),
                (&from as _, Type::TEXT),
                (&until as _, Type::TEXT),
                (&overdue_by as _, Type::INT8),
                (&most as _, Type::INT8),
            ];
            session.query(&sql, &values).await
        };
        let (after, others) = tokio::join!(find(&after, None), find("", Some(last)));
        let (after, others) = (after?, others?);
        let names = after.iter().chain(&others).map(|row| row.try_get(0));
        Ok(names.collect::<Result<_, _>>()?)
    }

    /// The tenants from `$2` on, up to `$3`. A skip scan: some steps of the index for each tenant,
    /// however many jobs it has. Not EXISTS: the planner would read all tenants' jobs for it.
    pub(super) fn tenants_sql(self) -> String {
        let rows = self.rows();
        let first = |condition: &str| {
            format!(
                "SELECT {TENANT} AS name, due FROM {rows} AND {condition}
                 ORDER BY {TENANT}, due LIMIT 1"
            )
        };
        let (from, next) = (
            first(&format!("{TENANT} >= $2")),
            first(&format!("{TENANT} > tenant.name")),
        );
        format!(
            "WITH RECURSIVE tenant AS (
                 ({from})
                 UNION ALL
                 SELECT next.* FROM tenant CROSS JOIN LATERAL ({next}) AS next
                 WHERE $3 IS NULL OR tenant.name < $3
             )
             SELECT name FROM tenant
             WHERE ($3 IS NULL OR name <= $3)
               AND (due <= now() - $4 * interval '1 millisecond'
                 OR (SELECT true FROM {rows} AND {TENANT} = name AND {BEYOND_WAITS} LIMIT 1))
             LIMIT $5"
        )
    }

    /// Reads up to `limit` jobs of each of the `tenants` that have been due for `overdue_by`: of
    /// those from its mark on, if it has one.
    pub(super) async fn due(
        self,
        session: &Session,
        overdue_by: Duration,
        tenants: &[String],
        marks: &[Option<SystemTime>],
        limit: usize,
    ) -> Result<Vec<Due>, Error> {
        let values = [
            (&self.handler() as _, Type::TEXT),
            (&tenants as _, Type::TEXT_ARRAY),
            (&marks as _, Type::TIMESTAMPTZ_ARRAY),
            (&columns::millis(overdue_by) as _, Type::INT8),
            (&columns::integer(limit) as _, Type::INT8),
        ];
        let rows = session.query(&self.due_sql(), &values).await?;
        let due = rows.iter().map(|row| {
            let place: i64 = row.try_get("place")?;
            Ok(Due {
                tenant: usize::try_from(place - 1).unwrap_or(0),
                since: row.try_get("due")?,
                candidate: candidate(row, self.work())?,
            })
        });
        due.collect()
    }

    pub(super) fn due_sql(self) -> String {
        let due = |condition: &str| {
            format!(
                "SELECT id, claim, lost_claims, due FROM {}
                   AND {TENANT} = tenant.name AND {condition}
                 ORDER BY due LIMIT $5",
                self.rows()
            )
        };
        let (due, beyond) = (
            due("due >= tenant.mark AND due <= now() - $4 * interval '1 millisecond'"),
            due(BEYOND_WAITS),
        );
        format!(
            "SELECT place, job.*
             FROM (SELECT name, coalesce(mark, '-infinity') AS mark, place
                   FROM unnest($2, $3) WITH ORDINALITY AS tenant (name, mark, place)) AS tenant
             CROSS JOIN LATERAL (({due}) UNION ALL ({beyond})) AS job"
        )
    }

    /// The time until the next job becomes due.
    pub(super) async fn next_due(self, session: &Session) -> Result<Option<Duration>, Error> {
        let of_handler = [(&self.handler() as _, Type::TEXT)];
        let next = session.find(&self.next_due_sql(), &of_handler).await?;
        wait(next.as_ref())
    }

    pub(super) fn next_due_sql(self) -> String {
        let rows = self.rows();
        let next = |condition: &str| {
            format!(
                "SELECT {TENANT} AS name FROM {rows} AND {condition}
                 ORDER BY {TENANT}, due LIMIT 1"
            )
        };
        let (from, next) = (
            next(&format!("{TENANT} >= ''")),
            next(&format!("{TENANT} > tenant.name")),
        );
        format!(
            "WITH RECURSIVE tenant AS (
                 ({from})
                 UNION ALL
                 SELECT next.* FROM tenant CROSS JOIN LATERAL ({next}) AS next
             )
             SELECT {WAIT} AS wait FROM tenant CROSS JOIN LATERAL (
                 SELECT due FROM {rows} AND {TENANT} = name AND due > now()
                 ORDER BY due LIMIT 1) AS next"
        )
    }
}

/// SQL for the time until the first `due`, in milliseconds.
pub(super) const WAIT: &str = "ceil(extract(epoch FROM
    min(due) FILTER (WHERE isfinite(due)) - now()) * 1000)::bigint";

/// Reads [`WAIT`]; `None` if nothing waits.
pub(super) fn wait(row: Option<&Row>) -> Result<Option<Duration>, Error> {
    let wait: Option<i64> = row.map(|row| row.try_get("wait")).transpose()?.flatten();
    Ok(wait.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))))
}

/// A job that is due.
pub(super) struct Due {
    /// The index of its tenant.
    pub(super) tenant: usize,
    pub(super) since: SystemTime,
    pub(super) candidate: Candidate,
}

pub(super) fn candidate(row: &Row, work: Work) -> Result<Candidate, Error> {
    Ok(Candidate {
        id: RequestId::of(row.try_get("id")?),
        work,
        claims: row.try_get("claim")?,
        lost_claims: columns::count(row.try_get::<_, i32>("lost_claims")?),
    })
}
