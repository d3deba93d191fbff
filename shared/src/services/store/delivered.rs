//! The successful callback with which a job ends: JSON in a column of its row. Most jobs have no
//! other attempt, and their end writes the row anyway.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::job::{AttemptRecord, Claim, Work, to_json};
use crate::models::{Attempt, AttemptClass, Stage};

/// The number of attempts, and of events, kept for one request; older ones are deleted. Without
/// this limit, repeated redelivery would grow the tables without bound.
pub(super) const KEPT: u32 = 1000;

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
            started_at: format!("{:.3}", attempted.started_at).into(),
            duration_ms: duration_ms(attempted),
            status: attempted.status,
            claim: claim.number,
        })
    })
}

/// How long an attempt took, as it is stored.
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
