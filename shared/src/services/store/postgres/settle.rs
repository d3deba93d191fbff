//! Writes under a claim. Each names its fencing token and changes nothing if the claim was lost.
//!
//! The settlements of jobs are gathered: one statement changes the rows of a batch, and records
//! their attempts and events. Those of redeliveries are few, and are a transaction each.

use std::{
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    Sessions, attempts,
    batches::{Batches, Running},
    columns,
    error::Error,
    events, redelivery,
    session::{Parameter, Session},
    state::{self, IS_HELD, WORK_FAILED},
};
use crate::{
    models::{EventKind, Failure},
    services::store::{AttemptRecord, Claim, Settlement, StoreError, Work, WorkResult, Worked},
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
static SETTLE: LazyLock<String> = LazyLock::new(|| {
    format!(
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
        result_payload = coalesce(it.result_payload, new.result::json),
        is_long = it.is_long AND new.wait IS NOT NULL AND new.result IS NULL,
        completed_at = CASE WHEN new.wait IS NULL THEN greatest(now(), it.created_at)
                            ELSE it.completed_at END,
        ended = CASE WHEN new.wait IS NULL THEN now() ELSE it.ended END,
        failure_reason = CASE WHEN new.wait IS NOT NULL OR {WORK_FAILED} THEN it.failure_reason
                              ELSE new.reason END,
        failure_detail = CASE WHEN new.wait IS NOT NULL OR {WORK_FAILED} THEN it.failure_detail
                              ELSE new.detail END,
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
        REPLACE = attempts::REPLACE,
        KEPT = attempts::KEPT,
    )
});

/// Starts to gather the settlements of jobs. Each is told whether its claim was held.
pub(super) fn batches(sessions: &Arc<Sessions>) -> Batches<End, bool> {
    let of = Arc::clone(sessions);
    let run = move |ends: Arc<[End]>| -> Running<bool> {
        let sessions = Arc::clone(&of);
        Box::pin(async move { settle_jobs(&sessions, &ends).await })
    };
    Batches::start(sessions, super::IN_FLIGHT, run)
}

async fn settle_jobs(sessions: &Sessions, ends: &[End]) -> Result<Vec<bool>, Error> {
    let rows = Rows::of(ends);
    let settled = sessions.commit_one(&SETTLE, &rows.parameters()).await?;
    let mut is_held = vec![false; ends.len()];
    for row in settled {
        let place: i64 = row.try_get(0)?;
        let place = usize::try_from(place - 1).ok();
        if let Some(it) = place.and_then(|place| is_held.get_mut(place)) {
            *it = true;
        }
    }
    Ok(is_held)
}

/// The settlements of a batch, column by column.
struct Rows<'a> {
    ids: Vec<Uuid>,
    owners: Vec<Uuid>,
    claims: Vec<i64>,
    statuses: Vec<&'static str>,
    waits: Vec<Option<i64>>,
    parks: Vec<&'static str>,
    results: Vec<Option<&'a str>>,
    reasons: Vec<Option<&'static str>>,
    details: Vec<Option<String>>,
    delivered: Vec<Option<String>>,
    numbers: Vec<Option<i32>>,
    started_at: Vec<Option<SystemTime>>,
    durations: Vec<Option<i64>>,
    stages: Vec<Option<&'static str>>,
    classes: Vec<Option<&'static str>>,
    http_statuses: Vec<Option<i32>>,
    errors: Vec<Option<String>>,
    internal_details: Vec<Option<String>>,
    events: Vec<Option<&'static str>>,
    event_details: Vec<Option<&'static str>>,
}

