//! The answers to operators.

use serde::Serialize;
use serde_json::value::RawValue;
use storm_shared::{
    models::RequestId,
    services::store::{AuditRecord, Pause, Paused},
};
use warp::{http::StatusCode, reply::Response};

use super::json::json;

/// The pauses in force, as they are shown.
#[derive(Debug, Serialize)]
pub struct PausesShown<'a> {
    everything: Option<PauseShown<'a>>,
    origins: Vec<PauseShown<'a>>,
}

#[derive(Debug, Serialize)]
struct PauseShown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'a str>,
    since: &'a str,
    operator: &'a str,
}

impl<'a> PausesShown<'a> {
    /// Of these pauses.
    pub fn of(pauses: &'a [Pause]) -> Self {
        let mut shown = Self {
            everything: None,
            origins: Vec::new(),
        };
        for pause in pauses {
            let of = |origin| PauseShown {
                origin,
                since: &pause.since,
                operator: &pause.operator,
            };
            match &pause.what {
                Paused::Everything => shown.everything = Some(of(None)),
                Paused::Origin(origin) => shown.origins.push(of(Some(origin.as_str()))),
            }
        }
        shown
    }
}

/// `200` with the pauses in force.
pub fn pauses(pauses: &[Pause]) -> Response {
    json(StatusCode::OK, &PausesShown::of(pauses))
}

/// What a pause or a resumption means, which has `changed` something or not.
pub fn pause_message(what: &Paused, is_paused: bool, changed: bool) -> &'static str {
    match (what, is_paused) {
        (Paused::Everything, false) if !changed => "There was no pause of everything",
        (Paused::Origin(_), false) if !changed => "The origin was not paused",
        (Paused::Everything, true) => {
            "Everything is paused: no job is claimed. Jobs that run go on, and new ones are accepted"
        }
        (Paused::Everything, false) => {
            "Everything is resumed, except for the origins that are paused"
        }
        (Paused::Origin(_), true) => {
            "The origin is paused: after the workers' next heartbeat, no callback to it begins"
        }
        (Paused::Origin(_), false) => {
            "The origin is resumed: after the workers' next heartbeat, its callbacks continue"
        }
    }
}

/// `200` for a pause or a resumption, with whether it has `changed` anything.
pub fn pause_changed(what: &Paused, is_paused: bool, changed: bool) -> Response {
    #[derive(Serialize)]
    struct Body {
        changed: bool,
        message: &'static str,
    }

    let message = pause_message(what, is_paused, changed);
    json(StatusCode::OK, &Body { changed, message })
}

/// What an action has done to a page of requests.
#[derive(Clone, Debug, Serialize)]
pub struct Bulked {
    /// Whether it was only tried out.
    pub dry_run: bool,
    /// Requests that matched the filter.
    pub matched: usize,
    /// Those that were changed.
    pub changed: usize,
    /// Those that were not, or would not be.
    pub skipped: usize,
    /// Those that would be, of an action that was only tried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<RequestId>>,
    /// The cursor of the next page, if there may be one.
    pub cursor: Option<RequestId>,
}

/// `200` for a page of an action.
pub fn bulk(done: &Bulked) -> Response {
    json(StatusCode::OK, done)
}

/// A record of the audit, as it is shown.
#[derive(Debug, Serialize)]
pub struct AuditRecordShown<'a> {
    /// Later ones have greater numbers.
    pub number: i64,
    /// When it was, RFC 3339.
    pub at: &'a str,
    /// Who did it.
    pub operator: &'a str,
    /// What was done, in one word.
    pub action: &'a str,
    /// What it was done to: JSON.
    pub filter: &'a RawValue,
    /// How many requests it was for.
    pub matched: usize,
    /// How many of them it has changed.
    pub changed: usize,
    /// Whether it was only tried out.
    pub dry_run: bool,
}

impl<'a> AuditRecordShown<'a> {
    /// Of this record.
    pub fn of(record: &'a AuditRecord) -> Self {
        Self {
            number: record.number,
            at: &record.at,
            operator: &record.operator,
            action: &record.action,
            filter: &record.filter,
            matched: record.matched,
            changed: record.changed,
            dry_run: record.dry_run,
        }
    }
}

/// `200` with a page of the audit, whose largest size is `limit`.
pub fn audit(records: &[AuditRecord], limit: usize) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        records: Vec<AuditRecordShown<'a>>,
        next_cursor: Option<String>,
    }

    let last = records.last().filter(|_| records.len() == limit);
    let body = Body {
        next_cursor: last.map(|last| last.number.to_string()),
        records: records.iter().map(AuditRecordShown::of).collect(),
    };
    json(StatusCode::OK, &body)
}
