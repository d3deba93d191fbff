//! The suspected poison jobs that are due.

use std::time::{Duration, SystemTime};

use tokio_postgres::types::Type;

use super::{
    columns,
    error::Error,
    lanes::{BEYOND_WAITS, candidate},
    look,
    session::{Session, Sessions},
    state,
};
use crate::{
    models::HandlerName,
    services::store::{Candidate, StoreError, Work},
};

/// SQL for a job whose work one of the handlers `$2` is to do.
const OF_HANDLER: &str = "mode = 'async' AND is_long AND handler = ANY ($2)";

/// SQL for a job or redelivery whose receiver is not paused: otherwise a claim would only park it
/// again, and a suspect may take all slots for that.
const IS_CALLABLE: &str = "NOT EXISTS (SELECT FROM pauses WHERE pauses.origin = found.origin)";

/// Reads up to `limit` suspected poison jobs that are due, fewest lost claims first. Of those whose
/// work is to be done, only reports, and jobs of the handlers `served`.
pub(super) async fn due(
    sessions: &Sessions,
    served: &[HandlerName],
    limit: usize,
) -> Result<Vec<Candidate>, StoreError> {
    let jobs = format!(
        "({OF_HANDLER} OR mode = 'async' AND (NOT is_long OR handler IS NULL) AND {IS_CALLABLE})"
    );
    let sought = [
        (Work::Job, jobs),
        (
            Work::Redelivery,
            format!("$2 IS NOT NULL AND {IS_CALLABLE}"),
        ),
    ];
    find(sessions, &sought, served, Duration::ZERO, limit).await
}

/// The same of those whose work is to be done by the handlers `served`, and that have been due for
/// `overdue_by`.
pub(super) async fn overdue(
    sessions: &Sessions,
    served: &[HandlerName],
    overdue_by: Duration,
    limit: usize,
) -> Result<Vec<Candidate>, StoreError> {
    let sought = [(Work::Job, OF_HANDLER.to_owned())];
    find(sessions, &sought, served, overdue_by, limit).await
}

/// The suspects that are `sought`, each kind under its condition.
async fn find(
    sessions: &Sessions,
    sought: &[(Work, String)],
    served: &[HandlerName],
    overdue_by: Duration,
    limit: usize,
) -> Result<Vec<Candidate>, StoreError> {
    let served: Vec<&str> = served.iter().map(HandlerName::as_str).collect();
    let read = async |session: &Session| {
        let mut found = Vec::new();
        if look::begin(session).await?.is_none() {
            return Ok(found);
        }
        for (work, condition) in sought {
            found.extend(find_in(session, *work, condition, &served, overdue_by, limit).await?);
        }
        Ok(found)
    };
    let mut found = sessions.snapshot(read).await?;
    found.sort_by_key(|(due, suspect)| (suspect.lost_claims, *due));
    let suspects = found.into_iter().map(|(_, suspect)| suspect);
    Ok(suspects.take(limit).collect())
}

/// The suspects of `work` that `condition` allows, with their due times.
async fn find_in(
    session: &Session,
    work: Work,
    condition: &str,
    served: &[&str],
    overdue_by: Duration,
    limit: usize,
) -> Result<Vec<(SystemTime, Candidate)>, Error> {
    let values = [
        (&columns::integer(limit) as _, Type::INT8),
        (&served as _, Type::TEXT_ARRAY),
        (&columns::millis(overdue_by) as _, Type::INT8),
    ];
    let rows = session.query(&sql(work, condition), &values).await?;
    rows.iter()
        .map(|row| Ok((row.try_get("due")?, candidate(row, work)?)))
        .collect()
}

pub(super) fn sql(work: Work, condition: &str) -> String {
    format!(
        "SELECT id, claim, lost_claims, due FROM {} AS found
         WHERE status = 'PENDING' AND lost_claims > 0 AND {condition}
           AND (due <= now() - $3 * interval '1 millisecond' OR {BEYOND_WAITS})
         ORDER BY lost_claims, due LIMIT $1",
        state::table(work),
    )
}
