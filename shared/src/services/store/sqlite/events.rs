//! The events of a job: failed attempts, lost claims, releases and resends, each a possible
//! duplicate delivery.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{
    columns,
    state::{self, IS_CLAIMED, IS_HELD},
};
use crate::{
    models::{Event, EventKind, RequestId},
    services::store::{Claim, OwnerId, Work, delivered::KEPT},
};

/// Records an event of one claimed job.
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
            columns::time(Timestamp::now()),
            kind.as_str(),
            claim.number,
            detail,
        ])?;
    // A claim has at most one event, so a row with at most `KEPT` claims has nothing to delete.
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

/// Records an event of every job that `owner` holds.
pub(super) fn record_all(
    connection: &Connection,
    owner: OwnerId,
    kind: EventKind,
) -> rusqlite::Result<()> {
    let (owner, now) = (owner.to_string(), columns::time(Timestamp::now()));
    for table in Work::ALL.map(state::table) {
        connection
            .prepare_cached(&format!(
                "INSERT INTO events (request_id, number, at, event, claim)
                 SELECT id, 1 + (SELECT coalesce(max(number), 0) FROM events WHERE request_id = held.id),
                        ?2, ?3, claim
                 FROM {table} AS held WHERE {IS_CLAIMED} AND owner = ?1"
            ))?
            .execute(params![owner, now, kind.as_str()])?;
        // As in `record`: no row with at most `KEPT` claims has anything to delete.
        connection
            .prepare_cached(&format!(
                "DELETE FROM events
                 WHERE request_id IN
                         (SELECT id FROM {table} WHERE {IS_CLAIMED} AND owner = ?1 AND claim > ?2)
                     AND number <= (SELECT max(number) FROM events AS later
                                    WHERE later.request_id = events.request_id) - ?2"
            ))?
            .execute(params![owner, KEPT])?;
    }
    Ok(())
}

/// Records that the callback of a claimed job is about to be sent once more within its attempt.
/// `count` is the number of such records under this claim, with this one: a repeat adds none.
/// Returns whether the claim is held.
///
/// A table of its own: a process of the previous release could not read this kind of event.
pub(super) fn record_resend(
    connection: &Connection,
    claim: &Claim,
    count: u32,
) -> rusqlite::Result<bool> {
    let id = claim.id.to_string();
    let owner = claim.owner.to_string();
    let is_held: bool = connection
        .prepare_cached(&format!(
            "SELECT count(*) FROM {} WHERE {IS_CLAIMED} AND {IS_HELD}",
            state::table(claim.work)
        ))?
        .query_one(params![id, owner, claim.number], |row| row.get(0))?;
    if !is_held {
        return Ok(false);
    }
    connection
        .prepare_cached(
            "INSERT INTO resends (request_id, number, at, claim)
             SELECT ?1, 1 + (SELECT coalesce(max(number), 0) FROM resends WHERE request_id = ?1),
                    ?3, ?2
             WHERE ?4 > (SELECT count(*) FROM resends WHERE request_id = ?1 AND claim = ?2)",
        )?
        .execute(params![
            id,
            claim.number,
            columns::time(Timestamp::now()),
            count
        ])?;
    connection
        .prepare_cached(
            "DELETE FROM resends WHERE request_id = ?1 AND number <=
                 (SELECT max(number) FROM resends WHERE request_id = ?1) - ?2",
        )?
        .execute(params![id, KEPT])?;
    Ok(true)
}

/// Reads the events of a job, in order. A resend comes before the event that ended its claim.
pub(super) fn of(connection: &Connection, id: RequestId) -> rusqlite::Result<Vec<Event>> {
    connection
        .prepare_cached(
            "SELECT at, event, claim, detail, 2 AS place, number FROM events WHERE request_id = ?1
             UNION ALL
             SELECT at, 'resent', claim, NULL, 1, number FROM resends WHERE request_id = ?1
             ORDER BY claim, place, number",
        )?
        .query_map([id.to_string()], |row| {
            Ok(Event {
                at: row.get(0)?,
                event: columns::parsed(row, 1)?,
                claim: row.get(2)?,
                detail: row.get(3)?,
            })
        })?
        .collect()
}
