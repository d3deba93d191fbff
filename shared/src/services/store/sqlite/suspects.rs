//! The suspected poison jobs that are due.

use rusqlite::Connection;

use super::{clock::StoreTime, columns, lanes::candidate, pause, state};
use crate::services::store::{Candidate, Work};

/// SQL for a job whose work a handler in the JSON array `?2` is to do.
const OF_HANDLER: &str = "mode = 'async' AND is_long = 1 AND handler IS NOT NULL
                      AND handler IN (SELECT value FROM json_each(?2))";

/// SQL for a job or redelivery whose receiver is not paused: otherwise a claim would only park it
/// again, and a suspect may take all slots for that.
const IS_CALLABLE: &str = "NOT EXISTS (SELECT 1 FROM pauses WHERE pauses.origin = found.origin)";

/// Reads up to `limit` suspected poison jobs that are due at `now`, fewest lost claims first. Of
/// those whose work is to be done, only reports, and jobs of the handlers in the JSON array
/// `served`.
pub(super) fn due(
    connection: &Connection,
    served: &str,
    limit: usize,
    now: StoreTime,
) -> rusqlite::Result<Vec<Candidate>> {
    if pause::is_everything(connection)? {
        return Ok(Vec::new());
    }
    let params = (columns::integer(limit), served, now.millis());
    let jobs = format!(
        "({OF_HANDLER} OR mode = 'async' AND (is_long = 0 OR handler IS NULL) AND {IS_CALLABLE})"
    );
    let redeliveries = format!("?2 IS NOT NULL AND {IS_CALLABLE}");
    let mut found = find(connection, Work::Job, &jobs, params)?;
    found.extend(find(connection, Work::Redelivery, &redeliveries, params)?);
    found.sort_by_key(|(due, suspect)| (suspect.lost_claims, *due));
    let suspects = found.into_iter().map(|(_, suspect)| suspect);
    Ok(suspects.take(limit).collect())
}

/// The same of those whose work is to be done by the handlers in the JSON array `served`, and that
/// were due at `then`.
pub(super) fn overdue(
    connection: &Connection,
    served: &str,
    limit: usize,
    then: StoreTime,
) -> rusqlite::Result<Vec<Candidate>> {
    if pause::is_everything(connection)? {
        return Ok(Vec::new());
    }
    let params = (columns::integer(limit), served, then.millis());
    let found = find(connection, Work::Job, OF_HANDLER, params)?;
    Ok(found.into_iter().map(|(_, suspect)| suspect).collect())
}

/// The suspects of `work` that `condition` allows, with their due times. The parameters are their
/// greatest number, the handlers served, and the moment at which they are due.
fn find(
    connection: &Connection,
    work: Work,
    condition: &str,
    params: (i64, &str, i64),
) -> rusqlite::Result<Vec<(Option<i64>, Candidate)>> {
    let table = state::table(work);
    connection
        // INDEXED BY: the planner would scan and sort every pending job.
        .prepare_cached(&format!(
            "SELECT id, claim, lost_claims, due FROM {table} AS found INDEXED BY {table}_suspects
             WHERE status = 'PENDING' AND lost_claims > 0 AND coalesce(due, 0) <= ?3
               AND {condition}
             ORDER BY lost_claims, due LIMIT ?1"
        ))?
        .query_map(params, |row| {
            Ok((row.get::<_, Option<i64>>(3)?, candidate(row, work)?))
        })?
        .collect()
}
