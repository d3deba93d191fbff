//! Parses the filter of `POST /admin/cancel` and `POST /admin/redeliver`.

use std::str::FromStr;

use serde_json::{Map, Value, json, value::RawValue};
use storm_shared::{
    models::{FailureReason, RequestId, Status},
    services::store::{BulkAction, Selection, SelectionPage},
};

use super::{
    admin::{each, is_true},
    faults::Faults,
    fields::{self, Members},
    query,
    values::{self, HANDLER},
};
use crate::reply::Problem;

/// The default and the largest page.
pub(super) const LIMIT: usize = 100;
pub(super) const MAX_LIMIT: usize = 1000;

/// The most ids.
pub(crate) const MAX_IDS: usize = 100;

const EXAMPLE: &str = r#"{"origin": "https://example.com", "dry_run": true}"#;

const KNOWN: &str = "`status`, `client`, `handler`, `origin`, `created_after`, `created_before`, \
                     `reason`, `ids`, `all`, `dry_run`, `limit` and `cursor`";

/// What an operator does to a page of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkForm {
    /// The page.
    pub page: SelectionPage,
    /// Its filter, as JSON for the record.
    pub filter: String,
    /// Whether it is only tried out.
    pub dry_run: bool,
}

/// Parses a body.
///
/// # Errors
/// 400 if it is not a JSON object; 422, with every fault, if its fields are invalid or it has no
/// filter.
pub fn bulk(action: BulkAction, body: &[u8]) -> Result<BulkForm, Problem> {
    let members: Members<'_> = fields::object(body, || Problem::no_object_such_as(EXAMPLE))?;
    let mut faults = Faults::default();
    let mut selection = Selection::default();
    let (mut all, mut dry_run, mut after, mut limit) = (None, None, None, None);
    each(&members, KNOWN, &mut faults, |name, value, faults| {
        match name {
            "status" => {
                let statuses = faults.keep(name, statuses(value, action));
                selection.statuses = statuses.unwrap_or_default();
            }
            "client" => selection.client = faults.keep(name, parsed(value, "a client's name")),
            "handler" => selection.handler = faults.keep(name, parsed(value, HANDLER)),
            "origin" => selection.origin = faults.keep(name, values::origin(value)),
            "created_after" => selection.created_after = faults.keep(name, time(value)),
            "created_before" => selection.created_before = faults.keep(name, time(value)),
            "reason" => {
                let reasons = FailureReason::ALL.map(|it| format!("\"{it}\"")).join(", ");
                selection.reason = faults.keep(name, parsed(value, &format!("one of {reasons}")));
            }
            "ids" => selection.ids = faults.keep(name, ids(value)).unwrap_or_default(),
            "all" => all = faults.keep(name, is_true(value)),
            "dry_run" => dry_run = faults.keep(name, boolean(value)),
            "limit" => limit = faults.keep(name, query::limit(value.get(), MAX_LIMIT)),
            "cursor" => {
                let cursor = parsed(value, "the `cursor` of the previous page");
                after = faults.keep(name, cursor);
            }
            _ => return false,
        }
        true
    });
    if let (Some(after), Some(before)) = (selection.created_after, selection.created_before)
        && after >= before
    {
        faults.add("created_after", "must be earlier than `created_before`");
    }
    if faults.0.is_empty() {
        check(&selection, all, &mut faults);
        if !selection.ids.is_empty() {
            // They are one page, however many there are.
            for (name, is_given) in [("limit", limit.is_some()), ("cursor", after.is_some())] {
                if is_given {
                    faults.add(name, "must be left out where `ids` is given");
                }
            }
        }
    }
    if !faults.0.is_empty() {
        return Err(query::problem(faults));
    }
    let filter = Value::Object(recorded(&selection)).to_string();
    // What succeeded is not sent again unless that is asked for.
    if action == BulkAction::Redeliver && selection.statuses.is_empty() && selection.ids.is_empty()
    {
        selection.statuses = vec![Status::Failed];
    }
    Ok(BulkForm {
        page: SelectionPage {
            action,
            selection,
            after,
            limit: limit.unwrap_or(LIMIT),
        },
        filter,
        dry_run: dry_run.unwrap_or(false),
    })
}

