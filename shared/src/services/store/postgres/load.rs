//! The load: counts of unfinished jobs, and of those that each worker has ended.

use std::time::Duration;

use tokio_postgres::{Row, types::Type};

use super::{
    columns,
    error::Error,
    handlers,
    session::{Session, Sessions},
};
use crate::{
    models::{Destination, Origin, Status},
    services::store::{Ended, Load, OwnerId, StoreError},
};

/// The most tenants that are counted one by one: more than there can be tokens.
const MOST_TENANTS: usize = 2000;

/// Counts up to `$1` rows of `rows`, which have the columns of a request, by tenant and by whether
/// the job is long; and those of them that are due within `$2` milliseconds. Each row of the result
/// has the counts of all, too.
fn count(rows: &str) -> String {
    format!(
        "WITH counted AS MATERIALIZED (
             SELECT coalesce(created_by, '') AS tenant, is_long, count(*) AS jobs,
                 count(*) FILTER (WHERE {}) AS due
             FROM ({rows} LIMIT $1) AS counted GROUP BY 1, 2)
         SELECT tenant, is_long, jobs, due, (sum(jobs) OVER ())::bigint AS all_jobs,
             (sum(due) OVER ())::bigint AS all_due
         FROM counted ORDER BY tenant, is_long LIMIT {}",
        columns::is_due_within("due", 2),
        2 * MOST_TENANTS
    )
}

/// The `PENDING` jobs: the part of each index. But for the suspected poison jobs, which are few,
/// the index has all that is read.
const PENDING: &str = "
    (SELECT created_by, false AS is_long, due FROM requests
     WHERE status = 'PENDING' AND NOT is_long AND lost_claims <= 0 LIMIT $1)
    UNION ALL
    (SELECT created_by, true, due FROM requests
     WHERE status = 'PENDING' AND is_long AND lost_claims <= 0 LIMIT $1)
    UNION ALL
    (SELECT created_by, is_long, due FROM requests
     WHERE status = 'PENDING' AND lost_claims > 0 LIMIT $1)";

const PROCESSING: &str = "
    SELECT created_by, is_long, due FROM requests WHERE status = 'PROCESSING'";

/// Counts unfinished jobs, up to `most`, and those of them that are due within `grace`; those of
/// each handler, if `by_handler` is set.
pub(super) async fn load(
    sessions: &Sessions,
    most: usize,
    grace: Duration,
    by_handler: bool,
) -> Result<Load, StoreError> {
    // One snapshot: a job that is claimed between two statements would be counted twice.
    sessions
        .snapshot(async |session| load_of(session, (most, MOST_TENANTS), grace, by_handler).await)
        .await
}

async fn load_of(
    session: &Session,
    (most, most_tenants): (usize, usize),
    grace: Duration,
    by_handler: bool,
) -> Result<Load, Error> {
    let workers = "SELECT owner, ended, ended_long,
             EXISTS (SELECT 1 FROM pauses WHERE origin = '') AS is_paused
         FROM (VALUES (1)) AS one LEFT JOIN workers ON true";
    let (pending, workers) = tokio::join!(
        biased;
        count_in(session, PENDING, most, grace),
        session.query(workers, &[])
    );
    let mut load = Load::default();
    add(&mut load, &pending?, Status::Pending, most_tenants)?;
    let delayed = load.unfinished - load.waiting;
    let left = most.saturating_sub(load.unfinished);
    let (processing, others) = tokio::join!(
        biased;
        count_in(session, PROCESSING, left, grace),
        async {
            if by_handler {
                handlers::jobs(session, most, grace).await.map(Some)
            } else {
                Ok(None)
            }
        }
    );
    add(&mut load, &processing?, Status::Processing, most_tenants)?;
    if let Some(others) = others? {
        load.count_handlers(delayed, others);
    }
    for row in workers? {
        load.is_paused = row.try_get("is_paused")?;
        let Some(owner) = row.try_get("owner")? else {
            continue; // there is no worker
        };
        let count = |column| Ok::<_, Error>(u64::try_from(row.try_get::<_, i64>(column)?));
        let ended = Ended {
            jobs: count("ended")?.unwrap_or(0),
            long_jobs: count("ended_long")?.unwrap_or(0),
        };
        load.ended.insert(OwnerId::of(owner), ended);
    }
    Ok(load)
}

