//! The ends of claims. Each names its fencing token and changes nothing if the claim was lost.
//!
//! The settlements of jobs are gathered: one statement changes the rows of a batch, and records
//! their attempts and events. Those of redeliveries are few, and are a transaction each.

mod rows;

use std::sync::{Arc, LazyLock};

use tokio_postgres::types::Type;
use uuid::Uuid;

use self::rows::Rows;
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
    services::store::{Claim, Settlement, StoreError, WorkResult, delivered::KEPT},
};

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
    ORDER BY it.id FOR NO KEY UPDATE OF it
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

/// Which of these settlements are on record. Each is a search by a primary key: the planner would
/// make a set of the whole table out of `EXISTS`, if it expects many.
///
/// What a worker has ended keeps its name and its claim. A poison job has no owner. `delivered` is
/// compared as text: what an edit by hand has made of it is no error.
const RECORDED: &str = "
SELECT place
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::integer[])
    WITH ORDINALITY AS it (id, owner, claim, number, place)
WHERE CASE
    WHEN number IS NULL THEN
        (SELECT owner = it.owner AND claim = it.claim AND status <> 'PROCESSING'
         FROM requests WHERE id = it.id)
    ELSE
        coalesce(
            (SELECT claim = it.claim FROM attempts
             WHERE request_id = it.id AND number = it.number),
            (SELECT delivered ->> 'claim' = it.claim::text
                 AND delivered ->> 'number' = it.number::text
             FROM requests WHERE id = it.id))
    END";

/// Starts to gather the settlements of jobs. Each is told whether it has ended its claim.
pub(super) fn batches(sessions: &Arc<Sessions>) -> Batches<End, bool> {
    let run = {
        let sessions = Arc::clone(sessions);
        move |ends: Arc<[End]>| -> Running<bool> {
            let sessions = Arc::clone(&sessions);
            Box::pin(async move { settle_jobs(&sessions, &ends).await })
        }
    };
    Batches::start(sessions, super::IN_FLIGHT, run)
}

async fn settle_jobs(sessions: &Sessions, ends: &[End]) -> Result<Vec<bool>, Error> {
    let mut has_settled = vec![false; ends.len()];
    let rows = Rows::of(ends);
    for row in sessions.call(&SETTLE, &rows.parameters()).await? {
        columns::set(&mut has_settled, &row, true)?;
    }
    find_recorded(sessions, ends, &mut has_settled).await?;
    Ok(has_settled)
}

/// Finds which of `ends` have ended their claims before, of those that have not ended them now. The
/// caller repeats one whose outcome it could not learn.
///
/// A park and a release leave nothing by which they can be told from a lease expiry.
async fn find_recorded(
    sessions: &Sessions,
    ends: &[End],
    has_settled: &mut [bool],
) -> Result<(), Error> {
    let leaves_record = |end: &End| {
        matches!(&*end.settlement, Settlement::Finish { .. }) || end.settlement.attempt().is_some()
    };
    let places: Vec<usize> = (0..ends.len())
        .filter(|at| !has_settled[*at] && leaves_record(&ends[*at]))
        .collect();
    if places.is_empty() {
        return Ok(());
    }
    let unsettled: Vec<&End> = places.iter().map(|at| &ends[*at]).collect();
    let ids: Vec<Uuid> = unsettled.iter().map(|end| end.claim.id.uuid()).collect();
    let owners: Vec<Uuid> = unsettled.iter().map(|end| end.claim.owner.uuid()).collect();
    let claims: Vec<i64> = unsettled.iter().map(|end| end.claim.number).collect();
    let numbers: Vec<Option<i32>> = unsettled.iter().map(|end| end.number()).collect();
    let values: [Parameter<'_>; 4] = [
        (&ids, Type::UUID_ARRAY),
        (&owners, Type::UUID_ARRAY),
        (&claims, Type::INT8_ARRAY),
        (&numbers, Type::INT4_ARRAY),
    ];
    let mut is_recorded = vec![false; places.len()];
    for row in sessions.commit_one(RECORDED, &values).await? {
        columns::set(&mut is_recorded, &row, true)?;
    }
    for (at, is_recorded) in places.into_iter().zip(is_recorded) {
        has_settled[at] = is_recorded;
    }
    Ok(())
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
    let mut has_settled = [settled.await?];
    let recorded = find_recorded(sessions, &[end], &mut has_settled).await;
    recorded.map_err(|error| error.into_store(false))?;
    Ok(has_settled[0])
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