/// Nothing is done to all requests because a filter was forgotten.
fn check(selection: &Selection, all: Option<()>, faults: &mut Faults) {
    let has_filter = *selection != Selection::default();
    match all {
        None if !has_filter => faults.add(
            "all",
            "must be true if there is no filter; a filter is one of `status`, `client`, `handler`, \
             `origin`, `created_after`, `created_before`, `reason` and `ids`",
        ),
        Some(()) if has_filter => faults.add("all", "must be left out where there is a filter"),
        _ => {}
    }
}

/// A filter as it is recorded.
fn recorded(selection: &Selection) -> Map<String, Value> {
    let Selection {
        statuses,
        client,
        handler,
        origin,
        created_after,
        created_before,
        reason,
        ids,
    } = selection;
    let mut filter = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        filter.extend(value.map(|value| (name.to_owned(), value)));
    };
    put("status", (!statuses.is_empty()).then(|| json!(statuses)));
    put("client", client.as_ref().map(|it| json!(it.as_str())));
    put("handler", handler.as_ref().map(|it| json!(it.as_str())));
    put("origin", origin.as_ref().map(|it| json!(it.as_str())));
    put(
        "created_after",
        created_after.map(|it| json!(it.to_string())),
    );
    put(
        "created_before",
        created_before.map(|it| json!(it.to_string())),
    );
    put("reason", reason.map(|it| json!(it.as_str())));
    put("ids", (!ids.is_empty()).then(|| json!(ids)));
    if filter.is_empty() {
        filter.insert("all".to_owned(), json!(true));
    }
    filter
}

fn statuses(value: &RawValue, action: BulkAction) -> Result<Vec<Status>, String> {
    let accepted: &[Status] = match action {
        BulkAction::Cancel => &Status::ALL,
        BulkAction::Redeliver => &[Status::Completed, Status::Failed],
    };
    let words: Result<Vec<String>, _> = serde_json::from_str(value.get());
    let statuses = words.ok().and_then(|words| {
        let parse = |word: &String| word.parse().ok().filter(|it| accepted.contains(it));
        words.iter().map(parse).collect::<Option<Vec<Status>>>()
    });
    let names: Vec<_> = accepted.iter().map(|it| format!("\"{it}\"")).collect();
    statuses
        .filter(|statuses| (1..=accepted.len()).contains(&statuses.len()))
        .ok_or_else(|| format!("must be a list of some of {}, each once", names.join(", ")))
}

fn ids(value: &RawValue) -> Result<Vec<RequestId>, String> {
    let ids: Result<Vec<String>, _> = serde_json::from_str(value.get());
    let ids = ids.ok().filter(|ids| (1..=MAX_IDS).contains(&ids.len()));
    let ids = ids.and_then(|ids| ids.iter().map(|id| id.parse().ok()).collect());
    ids.ok_or_else(|| format!("must be a list of 1 to {MAX_IDS} ids of requests"))
}

/// A text that is `what`.
fn parsed<T: FromStr>(value: &RawValue, what: &str) -> Result<T, String> {
    let text = values::string(value, what)?;
    text.parse().map_err(|_| format!("must be {what}"))
}

fn time(value: &RawValue) -> Result<jiff::Timestamp, String> {
    query::time(&values::string(value, "a time of RFC 3339")?)
}

fn boolean(value: &RawValue) -> Result<bool, String> {
    serde_json::from_str(value.get()).map_err(|_| "must be true or false".to_owned())
}

#[cfg(test)]
mod tests {
    use storm_shared::{
        models::{FailureReason, Status},
        services::store::BulkAction,
    };

    use super::{super::faults::described, BulkForm, bulk};

    fn read(action: BulkAction, body: &str) -> BulkForm {
        bulk(action, body.as_bytes()).unwrap()
    }

    fn faults(action: BulkAction, body: &str) -> Vec<String> {
        described(&bulk(action, body.as_bytes()).unwrap_err())
    }

