//! The ends of claims. Each names its fencing token and changes nothing if the claim was lost.
//!
//! The settlements of jobs are gathered: one statement changes the rows of a batch, and records
//! their attempts and events. It passes the rows that another transaction has locked, and those are
//! tried again: the transaction of another program can take long, and delays only what it has
//! locked. The settlements of redeliveries are few, and are a transaction each.

mod found;
mod rows;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_postgres::types::Type;

use self::{
    found::{Found, look},
    rows::Rows,
};
use super::{
    Sessions, attempts,
    batches::{Batches, Running},
    columns,
    error::Error,
    events,
    function::Function,
    redelivery,
    session::{Parameter, Session},
    state::{self, IS_HELD},
};
use crate::{
    models::{EventKind, Failure},
    services::store::{Claim, Settlement, StoreError, Trouble, WorkResult, delivered::KEPT},
};

/// How long a settlement waits for a row that another transaction has locked.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two tries. Our own transactions hold a lock for some milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What became of a settlement in its batch.
pub(super) type Answer = Result<Found, StoreError>;

/// The end of a claim, and the result that comes with it.
#[derive(Clone)]
pub(super) struct End {
    claim: Claim,
    result: Option<WorkResult>,
    settlement: Arc<Settlement>,
}

impl End {
    pub(super) fn new(claim: Claim, result: Option<WorkResult>, settlement: Settlement) -> Self {
        Self {
            claim,
            result,
            settlement: Arc::new(settlement),
        }
    }

    /// The bytes of the bodies that it stores.
    pub(super) fn bytes(&self) -> usize {
        self.result
            .as_ref()
            .map_or(0, |result| result.as_str().len())
    }

    /// The time to the next claim; `None` if the job is over.
    fn wait(&self) -> Option<i64> {
        match &*self.settlement {
            Settlement::Finish { .. } => None,
            Settlement::Retry { wait, .. }
            | Settlement::Park { wait }
            | Settlement::ParkPaused { wait } => Some(columns::millis(*wait)),
            Settlement::GiveBack => Some(0),
        }
    }

    /// The number of the attempt that was made.
    fn number(&self) -> Option<i32> {
        let attempt = self.settlement.attempt()?;
        Some(columns::number(attempt.number))
    }

    /// What becomes of the time since which it has been parked.
    fn park(&self) -> &'static str {
        match &*self.settlement {
            Settlement::Finish { .. } | Settlement::Retry { .. } => "ends",
            Settlement::GiveBack => "goes on",
            Settlement::Park { .. } => "begins",
            Settlement::ParkPaused { .. } => "pauses",
        }
    }

    fn failure(&self) -> Option<&Failure> {
        match &*self.settlement {
            Settlement::Finish { outcome, .. } => outcome.failure(),
            _ => None,
        }
    }

    /// The event to record with it, and its detail.
    fn event(&self) -> Option<(EventKind, Option<&'static str>)> {
        match &*self.settlement {
            Settlement::GiveBack => Some((EventKind::GivenBack, None)),
            other => {
                let attempt = other.attempt().filter(|attempt| attempt.may_repeat())?;
                Some((EventKind::AttemptFailed, Some(attempt.class.as_str())))
            }
        }
    }
}

/// SQL for what every settlement changes in its row `it`, by the row `new` of its settlement.
///
/// `lost_claims`: an attempt with a known outcome clears a job of suspicion. A park does not: the
/// attempt that may kill its worker was not made.
///
/// `parked_at`: parking again keeps the time of the first park. After a pause it is so far ahead
/// that, however late the job is claimed, none of its time counts as parked.
const SET: &str = "
    due = now() + new.wait * interval '1 millisecond',
    lost_claims = CASE WHEN new.wait IS NOT NULL AND new.number IS NOT NULL THEN 0
                       ELSE it.lost_claims END,
    attempts = coalesce(new.number, it.attempts),
    parks = it.parks + CASE WHEN new.park IN ('begins', 'pauses') THEN 1 ELSE 0 END,
    parked_at = CASE new.park WHEN 'goes on' THEN it.parked_at
                              WHEN 'begins' THEN least(coalesce(it.parked_at, now()), now())
                              WHEN 'pauses' THEN now() + interval '100 years' END";

