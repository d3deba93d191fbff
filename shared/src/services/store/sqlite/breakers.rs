//! What workers say of the circuit breakers of their handlers: `workers.breakers`.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Map, Value};

use super::{
    clock::{Clock, StoreTime},
    columns,
};
use crate::{
    models::HandlerName,
    services::store::{Breakers, OpenBreaker, OwnerId, breakers::Serving, job::to_json},
};

/// A worker that has sent no heartbeat for this long serves nothing, and what it has said of its
/// breakers is old: more than a hundred are missing. Other workers expire its lease, but the last
/// one may be gone.
const GONE: SignedDuration = SignedDuration::from_mins(1);

/// SQL for the JSON object of the breakers in a row of `workers`: null if the worker does not say,
/// or an edit by hand has made it no JSON.
const BREAKERS: &str = "iif(json_valid(breakers), breakers, NULL)";

/// SQL for what [`Serving`] has of each handler, by the workers that have sent a heartbeat since
/// the time in the first parameter. An integer is the store time of the probe.
fn select(condition: &str) -> String {
    format!(
        "SELECT served.value, count(DISTINCT owner),
                count(DISTINCT owner) FILTER (WHERE breaker.type = 'integer'),
                count(DISTINCT owner) FILTER (WHERE breaker.type = 'text'),
                count(DISTINCT owner) FILTER (WHERE {BREAKERS} IS NULL),
                min(breaker.value) FILTER (WHERE breaker.type = 'integer')
         FROM workers CROSS JOIN json_each({}) AS served
              LEFT JOIN json_each({BREAKERS}) AS breaker ON breaker.key = served.value
         WHERE served.type = 'text' AND renewed_at >= ?1 AND {condition} GROUP BY served.value",
        columns::SERVED
    )
}

/// Writes that these breakers of `owner`, and no others, are not closed at `now`. False if it has
/// no lease.
pub(super) fn report(
    connection: &Connection,
    owner: OwnerId,
    open: &[(HandlerName, OpenBreaker)],
    now: StoreTime,
) -> rusqlite::Result<bool> {
    let all: Map<_, _> = open
        .iter()
        .map(|(handler, breaker)| {
            let value = match breaker {
                OpenBreaker::Open { probe_in } => Value::from(now.after(*probe_in).millis()),
                OpenBreaker::HalfOpen => Value::from("half-open"),
            };
            (handler.to_string(), value)
        })
        .collect();
    let rows = connection.execute(
        "UPDATE workers SET breakers = ?2 WHERE owner = ?1",
        params![owner.to_string(), to_json(&all)],
    )?;
    Ok(rows > 0)
}

/// Those of all handlers that some worker serves.
pub(super) fn of_all(connection: &Connection, clock: &Clock) -> rusqlite::Result<Vec<Serving>> {
    connection
        .prepare_cached(&select("true"))?
        .query_map([gone_before()], |row| serving(row, clock))?
        .collect()
}

/// Those of one handler.
pub(super) fn of(
    connection: &Connection,
    handler: &str,
    clock: &Clock,
) -> rusqlite::Result<Serving> {
    let found = connection
        .prepare_cached(&select("served.value = ?2"))?
        .query_row([&*gone_before(), handler], |row| serving(row, clock))
        .optional()?;
    Ok(found.unwrap_or_default())
}

/// The heartbeats before this time, as they are stored, are too old.
fn gone_before() -> String {
    columns::time(
        Timestamp::now()
            .saturating_sub(GONE)
            .unwrap_or(Timestamp::MIN),
    )
}

fn serving(row: &Row<'_>, clock: &Clock) -> rusqlite::Result<Serving> {
    Ok(Serving {
        handler: columns::text(row, 0)?.unwrap_or_default(),
        workers: row.get(1)?,
        breakers: Breakers {
            open: row.get(2)?,
            half_open: row.get(3)?,
            unknown: row.get(4)?,
            until: shown(row.get(5)?, clock),
        },
    })
}

/// When a probe is due, by the wall clock of now; now, if it is due.
fn shown(due: Option<i64>, clock: &Clock) -> Option<Timestamp> {
    let due = due.map(StoreTime::stored)?;
    Some(clock.wall(due.max(clock.now())))
}
