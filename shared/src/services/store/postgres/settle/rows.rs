//! The settlements of a batch as the parameters of its statement.

use std::time::SystemTime;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    super::{columns, session::Parameter},
    End,
};
use crate::services::store::{
    AttemptRecord, Settlement, WorkResult,
    delivered::{self, duration_ms},
};

/// The settlements of a batch, column by column.
pub(super) struct Rows<'a> {
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
    pub(super) fn of(ends: &'a [End]) -> Self {
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
            numbers: all(ends, End::number),
            started_at: attempted(ends, |it| columns::stored(it.started_at)),
            durations: attempted(ends, |it| i64::from(duration_ms(it))),
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

    pub(super) fn parameters(&self) -> [Parameter<'_>; 20] {
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
    delivered::delivered(&end.claim, attempt.as_ref()?)
}
