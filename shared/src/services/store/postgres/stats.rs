//! Counts for operators, each bounded.

use tokio_postgres::Row;

use super::{
    columns,
    error::Error,
    oldest_due::oldest_due_age,
    session::{Session, Sessions},
    state::IS_CLAIMED,
};
use crate::services::store::{
    COUNTED, DestinationStats, FileStats, RequestStats, Stats, StoreError, WorkerStats,
};

/// The most destinations.
const DESTINATIONS: u32 = 10;

/// The most claimed rows whose owners are read.
const CLAIMED: u32 = 100_000;

/// Reads the counts of the store `id` in one snapshot.
pub(super) async fn read(sessions: &Sessions, id: &str) -> Result<Stats, StoreError> {
    sessions
        .snapshot(async |session| {
            Ok(Stats {
                store: id.to_owned(),
                counted_up_to: COUNTED,
                requests: requests(session).await?,
                workers: workers(session).await?,
                destinations: destinations(session, COUNTED, DESTINATIONS).await?,
                files: files(session).await?,
            })
        })
        .await
}

async fn requests(session: &Session) -> Result<RequestStats, Error> {
    let pending = format!(
        "SELECT count(*) AS pending, count(*) FILTER (WHERE {}) AS due FROM (
             (SELECT due FROM requests
              WHERE status = 'PENDING' AND NOT is_long AND lost_claims <= 0 LIMIT {COUNTED})
             UNION ALL
             (SELECT due FROM requests
              WHERE status = 'PENDING' AND is_long AND lost_claims <= 0 LIMIT {COUNTED})
             UNION ALL
             (SELECT due FROM requests
              WHERE status = 'PENDING' AND lost_claims > 0 LIMIT {COUNTED})
             LIMIT {COUNTED}) AS job",
        columns::is_due("due")
    );
    let row = session.find(&pending, &[]).await?;
    let of_pending = |column| match &row {
        Some(row) => Ok::<_, Error>(columns::count(row.try_get::<_, i64>(column)?)),
        None => Ok(0),
    };
    let (pending, due) = (of_pending("pending")?, of_pending("due")?);
    let suspects = count(
        session,
        "requests WHERE status = 'PENDING' AND lost_claims > 0",
    )
    .await?;
    let processing = count(session, "requests WHERE status = 'PROCESSING'").await?;
    let failed = count(session, "requests WHERE status = 'FAILED'").await?;
    let oldest_due = oldest_due_age(session).await?;
    Ok(RequestStats {
        pending,
        due,
        oldest_due_ms: oldest_due.and_then(|age| age.as_millis().try_into().ok()),
        suspects,
        processing,
        completed: completed(session, [pending, processing, failed]).await?,
        failed,
        redeliveries: count(session, "redeliveries").await?,
    })
}

/// Counts the `COMPLETED` requests. No index has them, which each job would have to pay for: they
/// are all but the `others`, which are counted.
async fn completed(session: &Session, others: [u32; 3]) -> Result<u32, Error> {
    if others.contains(&COUNTED) {
        // Nobody knows how many others there are: the rows have to be read.
        return count(session, "requests WHERE status = 'COMPLETED'").await;
    }
    let others: u32 = others.iter().sum();
    let all = count_up_to(session, "requests", others.saturating_add(COUNTED)).await?;
    Ok(all.saturating_sub(others))
}

/// Counts up to [`COUNTED`] rows.
async fn count(session: &Session, rows: &str) -> Result<u32, Error> {
    count_up_to(session, rows, COUNTED).await
}

async fn count_up_to(session: &Session, rows: &str, most: u32) -> Result<u32, Error> {
    let sql = format!("SELECT count(*) FROM (SELECT FROM {rows} LIMIT {most}) AS counted");
    let counted = session.find(&sql, &[]).await?;
    let counted = counted.map(|row| row.try_get::<_, i64>(0)).transpose()?;
    Ok(columns::count(counted.unwrap_or(0)))
}

async fn workers(session: &Session) -> Result<Vec<WorkerStats>, Error> {
    let claimed = ["requests", "redeliveries"]
        .map(|table| format!("(SELECT owner FROM {table} WHERE {IS_CLAIMED} LIMIT {CLAIMED})"));
    let sql = format!(
        "WITH held AS (
             SELECT owner, count(*) AS jobs FROM ({}) AS claimed GROUP BY owner)
         SELECT owner::text,
             floor(extract(epoch FROM now() - renewed_at) * 1000)::bigint AS age,
             coalesce(jobs, 0) AS jobs
         FROM workers LEFT JOIN held USING (owner) ORDER BY owner LIMIT 1000",
        claimed.join(" UNION ALL ")
    );
    let worker = |row: &Row| {
        let age: i64 = row.try_get("age")?;
        Ok(WorkerStats {
            owner: row.try_get("owner")?,
            heartbeat_age_ms: u64::try_from(age.max(0)).ok(),
            jobs: columns::count(row.try_get::<_, i64>("jobs")?),
        })
    };
    session.query(&sql, &[]).await?.iter().map(worker).collect()
}

/// The `most` destinations with the longest backlogs, by up to `counted` rows of each table.
pub(super) async fn destinations(
    session: &Session,
    counted: u32,
    most: u32,
) -> Result<Vec<DestinationStats>, Error> {
    let backlog = ["requests", "redeliveries"].map(|table| {
        format!(
            "(SELECT origin, created_by FROM {table}
              WHERE status = 'PENDING' AND claim > 0 AND origin IS NOT NULL LIMIT {counted})"
        )
    });
    let sql = format!(
        "SELECT created_by, origin, count(*) AS jobs FROM ({}) AS backlog
         GROUP BY origin, created_by ORDER BY jobs DESC, origin, created_by NULLS FIRST
         LIMIT {most}",
        backlog.join(" UNION ALL ")
    );
    let destination = |row: &Row| {
        Ok(DestinationStats {
            tenant: row.try_get("created_by")?,
            origin: row.try_get("origin")?,
            backlog: columns::count(row.try_get::<_, i64>("jobs")?),
        })
    };
    let rows = session.query(&sql, &[]).await?;
    rows.iter().map(destination).collect()
}

/// The size of the database. What is free in its files, and the server's log, are not known to a
/// client without special rights.
async fn files(session: &Session) -> Result<FileStats, Error> {
    let size = "SELECT pg_database_size(current_database())";
    let row = session.find(size, &[]).await?;
    let size = row.map(|row| row.try_get::<_, i64>(0)).transpose()?;
    Ok(FileStats {
        database_bytes: size.and_then(|size| size.try_into().ok()).unwrap_or(0),
        ..FileStats::default()
    })
}
