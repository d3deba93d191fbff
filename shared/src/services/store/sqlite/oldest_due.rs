//! How long the oldest due job has been due.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::{clock::StoreTime, handlers, lanes::Lane, state};
use crate::services::store::Work;

/// The most tenants of a lane that are looked at. There are no more tokens than this.
const MOST_TENANTS: usize = 1024;

/// How long the oldest due job has been due at `now`. A skip scan: a step of an index for each
/// tenant, and for each number of lost claims.
pub(super) fn oldest_due_age(
    connection: &Connection,
    now: StoreTime,
) -> rusqlite::Result<Option<Duration>> {
    let mut oldest: Option<i64> = None;
    let mut note = |due| {
        // 0 stands for a time that is over; nobody knows since when.
        if (1..=now.millis()).contains(&due) {
            oldest = Some(oldest.map_or(due, |oldest| oldest.min(due)));
        }
    };
    let handlers = handlers::waiting(connection)?;
    for lane in Lane::all(&handlers) {
        let mut after = None;
        for _ in 0..MOST_TENANTS {
            let Some((tenant, due)) = lane.next_tenant(connection, after.as_ref())? else {
                break;
            };
            note(due);
            after = Some(tenant);
        }
    }
    for work in Work::ALL {
        let mut lost_claims = 0;
        while let Some((more, due)) = next_suspects(connection, work, lost_claims)? {
            note(due);
            lost_claims = more;
        }
    }
    Ok(oldest.map(|due| now.since(StoreTime::stored(due))))
}

/// The fewest lost claims above `lost_claims` that a suspected poison job has, and when the first
/// such job became due.
fn next_suspects(
    connection: &Connection,
    work: Work,
    lost_claims: i64,
) -> rusqlite::Result<Option<(i64, i64)>> {
    let table = state::table(work);
    connection
        .prepare_cached(&format!(
            "SELECT lost_claims, due FROM {table} INDEXED BY {table}_suspects
             WHERE status = 'PENDING' AND lost_claims > 0 AND lost_claims > ?1 AND due IS NOT NULL
             ORDER BY lost_claims, due LIMIT 1"
        ))?
        .query_row([lost_claims], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}