/// Settles the jobs of a batch, and returns the places of those whose claim was held.
///
/// `delivered`: the row has room for one attempt. It has one already if the job had ended and was
/// put back by hand; then the next one goes into the table.
pub(super) static SETTLE: LazyLock<Function> = LazyLock::new(|| {
    let types = Rows::of(&[]).parameters().map(|(_, of_type)| of_type);
    let sql = format!(
        "
WITH new AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[],
        $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::integer[],
        $12::timestamptz[], $13::bigint[], $14::text[], $15::text[], $16::integer[], $17::text[],
        $18::text[], $19::text[], $20::text[])
    WITH ORDINALITY AS new (id, owner, claim, status, wait, park, result, reason, detail,
        delivered, number, started_at, duration_ms, stage, class, http_status, error,
        internal_detail, event, event_detail, place)
), held AS (
    SELECT it.id, new.place, it.delivered IS NOT NULL AS is_full
    FROM new JOIN requests AS it ON {is_held}
    ORDER BY it.id FOR NO KEY UPDATE OF it SKIP LOCKED
), settled AS (
    UPDATE requests AS it SET {SET}, status = new.status,
        owner = CASE WHEN new.wait IS NULL THEN it.owner END,
        result_payload = {kept_result},
        is_long = it.is_long AND new.wait IS NOT NULL AND new.result IS NULL,
        completed_at = CASE WHEN new.wait IS NULL THEN greatest(now(), it.created_at)
                            ELSE it.completed_at END,
        ended = CASE WHEN new.wait IS NULL THEN now() ELSE it.ended END,
        failure_reason = CASE WHEN new.wait IS NULL THEN {reason} ELSE it.failure_reason END,
        failure_detail = CASE WHEN new.wait IS NULL THEN {detail} ELSE it.failure_detail END,
        delivered = coalesce(it.delivered, new.delivered::json)
    FROM held JOIN new ON new.place = held.place
    WHERE it.id = held.id AND {is_held}
    RETURNING new.place, held.is_full
), attempted AS (
    INSERT INTO attempts (request_id, number, started_at, duration_ms, stage, class, status, error,
        internal_detail, claim)
    SELECT id, number, started_at, duration_ms, stage, class, http_status, error, internal_detail,
        claim
    FROM settled JOIN new ON new.place = settled.place
    WHERE number IS NOT NULL AND (delivered IS NULL OR is_full)
    {REPLACE}
    RETURNING request_id, number
), old_attempts AS (
    DELETE FROM attempts USING attempted
    WHERE attempts.request_id = attempted.request_id
      AND attempts.number <= attempted.number - {KEPT}
), happened AS (
    INSERT INTO events (request_id, number, at, event, claim, detail)
    SELECT id, 1 + (SELECT coalesce(max(number), 0) FROM events WHERE request_id = new.id), now(),
        event, claim, event_detail
    FROM settled JOIN new ON new.place = settled.place WHERE event IS NOT NULL
    RETURNING request_id, number
), old_events AS (
    DELETE FROM events USING happened
    WHERE events.request_id = happened.request_id AND events.number <= happened.number - {KEPT}
)
SELECT place FROM settled",
        is_held = "it.id = new.id AND it.owner = new.owner AND it.claim = new.claim
            AND it.status || '' = 'PROCESSING'",
        kept_result = state::kept_result("new.result"),
        reason = state::failed_for("it.failure_reason", "new.reason"),
        detail = state::failed_for("it.failure_detail", "new.detail"),
        REPLACE = attempts::REPLACE,
    );
    Function::new("settle", &types, "place bigint", &sql)
});

/// Starts to gather the settlements of jobs.
pub(super) fn batches(sessions: &Arc<Sessions>) -> Batches<End, Answer> {
    let run = {
        let sessions = Arc::clone(sessions);
        move |ends: Arc<[End]>| -> Running<Answer> {
            let sessions = Arc::clone(&sessions);
            Box::pin(async move { settle_jobs(&sessions, &ends).await })
        }
    };
    Batches::start(sessions, super::IN_FLIGHT, run)
}