impl<'a> Rows<'a> {
    fn of(ends: &'a [End]) -> Self {
        fn all<'a, T>(ends: &'a [End], of: impl Fn(&'a End) -> T) -> Vec<T> {
            ends.iter().map(of).collect()
        }
        fn attempted<'a, T>(
            ends: &'a [End],
            of: impl Fn(&'a AttemptRecord) -> T,
        ) -> Vec<Option<T>> {
            all(ends, |end| end.settlement.attempt().map(&of))
        }
        Self {
            ids: all(ends, |end| end.claim.id.uuid()),
            owners: all(ends, |end| end.claim.owner.uuid()),
            claims: all(ends, |end| end.claim.number),
            statuses: all(ends, |end| end.settlement.transition().to().as_str()),
            waits: all(ends, End::wait),
            parks: all(ends, End::park),
            results: all(ends, |end| end.result.as_ref().map(WorkResult::as_str)),
            reasons: all(ends, |end| Some(end.failure()?.reason.as_str())),
            details: all(ends, |end| Some(columns::text(&end.failure()?.detail))),
            delivered: all(ends, delivered),
            numbers: attempted(ends, |it| columns::number(it.number)),
            started_at: attempted(ends, |it| columns::stored(it.started_at)),
            durations: attempted(ends, |it| i64::from(attempts::duration_ms(it))),
            stages: attempted(ends, |it| it.stage.as_str()),
            classes: attempted(ends, |it| it.class.as_str()),
            http_statuses: all(ends, |end| end.settlement.attempt()?.status.map(i32::from)),
            errors: all(ends, |end| {
                end.settlement
                    .attempt()?
                    .error
                    .as_deref()
                    .map(columns::text)
            }),
            internal_details: all(ends, |end| {
                let detail = &end.settlement.attempt()?.internal_detail;
                detail.as_deref().map(columns::text)
            }),
            events: all(ends, |end| Some(end.event()?.0.as_str())),
            event_details: all(ends, |end| end.event()?.1),
        }
    }

    fn parameters(&self) -> [Parameter<'_>; 20] {
        [
            (&self.ids, Type::UUID_ARRAY),
            (&self.owners, Type::UUID_ARRAY),
            (&self.claims, Type::INT8_ARRAY),
            (&self.statuses, Type::TEXT_ARRAY),
            (&self.waits, Type::INT8_ARRAY),
            (&self.parks, Type::TEXT_ARRAY),
            (&self.results, Type::TEXT_ARRAY),
            (&self.reasons, Type::TEXT_ARRAY),
            (&self.details, Type::TEXT_ARRAY),
            (&self.delivered, Type::TEXT_ARRAY),
            (&self.numbers, Type::INT4_ARRAY),
            (&self.started_at, Type::TIMESTAMPTZ_ARRAY),
            (&self.durations, Type::INT8_ARRAY),
            (&self.stages, Type::TEXT_ARRAY),
            (&self.classes, Type::TEXT_ARRAY),
            (&self.http_statuses, Type::INT4_ARRAY),
            (&self.errors, Type::TEXT_ARRAY),
            (&self.internal_details, Type::TEXT_ARRAY),
            (&self.events, Type::TEXT_ARRAY),
            (&self.event_details, Type::TEXT_ARRAY),
        ]
    }
}

/// The attempt with which a job ends, if it goes into its row.
fn delivered(end: &End) -> Option<String> {
    let Settlement::Finish { attempt, .. } = &*end.settlement else {
        return None;
    };
    attempts::delivered(&end.claim, attempt.as_ref()?)
}

