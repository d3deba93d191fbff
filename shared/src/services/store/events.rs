//! The record of what went wrong with a job.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{attempts::KEPT, claim::Claim, rows};
use crate::models::{Event, EventKind, RequestId};

/// Records what happened to one claimed job.
pub(super) fn record(
    connection: &Connection,
    claim: &Claim,
    kind: EventKind,
    detail: Option<&str>,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO events (request_id, number, at, event, claim, detail)
             SELECT ?1, 1 + coalesce(max(number), 0), ?2, ?3, ?4, ?5
             FROM events WHERE request_id = ?1",
        )?
        .execute(params![
            claim.id.to_string(),
            rows::time(Timestamp::now()),
            kind.as_str(),
            claim.number,
            detail,
        ])?;
    // Each claim has one event at the most, so that there are none to forget before.
    if claim.number > KEPT.into() {
        connection
            .prepare_cached(
                "DELETE FROM events WHERE request_id = ?1 AND number <=
                     (SELECT max(number) FROM events WHERE request_id = ?1) - ?2",
            )?
            .execute(params![claim.id.to_string(), KEPT])?;
    }
    Ok(())
}

/// Records what happened to every job that `owner` holds.
pub(super) fn record_all(
    connection: &Connection,
    owner: &str,
    kind: EventKind,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO events (request_id, number, at, event, claim)
             SELECT id, 1 + (SELECT coalesce(max(number), 0) FROM events WHERE request_id = requests.id),
                    ?2, ?3, claim
             FROM requests WHERE work = 'PROCESSING' AND owner = ?1",
        )?
        .execute(params![owner, rows::time(Timestamp::now()), kind.as_str()])?;
    Ok(())
}

/// A job's record, in order.
pub(super) fn of(connection: &Connection, id: RequestId) -> rusqlite::Result<Vec<Event>> {
    connection
        .prepare_cached(
            "SELECT at, event, claim, detail FROM events WHERE request_id = ?1 ORDER BY number",
        )?
        .query_map([id.to_string()], |row| {
            Ok(Event {
                at: row.get(0)?,
                event: rows::parsed(row, 1)?,
                claim: row.get(2)?,
                detail: row.get(3)?,
            })
        })?
        .collect()
}
