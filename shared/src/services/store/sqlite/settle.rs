//! Writes under a claim. Each names its fencing token and changes nothing if the claim was lost.

use std::{sync::LazyLock, time::Duration};

use jiff::Timestamp;
use rusqlite::{Connection, ToSql, params, params_from_iter};

use super::{attempts, bodies, clock::StoreTime, columns, events, redelivery, state};
use crate::{
    models::{EventKind, Transition},
    services::store::{
        AttemptRecord, Claim, Outcome, Settlement, Work, Worked, delivered::delivered,
    },
};

/// How far ahead the `parked_at` of a job is that a pause has parked: longer than any pause.
const PAUSED: Duration = Duration::from_hours(100 * 365 * 24);

/// Stores what came of the work of a claimed job, and the attempt that it took, if it is recorded.
/// Returns whether the claim is held. A stored result is never replaced.
///
/// The callback's attempts are counted from there on.
pub(super) fn store_worked(
    tx: &Connection,
    claim: &Claim,
    worked: &Worked,
    attempt: Option<&AttemptRecord>,
) -> rusqlite::Result<bool> {
    let number = attempt.map(|attempt| attempt.number);
    let rows = match (claim.work, worked) {
        // It has its result.
        (Work::Redelivery, _) => update_held(tx, claim, "claim = claim", &[])?,
        (Work::Job, Ok(result)) => {
            let result = bodies::place_result(tx, claim, result.as_str())?;
            let set = format!(
                "result_payload = {}, {}",
                bodies::kept_result(4),
                work_done(5)
            );
            update_held(tx, claim, &set, &[&result, &number])?
        }
        (Work::Job, Err(failure)) => {
            let set = format!(
                "failure_reason = iif(is_long, ?4, failure_reason),
                 failure_detail = iif(is_long, ?5, failure_detail), {}",
                work_done(6)
            );
            let (reason, detail) = (failure.reason.as_str(), &failure.detail);
            update_held(tx, claim, &set, &[&reason, detail, &number])?
        }
    };
    if let Some(attempt) = attempt.filter(|_| rows > 0) {
        attempts::record(tx, claim, attempt)?;
    }
    Ok(rows > 0)
}

/// SQL for the end of the work, whose last attempt is in the `n`th parameter: the callback's
/// attempts are counted from there on. Once the work is done, nothing changes.
fn work_done(n: usize) -> String {
    format!(
        "attempts = iif(is_long, coalesce(?{n}, attempts), attempts),
         attempts_before = iif(is_long, coalesce(?{n}, attempts), attempts_before), is_long = 0"
    )
}

/// Sets columns of a job or redelivery that stays claimed.
fn update_held(
    tx: &Connection,
    claim: &Claim,
    set: &str,
    values: &[&dyn ToSql],
) -> rusqlite::Result<usize> {
    let sql = format!(
        "UPDATE {} SET {set} WHERE {} AND {}",
        state::table(claim.work),
        state::IS_CLAIMED,
        state::IS_HELD
    );
    write(tx, claim, &sql, values)
}

/// SQL that keeps the result in the `n`th parameter, unless one is stored. A redelivery has its
/// result.
fn keep_result(work: Work, n: usize) -> String {
    match work {
        // A job whose work is done is not long any more.
        Work::Job => format!(
            ", result_payload = {}, is_long = is_long AND ?{n} IS NULL",
            bodies::kept_result(n)
        ),
        Work::Redelivery => String::new(),
    }
}

/// Runs `update`, whose parameters are those of [`state::IS_HELD`] and then `values`, of which the
/// last is left out if the statement has no place for it. Returns the number of rows: none if the
/// claim was lost.
fn write(
    tx: &Connection,
    claim: &Claim,
    update: &str,
    values: &[&dyn ToSql],
) -> rusqlite::Result<usize> {
    let (id, owner) = (claim.id.to_string(), claim.owner.to_string());
    let held: [&dyn ToSql; 3] = [&id, &owner, &claim.number];
    let mut statement = tx.prepare_cached(update)?;
    let all = held.iter().chain(values).take(statement.parameter_count());
    statement.execute(params_from_iter(all))
}

/// What the end of a claim stores beside its settlement. Made before the write is queued: no other
/// write has to wait for it.
pub(super) struct Texts {
    ended_at: String,
    /// The attempt, if it goes into the job's row.
    delivered: Option<String>,
}

impl Texts {
    /// Those of a settlement that is made now.
    pub(super) fn of(claim: &Claim, settlement: &Settlement) -> Self {
        let last = match settlement {
            Settlement::Finish { attempt, .. } => attempt.as_ref(),
            _ => None,
        };
        Self {
            ended_at: columns::time(Timestamp::now()),
            delivered: last.and_then(|attempt| delivered(claim, attempt)),
        }
    }
}

