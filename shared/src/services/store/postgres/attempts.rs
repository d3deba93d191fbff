//! The record of attempts: a row of `attempts` for each, but for the successful callback with which
//! a job ends. Most jobs have only that one, so it is in the row that their end writes anyway.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;

use super::{columns, error::Error, session::Session};
use crate::{
    models::{Attempt, AttemptClass, Stage},
    services::store::{AttemptRecord, Claim, Work, job::to_json},
};

/// The number of attempts, and of events, kept for one request; older ones are deleted. Without
/// this limit, repeated redelivery would grow the tables without bound.
pub(super) const KEPT: u32 = 1000;

/// What an attempt that is recorded again does: the number is only taken if the row was edited by
/// hand. That must not block the job.
pub(super) const REPLACE: &str = "ON CONFLICT (request_id, number) DO UPDATE SET
    started_at = excluded.started_at, duration_ms = excluded.duration_ms, stage = excluded.stage,
    class = excluded.class, status = excluded.status, error = excluded.error,
    internal_detail = excluded.internal_detail, claim = excluded.claim";

/// The column `delivered` of a job.
#[derive(Deserialize, Serialize)]
pub(super) struct Delivered<'a> {
    pub(super) number: u32,
    #[serde(borrow)]
    pub(super) started_at: Cow<'a, str>,
    pub(super) duration_ms: u32,
    pub(super) status: Option<u16>,
    /// The claim under which it was made.
    pub(super) claim: i64,
}

impl<'a> Delivered<'a> {
    /// `None` if an edit by hand has made the column invalid: that hides no other attempt.
    pub(super) fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

/// What the row of a job has of the attempt with which it ends, if that goes there.
pub(super) fn delivered(claim: &Claim, attempted: &AttemptRecord) -> Option<String> {
    let is_delivery = claim.work == Work::Job
        && attempted.stage == Stage::Callback
        && attempted.class == AttemptClass::Success
        && attempted.error.is_none()
        && attempted.internal_detail.is_none();
    is_delivery.then(|| {
        to_json(&Delivered {
            number: attempted.number,
            started_at: columns::shown(attempted.started_at).into(),
            duration_ms: duration_ms(attempted),
            status: attempted.status,
            claim: claim.number,
        })
    })
}

/// Records an attempt under the claim that made it, and deletes what is too old.
pub(super) async fn record(
    session: &Session,
    claim: &Claim,
    attempted: &AttemptRecord,
) -> Result<(), Error> {
    // Numbers are consecutive, so the newest one determines which are too old.
    let sql = format!(
        "WITH old AS (
             DELETE FROM attempts WHERE request_id = $1 AND number <= $2::integer - {KEPT})
         INSERT INTO attempts (request_id, number, started_at, duration_ms, stage, class, status,
             error, internal_detail, claim)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) {REPLACE}"
    );
    let (error, internal_detail) = (
        attempted.error.as_deref().map(columns::text),
        attempted.internal_detail.as_deref().map(columns::text),
    );
    session
        .execute(
            &sql,
            &[
                (&claim.id.uuid(), Type::UUID),
                (&columns::number(attempted.number), Type::INT4),
                (&columns::stored(attempted.started_at), Type::TIMESTAMPTZ),
                (&i64::from(duration_ms(attempted)), Type::INT8),
                (&attempted.stage.as_str(), Type::TEXT),
                (&attempted.class.as_str(), Type::TEXT),
                (&attempted.status.map(i32::from), Type::INT4),
                (&error, Type::TEXT),
                (&internal_detail, Type::TEXT),
                (&claim.number, Type::INT8),
            ],
        )
        .await
        .map(drop)
}

pub(super) fn duration_ms(attempted: &AttemptRecord) -> u32 {
    // A deadline has 30 days at most, which fit. Only a suspended process takes longer.
    u32::try_from(attempted.duration.as_millis()).unwrap_or(u32::MAX)
}

/// The `attempts` of a request, in order, with the one that its row has.
pub(super) fn with_delivered(mut attempts: Vec<Attempt>, delivered: Option<&str>) -> Vec<Attempt> {
    let Some(delivered) = delivered.and_then(Delivered::parse) else {
        return attempts;
    };
    let number = delivered.number;
    let at = attempts.partition_point(|attempt| attempt.number < number);
    // The same number is only taken if the row was edited by hand.
    attempts.retain(|attempt| attempt.number != number);
    attempts.insert(
        at,
        Attempt {
            number,
            stage: Stage::Callback,
            started_at: delivered.started_at.into_owned(),
            duration_ms: delivered.duration_ms,
            class: AttemptClass::Success,
            status: delivered.status,
            error: None,
        },
    );
    // The table has deleted only what is too old of its own.
    let oldest = attempts
        .last()
        .map_or(0, |last| last.number.saturating_sub(KEPT));
    attempts.retain(|attempt| attempt.number > oldest);
    attempts
}