    #[test]
    fn a_filter_is_parsed_and_recorded_as_it_was_understood() {
        let body = r#"{"status": ["FAILED"], "client": "one", "handler": "pdf", "origin": "HTTPS://A.example:443",
            "created_after": "2026-11-24T09:00:00+01:00", "created_before": "2026-11-25T00:00:00Z",
            "reason": "callback_failed", "limit": 7, "dry_run": true,
            "cursor": "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42"}"#;
        let form = read(BulkAction::Redeliver, body);
        let selection = &form.page.selection;
        assert_eq!(selection.statuses, [Status::Failed]);
        assert_eq!(selection.reason, Some(FailureReason::CallbackFailed));
        assert_eq!((form.page.limit, form.dry_run), (7, true));
        assert!(form.page.after.is_some());
        assert_eq!(
            form.filter,
            r#"{"client":"one","created_after":"2026-11-24T08:00:00Z","created_before":"2026-11-25T00:00:00Z","handler":"pdf","origin":"https://a.example","reason":"callback_failed","status":["FAILED"]}"#
        );
    }

    #[test]
    fn a_forgotten_filter_is_no_filter_for_all() {
        for action in [BulkAction::Cancel, BulkAction::Redeliver] {
            for body in ["{}", r#"{"dry_run": true, "limit": 5}"#] {
                let faults = faults(action, body);
                assert!(faults[0].starts_with("all: must be true if there is no filter"));
            }
            let all = read(action, r#"{"all": true}"#);
            assert_eq!(
                (all.filter.as_str(), all.dry_run),
                (r#"{"all":true}"#, false)
            );
            assert_eq!(
                faults(action, r#"{"all": true, "client": "one"}"#),
                ["all: must be left out where there is a filter"]
            );
        }
    }

    #[test]
    fn what_succeeded_is_redelivered_only_if_it_is_named() {
        let statuses = |body| read(BulkAction::Redeliver, body).page.selection.statuses;
        assert_eq!(statuses(r#"{"client": "one"}"#), [Status::Failed]);
        assert_eq!(
            statuses(r#"{"status": ["COMPLETED"]}"#),
            [Status::Completed]
        );
        let id = r#"{"ids": ["0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42"]}"#;
        assert_eq!(statuses(id), []);
        let all = read(BulkAction::Cancel, r#"{"all": true}"#);
        assert_eq!(all.page.selection.statuses, []);
    }

    #[test]
    fn every_fault_is_reported_with_what_is_accepted() {
        let body = r#"{"status": "FAILED", "client": "a b", "handler": "Pdf", "origin": "a.example", "reason": "bad",
            "ids": [], "dry_run": 1, "limit": 1001}"#;
        assert_eq!(
            faults(BulkAction::Redeliver, body),
            [
                "status: must be a list of some of \"COMPLETED\", \"FAILED\", each once",
                "client: must be a client's name",
                "handler: must be the name of a handler, such as `report`",
                "origin: must be scheme, host and port, such as `https://hooks.example`",
                "reason: must be one of \"sync_timeout\", \"client_gone\", \"callback_refused\", \
                 \"callback_failed\", \"shut_down\", \"internal_error\", \"poison\", \
                 \"invalid_row\", \"cancelled\", \"work_failed\", \"work_timed_out\"",
                "ids: must be a list of 1 to 100 ids of requests",
                "dry_run: must be true or false",
                "limit: must be a whole number from 1 to 1000",
            ]
        );
        let body = r#"{"statsu": ["PENDING"], "client": 7, "created_after": "2026-11-24T08:00:00Z",
            "created_before": "2026-11-24T08:00:00Z"}"#;
        let faults = faults(BulkAction::Cancel, body);
        assert!(faults[0].starts_with("statsu: is not a field; the fields are `status`"));
        assert_eq!(
            faults[1..],
            [
                "client: must be a client's name, not a number",
                "created_after: must be earlier than `created_before`",
            ]
        );
        let id = "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42";
        let body = format!(r#"{{"ids": ["{id}"], "limit": 1, "cursor": "{id}"}}"#);
        assert_eq!(
            self::faults(BulkAction::Cancel, &body),
            [
                "limit: must be left out where `ids` is given",
                "cursor: must be left out where `ids` is given",
            ]
        );
    }
}