/// Settles a job with others. Returns whether it has ended its claim. If the caller leaves while
/// another transaction has locked the row, nothing is changed.
///
/// # Errors
/// The write failed, or the row was locked for too long.
pub(super) async fn settle_job(
    settlements: &Batches<End, Answer>,
    end: End,
) -> Result<bool, StoreError> {
    let (until, mut pause) = (Instant::now() + PATIENCE, FIRST_PAUSE);
    loop {
        let written = settlements.write(end.clone(), end.bytes()).await;
        match written.flatten()? {
            Found::Ended => return Ok(true),
            Found::Lost => return Ok(false),
            Found::Locked if Instant::now() >= until => {
                return Err(StoreError::Failed {
                    trouble: Trouble::Busy,
                    message: "another transaction has locked the row of this job".into(),
                });
            }
            Found::Locked => {
                sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Settles a batch. An error is one of all its settlements.
async fn settle_jobs(sessions: &Sessions, ends: &[End]) -> Result<Vec<Answer>, Error> {
    let mut has_settled = vec![false; ends.len()];
    let rows = Rows::of(ends);
    for row in sessions.call(&SETTLE, &rows.parameters()).await? {
        columns::set(&mut has_settled, &row, true)?;
    }
    let mut answers: Vec<Answer> = vec![Ok(Found::Ended); ends.len()];
    let left: Vec<usize> = (0..ends.len()).filter(|at| !has_settled[*at]).collect();
    if left.is_empty() {
        return Ok(answers);
    }
    let others: Vec<&End> = left.iter().map(|at| &ends[*at]).collect();
    match look(sessions, &others).await {
        Ok(found) => {
            for (at, found) in left.into_iter().zip(found) {
                answers[at] = Ok(found);
            }
        }
        // The others are committed.
        Err(error) => {
            let error = error.into_store(true);
            for at in left {
                answers[at] = Err(error.clone());
            }
        }
    }
    Ok(answers)
}

/// Settles a redelivery. Returns whether it has ended its claim.
///
/// # Errors
/// The write failed.
pub(super) async fn settle_redelivery(
    sessions: &Arc<Sessions>,
    end: End,
) -> Result<bool, StoreError> {
    let settling = end.clone();
    let settled = sessions.write(move |session| {
        let end = settling.clone();
        async move { write_redelivery(&session, &end).await }
    });
    if settled.await? {
        return Ok(true);
    }
    let find = |sessions: Arc<Sessions>| async move { look(&sessions, &[&end]).await };
    let found = sessions.confirmed(find).await?;
    Ok(found.contains(&Found::Ended))
}

async fn write_redelivery(session: &Session, end: &End) -> Result<bool, Error> {
    redelivery::lock(session, end.claim.id).await?;
    // A lost claim records nothing: the next owner repeats the attempt under the same number.
    if !change_redelivery(session, end).await? {
        return Ok(false);
    }
    if let Settlement::Finish { outcome, .. } = &*end.settlement {
        redelivery::end(session, &[end.claim.id], Some(outcome)).await?;
    }
    if let Some(attempt) = end.settlement.attempt() {
        attempts::record(session, &end.claim, attempt).await?;
    }
    if let Some((kind, detail)) = end.event() {
        events::record(session, &end.claim, kind, detail).await?;
    }
    Ok(true)
}

/// Counts the attempt in the row of a redelivery, and puts it back unless it is over. Returns
/// whether the claim was held.
async fn change_redelivery(session: &Session, end: &End) -> Result<bool, Error> {
    let set = match &*end.settlement {
        // What it has counted goes to its request, and then it is deleted.
        Settlement::Finish { .. } => "attempts = coalesce(new.number, it.attempts)",
        _ => &format!("{SET}, status = 'PENDING', owner = NULL"),
    };
    let sql = format!(
        "UPDATE redeliveries AS it SET {set}
         FROM (SELECT $4::bigint AS wait, $5::text AS park, $6::integer AS number) AS new
         WHERE {IS_HELD}"
    );
    let number = end.number();
    let (id, owner) = (end.claim.id.uuid(), end.claim.owner.uuid());
    let (wait, park) = (end.wait(), end.park());
    let values: [Parameter<'_>; 6] = [
        (&id, Type::UUID),
        (&owner, Type::UUID),
        (&end.claim.number, Type::INT8),
        (&wait, Type::INT8),
        (&park, Type::TEXT),
        (&number, Type::INT4),
    ];
    Ok(session.execute(&sql, &values).await? > 0)
}

#[cfg(test)]
mod tests;