async fn count_in(
    session: &Session,
    rows: &str,
    most: usize,
    grace: Duration,
) -> Result<Vec<Row>, Error> {
    let (most, grace) = (columns::integer(most), columns::millis(grace));
    let parameters = [(&most as _, Type::INT8), (&grace as _, Type::INT8)];
    session.query(&count(rows), &parameters).await
}

/// Adds the counts of the jobs with a status. Past the most tenants, the others count together.
fn add(load: &mut Load, counted: &[Row], status: Status, most_tenants: usize) -> Result<(), Error> {
    let of = |row: &Row, column| {
        let stored: i64 = row.try_get(column)?;
        Ok::<_, Error>(usize::try_from(stored).unwrap_or(0))
    };
    let is_pending = status == Status::Pending;
    if let Some(row) = counted.first() {
        load.unfinished += of(row, "all_jobs")?;
        load.waiting += if is_pending { of(row, "all_due")? } else { 0 };
    }
    for row in counted {
        let tenant = columns::client(row.try_get("tenant")?);
        let known = load.tenants.len();
        if known >= most_tenants && !load.tenants.contains_key(&tenant) {
            continue;
        }
        let (jobs, due) = (of(row, "jobs")?, of(row, "due")?);
        let tenant = load.tenants.entry(tenant).or_default();
        tenant.unfinished += jobs;
        match row.try_get("is_long")? {
            _ if !is_pending => {}
            true => tenant.waiting_long += due,
            false => tenant.waiting_short += due,
        }
    }
    Ok(())
}

/// The destinations of the scheduled and parked jobs in `table`, by a skip scan; and of each the
/// number of its jobs, up to `$1`.
fn backlogs(table: &str) -> String {
    // A job without a callback has no origin and counts for none.
    let rows = format!(
        "SELECT origin, coalesce(created_by, '') AS tenant FROM {table}
         WHERE status = 'PENDING' AND claim > 0 AND origin IS NOT NULL"
    );
    let first = "ORDER BY origin, coalesce(created_by, '') LIMIT 1";
    format!(
        "WITH RECURSIVE found AS (
             ({rows} {first})
             UNION ALL
             SELECT next.* FROM found CROSS JOIN LATERAL (
                 {rows} AND (origin, coalesce(created_by, '')) > (found.origin, found.tenant)
                 {first}) AS next)
         SELECT origin, tenant, jobs FROM found CROSS JOIN LATERAL (
             SELECT count(*) AS jobs FROM (
                 {rows} AND origin = found.origin AND coalesce(created_by, '') = found.tenant
                 LIMIT $1) AS job) AS counted"
    )
}

/// Returns the destinations with a backlog of at least `most` scheduled or parked jobs.
pub(super) async fn destinations_over_limit(
    sessions: &Sessions,
    most: usize,
) -> Result<Vec<Destination>, StoreError> {
    let sql = format!(
        "SELECT origin, tenant
         FROM (({}) UNION ALL ({})) AS backlog
         GROUP BY origin, tenant HAVING sum(jobs) >= $1",
        backlogs("requests"),
        backlogs("redeliveries")
    );
    let most = columns::integer(most);
    sessions
        .snapshot(async |session| {
            let rows = session.query(&sql, &[(&most, Type::INT8)]).await?;
            let mut found = Vec::with_capacity(rows.len());
            for row in rows {
                let stored: &str = row.try_get("tenant")?;
                let tenant = columns::client(Some(stored));
                if tenant.is_none() && !stored.is_empty() {
                    continue; // edited by hand: nobody submits jobs under that name
                }
                let origin = Origin::stored(row.try_get("origin")?);
                found.push(Destination { tenant, origin });
            }
            Ok(found)
        })
        .await
}