/// Ends a claim at `now`, and stores the result with it, as JSON, unless one is stored. Returns
/// whether the claim was held.
pub(super) fn settle(
    tx: &Connection,
    claim: &Claim,
    result: Option<&str>,
    settlement: &Settlement,
    texts: &Texts,
    now: StoreTime,
) -> rusqlite::Result<bool> {
    let transition = settlement.transition();
    let result = result.map(|result| bodies::place_result(tx, claim, result));
    let result = result.transpose()?;
    let result = result.as_deref();
    let rows = match settlement {
        Settlement::Finish { attempt, outcome } => {
            let number = attempt.as_ref().map(|attempt| attempt.number);
            finish(tx, claim, result, number, outcome, texts, now)?
        }
        Settlement::Retry { attempt, wait } => {
            // `lost_claims = 0`: an attempt with a known outcome clears the job of suspicion.
            let set = "lost_claims = 0, attempts = ?5, parked_at = NULL, due = ?4";
            let due = now.after(*wait).millis();
            put_back(
                tx,
                claim,
                transition,
                set,
                &[&due, &attempt.number, &result],
            )?
        }
        Settlement::Park { wait } => {
            // Not `lost_claims = 0`: the attempt that may kill its worker was not made.
            // `coalesce(parked_at, …)`: parking again keeps the time of the first park.
            let set = "parks = parks + 1,
                 parked_at = min(coalesce(parked_at, ?5), ?5), due = ?4";
            let due = now.after(*wait).millis();
            put_back(tx, claim, transition, set, &[&due, &now.millis(), &result])?
        }
        Settlement::ParkPaused { wait } => {
            // However late the job is claimed, this time is not past, so none counts as parked.
            let set = "parks = parks + 1, parked_at = ?5, due = ?4";
            let (due, parked_at) = (now.after(*wait).millis(), now.after(PAUSED).millis());
            put_back(tx, claim, transition, set, &[&due, &parked_at, &result])?
        }
        Settlement::GiveBack => {
            put_back(tx, claim, transition, "due = ?4", &[&now.millis(), &result])?
        }
    };
    // A lost claim records nothing: the next owner repeats the attempt under the same number.
    if rows == 0 {
        return is_settled(tx, claim, settlement);
    }
    if let Some(attempt) = settlement.attempt().filter(|_| texts.delivered.is_none()) {
        attempts::record(tx, claim, attempt)?;
        if attempt.may_repeat() {
            let class = attempt.class.as_str();
            events::record(tx, claim, EventKind::AttemptFailed, Some(class))?;
        }
    }
    if *settlement == Settlement::GiveBack {
        events::record(tx, claim, EventKind::GivenBack, None)?;
    }
    Ok(true)
}

/// Whether this settlement has ended this claim already. The caller repeats it if it could not
/// learn the outcome of the first write.
///
/// A park and a release leave nothing by which they can be told from a lease expiry.
fn is_settled(tx: &Connection, claim: &Claim, settlement: &Settlement) -> rusqlite::Result<bool> {
    if let Some(attempt) = settlement.attempt() {
        return attempts::is_recorded(tx, claim, attempt.number);
    }
    if !matches!(settlement, Settlement::Finish { .. }) {
        return Ok(false);
    }
    // What a worker has ended keeps its name and its claim. A poison job has no owner.
    tx.prepare_cached(&format!(
        "SELECT count(*) FROM requests WHERE {} AND NOT {}",
        state::IS_HELD,
        state::IS_CLAIMED
    ))?
    .query_one(
        params![claim.id.to_string(), claim.owner.to_string(), claim.number],
        |row| row.get(0),
    )
}

/// Puts a job back into the table by `transition`. The last of `values` is its result.
fn put_back(
    tx: &Connection,
    claim: &Claim,
    transition: Transition,
    set: &str,
    values: &[&dyn ToSql],
) -> rusqlite::Result<usize> {
    let result = keep_result(claim.work, 3 + values.len());
    let set = format!("{set}{result}");
    let update = state::change(claim.work, transition, &set, state::IS_HELD);
    write(tx, claim, &update, values)
}

/// Ends a job or a redelivery, whose last attempt was number `attempts`.
fn finish(
    tx: &Connection,
    claim: &Claim,
    result: Option<&str>,
    attempts: Option<u32>,
    outcome: &Outcome,
    texts: &Texts,
    now: StoreTime,
) -> rusqlite::Result<usize> {
    if claim.work == Work::Redelivery {
        return redelivery::finish(tx, claim, attempts, outcome, now);
    }
    let failure = outcome.failure();
    let end = || {
        write(
            tx,
            claim,
            finish_sql(outcome),
            &[
                &texts.ended_at,
                &failure.map(|failure| failure.reason.as_str()),
                &failure.map(|failure| failure.detail.as_str()),
                &attempts,
                &result,
                &now.millis(),
                &texts.delivered,
            ],
        )
    };
    let rows = end()?;
    if rows == 0 && texts.delivered.is_some() && attempts::clear_delivered(tx, claim)? {
        return end();
    }
    Ok(rows)
}

/// SQL that ends a job, unless there is an attempt for its row, which has one already. Every job
/// needs it, so it is put together once.
fn finish_sql(outcome: &Outcome) -> &'static str {
    static COMPLETE: LazyLock<String> = LazyLock::new(|| sql(Transition::Complete));
    static FAIL: LazyLock<String> = LazyLock::new(|| sql(Transition::Fail));
    fn sql(transition: Transition) -> String {
        // `completed_at` is never before `created_at`, although the wall clock may have been set
        // back. `iif` and not `max`: a function makes `SQLite` journal the statement, as in
        // `state::change`.
        let set = format!(
            "completed_at = iif(?4 > created_at, ?4, created_at), {}, parked_at = NULL,
             is_long = 0, attempts = coalesce(?7, attempts), result_payload = {}, ended = ?9,
             delivered = coalesce(?10, delivered)",
            columns::failure_set("?5", "?6"),
            bodies::kept_result(8)
        );
        let has_room = format!("{} AND (?10 IS NULL OR delivered IS NULL)", state::IS_HELD);
        state::change(Work::Job, transition, &set, &has_room)
    }
    match outcome {
        Outcome::Completed => &COMPLETE,
        Outcome::Failed(_) => &FAIL,
    }
}
