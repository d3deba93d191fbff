//! The statements of a claim, and the rows that they return.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use tokio_postgres::{Row, types::Type};

use super::super::{
    columns,
    error::Error,
    function::Function,
    state::{self, HAS_LEASE},
};
use crate::{
    models::Transition,
    services::store::{Candidate, Claim, OwnerId, Work, stored_job::StoredJob},
};

static JOBS: LazyLock<Function> = LazyLock::new(|| function("claim_jobs", Work::Job));
static REDELIVERIES: LazyLock<Function> =
    LazyLock::new(|| function("claim_redeliveries", Work::Redelivery));

/// The function that claims.
pub(in super::super) fn claim(work: Work) -> &'static Function {
    match work {
        Work::Job => &JOBS,
        Work::Redelivery => &REDELIVERIES,
    }
}

fn function(purpose: &str, work: Work) -> Function {
    const COLUMNS: &str = "is_paused boolean, repeats bigint, place bigint, claim bigint,
        attempts integer, attempts_before integer, parked_for bigint, input text, result text,
        target text, handler text, is_long boolean, traceparent text, created_by text,
        created_at timestamptz, failure_reason text, failure_detail text";
    let types = [
        Type::UUID,
        Type::UUID_ARRAY,
        Type::INT8_ARRAY,
        Type::INT8,
        Type::INT8,
    ];
    Function::new(purpose, &types, COLUMNS, &claim_sql(work))
}

/// SQL for a claim. Its rows are the jobs that are won, in order, or one without a job.
///
/// `pausable` locks the table and no row, which would be written for each claim. A row of `locked`
/// is won unless it does not fit: it counts for those behind it. `|| ''`: for a candidate, the
/// planner would read a whole index of the jobs of that status, while it believes that it is small.
pub(in super::super) fn claim_sql(work: Work) -> String {
    let (table, request) = (state::table(work), request(work));
    let (from, to) = (Transition::Claim.from(), Transition::Claim.to());
    let (also, with_request) = match work {
        Work::Job => (" AND it.mode = 'async'", ""),
        Work::Redelivery => ("", WITH_REQUEST),
    };
    let columns = columns_of(work, "(SELECT resumed FROM known)");
    format!(
        "WITH pausable AS (
             SELECT FROM store WHERE false FOR KEY SHARE
         ), known AS MATERIALIZED (
             SELECT resumed, EXISTS (SELECT FROM pauses WHERE origin = '') AS is_paused FROM store
         ), lease AS MATERIALIZED (
             SELECT repeats FROM workers WHERE owner = $1 AND {HAS_LEASE} FOR KEY SHARE
         ), locked AS MATERIALIZED (
             SELECT it.id, place,
                 coalesce({request}.input_bytes, 0) + coalesce({request}.result_bytes, 0) AS bytes
             FROM unnest($2, $3) WITH ORDINALITY AS candidate (id, claims, place)
             JOIN {table} AS it ON it.id = candidate.id {with_request}
             WHERE it.status || '' = '{from}' AND it.claim = candidate.claims{also}
               AND (SELECT repeats <= $5 FROM lease) AND NOT (SELECT is_paused FROM known)
             ORDER BY it.id
             FOR NO KEY UPDATE OF it SKIP LOCKED
         ), fitting AS (
             SELECT id, place
             FROM (SELECT *, sum(bytes) OVER (ORDER BY place) - bytes AS before FROM locked) AS sums
             WHERE before < $4
         ), claimed AS (
             UPDATE {table} AS it
             SET status = '{to}', claim = it.claim + 1, owner = $1, due = NULL
             FROM fitting AS candidate {with_request}
             WHERE it.id = candidate.id
             RETURNING {columns}
         )
         SELECT is_paused, repeats, claimed.*
         FROM known LEFT JOIN lease ON true LEFT JOIN claimed ON true
         ORDER BY place"
    )
}

pub(in super::super) fn won_sql(work: Work) -> String {
    let table = state::table(work);
    let status = Transition::Claim.to();
    let with_request = match work {
        Work::Job => "",
        Work::Redelivery => WITH_REQUEST,
    };
    let columns = columns_of(work, "(SELECT resumed FROM store)");
    format!(
        "SELECT {columns}
         FROM unnest($2, $3) WITH ORDINALITY AS candidate (id, claims, place)
         JOIN {table} AS it ON it.id = candidate.id {with_request}
         WHERE it.status || '' = '{status}' AND it.owner = $1
           AND it.claim = candidate.claims + 1
         ORDER BY place"
    )
}

/// SQL for the request of a redelivery, which an edit by hand may have deleted.
const WITH_REQUEST: &str = "LEFT JOIN requests AS request ON request.id = candidate.id";

/// The row that has the columns of a request.
const fn request(work: Work) -> &'static str {
    match work {
        Work::Job => "it",
        Work::Redelivery => "request",
    }
}

/// SQL for the columns that [`read`] reads. `resumed`: when everything was resumed last.
fn columns_of(work: Work, resumed: &str) -> String {
    let request = request(work);
    // While everything is paused, a parked job can't have its turn, and gets the whole time again.
    format!(
        "place, it.claim, it.attempts, it.attempts_before,
         (CASE WHEN it.parked_at < now()
               THEN extract(epoch FROM now() - greatest(it.parked_at, {resumed})) * 1000
               ELSE 0 END)::bigint AS parked_for,
         coalesce({request}.input_payload::text, '') AS input,
         {request}.result_payload::text AS result,
         coalesce({request}.callback_target, {request}.callback_url) AS target,
         {request}.handler, coalesce({request}.is_long, false) AS is_long, {request}.traceparent,
         {request}.created_by, {request}.created_at, {request}.failure_reason,
         {request}.failure_detail"
    )
}

/// The index of the candidate whose row this is; `None` if there is none.
pub(super) fn place(row: &Row) -> Result<Option<usize>, Error> {
    let place: Option<i64> = row.try_get("place")?;
    // It counts from 1.
    let at = place.map(|place| usize::try_from(place - 1));
    at.transpose()
        .map_err(|_| Error::Row(format!("no candidate has the place {place:?}")))
}

/// Reads the row of the candidate at `place`.
pub(super) fn read(
    row: &Row,
    owner: OwnerId,
    candidates: &[Candidate],
    place: usize,
) -> Result<StoredJob, Error> {
    let unknown = || Error::Row(format!("no candidate has the place {place}"));
    let Candidate { id, work, .. } = *candidates.get(place).ok_or_else(unknown)?;
    let bytes = |column: &str| -> Result<Option<Vec<u8>>, Error> {
        Ok(row
            .try_get::<_, Option<String>>(column)?
            .map(String::into_bytes))
    };
    let created_at: Option<SystemTime> = row.try_get("created_at")?;
    let parked_for: i64 = row.try_get("parked_for")?;
    Ok(StoredJob {
        claim: Claim {
            id,
            work,
            owner,
            number: row.try_get("claim")?,
        },
        attempts: columns::count(row.try_get::<_, i32>("attempts")?),
        attempts_before: columns::count(row.try_get::<_, i32>("attempts_before")?),
        parked_for: Duration::from_millis(u64::try_from(parked_for).unwrap_or(0)),
        input: bytes("input")?.unwrap_or_default(),
        result: bytes("result")?,
        target: bytes("target")?,
        handler: bytes("handler")?,
        is_long: row.try_get("is_long")?,
        traceparent: columns::traceparent(row.try_get("traceparent")?, id),
        created_by: columns::client(row.try_get("created_by")?),
        created_at: created_at.and_then(|at| at.try_into().ok()),
        failure: columns::failure(row)?,
    })
}
