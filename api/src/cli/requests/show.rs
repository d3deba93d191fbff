//! `requests show`.

use storm_shared::models::{Attempt, Event, Request, RequestId};

use crate::cli::{
    Failure, on_store,
    output::{self, Column, or_dash},
};

pub(super) const LONG_ABOUT: &str = "\
Shows a request: its state, payloads, attempts and events, and why it is not done yet. With --json, \
prints what `GET /requests/{id}` answers. The exit status is 1 if there is no such request.";

const ATTEMPTS: [Column; 7] = [
    ("ATTEMPT", 1),
    ("STAGE", 1),
    ("STARTED", 24),
    ("DURATION", 1),
    ("CLASS", 1),
    ("STATUS", 1),
    ("ERROR", 1),
];

const EVENTS: [Column; 4] = [("EVENT", 1), ("AT", 24), ("CLAIM", 1), ("DETAIL", 1)];

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The id of the request
    #[arg(value_name = "ID", value_parser = super::id)]
    id: RequestId,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) async fn run(self) -> Result<(), Failure> {
        on_store(async |store, _| {
            let Some(request) = store.find(self.id).await? else {
                let problem = format!("{}: there is no such request", self.id);
                return Err(Failure::Undone(problem));
            };
            let text = if self.json {
                output::json(&request)?
            } else {
                text(&request)
            };
            output::write(&text)?;
            Ok(())
        })
        .await
    }
}

fn text(request: &Request) -> String {
    let mut text = output::facts(&facts(request));
    if !request.attempts.is_empty() {
        let rows: Vec<_> = request.attempts.iter().map(attempt).collect();
        text.push('\n');
        text.push_str(&output::table(&ATTEMPTS, true, &rows));
    }
    if !request.events.is_empty() {
        let rows: Vec<_> = request.events.iter().map(event).collect();
        text.push('\n');
        text.push_str(&output::table(&EVENTS, true, &rows));
    }
    text
}

/// The fields by their names in the JSON. Those without a value are left out.
fn facts(request: &Request) -> Vec<(&'static str, String)> {
    let failure = request.failure.as_ref();
    let failure = failure.map(|failure| format!("{}: {}", failure.reason.as_str(), failure.detail));
    let waiting = request.waiting_for.as_ref().map(|waiting| {
        let until = waiting.until.as_ref();
        let until = until.map_or_else(String::new, |until| format!(" (until {until})"));
        format!("{}{until}", waiting.detail)
    });
    let result = request.result_payload.as_ref();
    let facts = [
        ("id", Some(request.id.to_string())),
        ("mode", Some(request.mode.to_string())),
        ("handler", Some(request.handler.clone())),
        ("status", Some(request.status.to_string())),
        ("failure", failure),
        ("waiting_for", waiting),
        (
            "redelivery",
            request.redelivery.map(|status| status.to_string()),
        ),
        ("created_at", Some(request.created_at.clone())),
        ("completed_at", request.completed_at.clone()),
        ("next_attempt_at", request.next_attempt_at.clone()),
        ("parked_since", request.parked_since.clone()),
        ("callback_url", request.callback_url.clone()),
        (
            "input_payload",
            Some(request.input_payload.get().to_owned()),
        ),
        (
            "result_payload",
            result.map(|result| result.get().to_owned()),
        ),
        ("claims", Some(request.claims.to_string())),
        ("lost_claims", Some(request.lost_claims.to_string())),
        ("parks", Some(request.parks.to_string())),
        ("traceparent", Some(request.traceparent.to_string())),
    ];
    let known = |(name, value): (_, Option<_>)| value.map(|value| (name, value));
    facts.into_iter().filter_map(known).collect()
}

fn attempt(attempt: &Attempt) -> Vec<String> {
    vec![
        attempt.number.to_string(),
        attempt.stage.as_str().to_owned(),
        attempt.started_at.clone(),
        format!("{} ms", attempt.duration_ms),
        attempt.class.as_str().to_owned(),
        or_dash(attempt.status),
        or_dash(attempt.error.as_ref()),
    ]
}

fn event(event: &Event) -> Vec<String> {
    vec![
        event.event.as_str().to_owned(),
        event.at.clone(),
        event.claim.to_string(),
        or_dash(event.detail.as_ref()),
    ]
}
