//! Writes under a claim. Each names its fencing token and changes nothing if the claim was lost.

use jiff::Timestamp;
use rusqlite::{Connection, ToSql, params, params_from_iter};

use super::{
    attempts,
    clock::StoreTime,
    columns,
    columns::{set_work, where_held},
    events,
};
use crate::{
    models::{EventKind, Failure, Status},
    services::store::{Claim, Outcome, Settlement},
};

/// Stores the report of a claimed job, as JSON. Returns whether the claim is held. A stored report
/// is never replaced.
pub(super) fn store_result(tx: &Connection, claim: &Claim, result: &str) -> rusqlite::Result<bool> {
    let update = concat!(
        "UPDATE requests SET result_payload = coalesce(result_payload, ?4) ",
        where_held!()
    );
    Ok(write(tx, claim, update, &[&result])? > 0)
}

/// Runs `update`, whose parameters are those of [`where_held`] and then `values`. Returns the
/// number of rows: none if the claim was lost.
fn write(
    tx: &Connection,
    claim: &Claim,
    update: &str,
    values: &[&dyn ToSql],
) -> rusqlite::Result<usize> {
    let (id, owner) = (claim.id.to_string(), claim.owner.to_string());
    let held: [&dyn ToSql; 3] = [&id, &owner, &claim.number];
    let all = held.iter().chain(values);
    tx.prepare_cached(update)?.execute(params_from_iter(all))
}

/// Ends a claim at `now`, and stores the report with it, as JSON, unless one is stored. Returns
/// whether the claim was held.
pub(super) fn settle(
    tx: &Connection,
    claim: &Claim,
    result: Option<&str>,
    settlement: &Settlement,
    now: StoreTime,
) -> rusqlite::Result<bool> {
    let rows = match settlement {
        Settlement::Finish { attempt, outcome } => {
            let number = attempt.as_ref().map(|attempt| attempt.number);
            finish(tx, claim, result, number, outcome)?
        }
        Settlement::Retry { attempt, wait } => {
            retry(tx, claim, result, attempt.number, now.after(*wait))?
        }
        Settlement::Park { wait } => park(tx, claim, result, now, now.after(*wait))?,
        Settlement::GiveBack => give_back(tx, claim, result, now)?,
    };
    // A lost claim records nothing: the next owner repeats the attempt under the same number.
    if rows == 0 {
        return is_settled(tx, claim, settlement);
    }
    if let Some(attempt) = settlement.attempt() {
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
    let Settlement::Finish { outcome, .. } = settlement else {
        return Ok(false);
    };
    // A poison job is finished under its last claim, too, but with a reason of its own. A
    // redelivery that fails leaves a `COMPLETED` row as it was.
    let reason = failure(outcome).map(|failure| failure.reason.as_str());
    tx.prepare_cached(
        "SELECT count(*) FROM requests
         WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND work IN ('COMPLETED', 'FAILED')
             AND iif(?4 IS NULL, status = 'COMPLETED',
                     failure_reason IS ?4 OR (status = 'COMPLETED' AND attempts_before > 0))",
    )?
    .query_one(
        params![
            claim.id.to_string(),
            claim.owner.to_string(),
            claim.number,
            reason
        ],
        |row| row.get(0),
    )
}

fn failure(outcome: &Outcome) -> Option<&Failure> {
    match outcome {
        Outcome::Completed => None,
        Outcome::Failed(failure) => Some(failure),
    }
}

fn retry(
    tx: &Connection,
    claim: &Claim,
    result: Option<&str>,
    attempts: u32,
    due: StoreTime,
) -> rusqlite::Result<usize> {
    // `lost_claims = 0`: an attempt with a known outcome clears the job of suspicion.
    let update = concat!(
        "UPDATE requests SET ",
        set_work!("PENDING"),
        ", owner = NULL, lost_claims = 0, attempts = ?5, due = ?6,
         parked_at = NULL, result_payload = coalesce(result_payload, ?4) ",
        where_held!()
    );
    write(tx, claim, update, &[&result, &attempts, &due.millis()])
}

fn park(
    tx: &Connection,
    claim: &Claim,
    result: Option<&str>,
    now: StoreTime,
    due: StoreTime,
) -> rusqlite::Result<usize> {
    // `lost_claims = 0`: the job has run up to its delivery without harm to its worker.
    // `coalesce(parked_at, …)`: parking again keeps the time of the first park.
    let update = concat!(
        "UPDATE requests SET ",
        set_work!("PENDING"),
        ", owner = NULL, lost_claims = 0, due = ?5,
         parks = parks + 1, parked_at = coalesce(parked_at, ?6),
         result_payload = coalesce(result_payload, ?4) ",
        where_held!()
    );
    write(tx, claim, update, &[&result, &due.millis(), &now.millis()])
}

fn give_back(
    tx: &Connection,
    claim: &Claim,
    result: Option<&str>,
    now: StoreTime,
) -> rusqlite::Result<usize> {
    let update = concat!(
        "UPDATE requests SET ",
        set_work!("PENDING"),
        ", owner = NULL, due = ?5, result_payload = coalesce(result_payload, ?4) ",
        where_held!()
    );
    write(tx, claim, update, &[&result, &now.millis()])
}

fn finish(
    tx: &Connection,
    claim: &Claim,
    result: Option<&str>,
    attempts: Option<u32>,
    outcome: &Outcome,
) -> rusqlite::Result<usize> {
    let failure = failure(outcome);
    let status = failure.map_or(Status::Completed, |_| Status::Failed);
    // `due` is null since the claim. The search for redeliverable rows relies on that.
    // `completed_at` changes only with the status, and is never before `created_at`, although the
    // wall clock may have been set back. A `COMPLETED` row keeps its outcome: a failed
    // redelivery must not change it.
    let update = concat!(
        "UPDATE requests SET
             status = iif(status = 'COMPLETED', status, ?5),
             completed_at = iif(status IN ('COMPLETED', ?5), completed_at, max(?6, created_at)),
             failure_reason = iif(status = 'COMPLETED', failure_reason, ?7),
             failure_detail = iif(status = 'COMPLETED', failure_detail, ?8),
             redelivery = NULL, parked_at = NULL, attempts = coalesce(?9, attempts),
             result_payload = coalesce(result_payload, ?4) ",
        where_held!()
    );
    write(
        tx,
        claim,
        update,
        &[
            &result,
            &status.as_str(),
            &columns::time(Timestamp::now()),
            &failure.map(|failure| failure.reason.as_str()),
            &failure.map(|failure| failure.detail.as_str()),
            &attempts,
        ],
    )
}
