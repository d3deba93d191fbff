//! What the live page shows of the workers and of backlogs.

use tokio_postgres::{Row, types::Type};

use super::{
    columns,
    error::Error,
    session::{Session, Sessions},
    state::HAS_LEASE,
    stats,
};
use crate::{
    models::WorkerReport,
    services::store::{Overview, StoreError, WorkerSeen},
};

/// Reads it in one snapshot.
pub(super) async fn read(sessions: &Sessions) -> Result<Overview, StoreError> {
    sessions
        .snapshot(async |session| {
            let (counted, most) = (Overview::COUNTED, Overview::DESTINATIONS);
            Ok(Overview {
                workers: workers(session).await?,
                destinations: stats::destinations(session, counted, most).await?,
            })
        })
        .await
}

async fn workers(session: &Session) -> Result<Vec<WorkerSeen>, Error> {
    // An edit by hand can make it as long as it likes.
    let sql = format!(
        "SELECT owner::text,
             floor(extract(epoch FROM now() - renewed_at) * 1000)::bigint AS age,
             CASE WHEN octet_length(report::text) <= $1 THEN report::text END AS report
         FROM workers WHERE {HAS_LEASE} ORDER BY workers.owner LIMIT {}",
        Overview::WORKERS
    );
    let most = columns::integer(WorkerReport::MAX_BYTES);
    let worker = |row: &Row| {
        let age: i64 = row.try_get("age")?;
        let report: Option<&str> = row.try_get("report")?;
        Ok(WorkerSeen {
            owner: row.try_get("owner")?,
            heartbeat_age_ms: u64::try_from(age.max(0)).ok(),
            report: report.and_then(WorkerReport::parse),
        })
    };
    let rows = session.query(&sql, &[(&most as _, Type::INT8)]).await?;
    rows.iter().map(worker).collect()
}