/// Settles a redelivery. Returns whether its claim was held.
pub(super) async fn settle_redelivery(session: &Session, end: &End) -> Result<bool, Error> {
    redelivery::lock(session, end.claim.id).await?;
    let attempt = end.settlement.attempt();
    // A lost claim records nothing: the next owner repeats the attempt under the same number.
    if !change_redelivery(session, end).await? {
        return Ok(false);
    }
    if let Settlement::Finish { outcome, .. } = &*end.settlement {
        redelivery::end(session, &[end.claim.id], Some(outcome)).await?;
    }
    if let Some(attempt) = attempt {
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
    let attempt = end.settlement.attempt();
    let number = attempt.map(|attempt| columns::number(attempt.number));
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

/// Whether this settlement has ended this claim already. The caller repeats it if it could not
/// learn the outcome of the first write.
///
/// A park and a release leave nothing by which they can be told from a lease expiry.
pub(super) async fn is_settled(sessions: &Sessions, end: &End) -> Result<bool, StoreError> {
    let id = (&end.claim.id.uuid() as _, Type::UUID);
    let owner = (&end.claim.owner.uuid() as _, Type::UUID);
    let claim = (&end.claim.number as _, Type::INT8);
    let found = match (&*end.settlement, end.settlement.attempt()) {
        (_, Some(attempt)) => {
            let number = (&columns::number(attempt.number) as _, Type::INT4);
            // Compared as text: what an edit by hand has made of the column is no error.
            let recorded = "SELECT 1 FROM attempts
                 WHERE request_id = $1 AND claim = $2 AND number = $3
                 UNION ALL
                 SELECT 1 FROM requests WHERE id = $1 AND delivered ->> 'claim' = $2::text
                   AND delivered ->> 'number' = $3::text";
            sessions.query(recorded, &[id, claim, number]).await?
        }
        (Settlement::Finish { .. }, None) => {
            // What a worker has ended keeps its name and its claim. A poison job has no owner.
            let ended = "SELECT 1 FROM requests
                 WHERE id = $1 AND owner = $2 AND claim = $3 AND status <> 'PROCESSING'";
            sessions.query(ended, &[id, owner, claim]).await?
        }
        _ => return Ok(false),
    };
    Ok(!found.is_empty())
}

/// Stores what came of the work of a claimed job, and the attempt that it took, if it is recorded.
/// Returns whether the claim is held. A stored result is never replaced.
///
/// The callback's attempts are counted from there on. Once the work is done, nothing changes.
pub(super) async fn store_worked(
    session: &Session,
    claim: &Claim,
    worked: &Worked,
    attempt: Option<&AttemptRecord>,
) -> Result<bool, Error> {
    let set = match (claim.work, worked) {
        // It has its result.
        (Work::Redelivery, _) => "claim = it.claim".to_owned(),
        (Work::Job, _) => "
            result_payload = coalesce(it.result_payload, $4::text::json),
            failure_reason = CASE WHEN it.is_long THEN coalesce($5, it.failure_reason)
                                  ELSE it.failure_reason END,
            failure_detail = CASE WHEN it.is_long THEN coalesce($6, it.failure_detail)
                                  ELSE it.failure_detail END,
            attempts = CASE WHEN it.is_long THEN coalesce($7, it.attempts) ELSE it.attempts END,
            attempts_before = CASE WHEN it.is_long THEN coalesce($7, it.attempts)
                                   ELSE it.attempts_before END,
            is_long = false"
            .to_owned(),
    };
    let sql = format!(
        "UPDATE {} AS it SET {set} WHERE {IS_HELD}",
        state::table(claim.work)
    );
    let result = worked.as_ref().ok().map(WorkResult::as_str);
    let reason = worked.as_ref().err().map(|failure| failure.reason.as_str());
    let detail = worked.as_ref().err();
    let detail = detail.map(|failure| columns::text(&failure.detail));
    let number = attempt.map(|attempt| columns::number(attempt.number));
    let (id, owner) = (claim.id.uuid(), claim.owner.uuid());
    let parameters: [Parameter<'_>; 7] = [
        (&id, Type::UUID),
        (&owner, Type::UUID),
        (&claim.number, Type::INT8),
        (&result, Type::TEXT),
        (&reason, Type::TEXT),
        (&detail, Type::TEXT),
        (&number, Type::INT4),
    ];
    let used = match claim.work {
        Work::Job => parameters.len(),
        Work::Redelivery => 3,
    };
    if session.execute(&sql, &parameters[..used]).await? == 0 {
        return Ok(false);
    }
    if let Some(attempt) = attempt {
        attempts::record(session, claim, attempt).await?;
    }
    Ok(true)
}
