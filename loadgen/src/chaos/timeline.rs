//! The timeline of one job: all its records, and the faults injected meanwhile, by time.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use storm_shared::models::{RequestId, Status};

use super::history::{
    CancelAnswer, CancelAsked, EraseAnswer, EraseAsked, Fault, HistoryEvent, Polled, Received,
    Record, RedeliveryAnswer, RedeliveryAsked, Row, RowKind, RowState, SubmitAnswer, Submitted,
    Transition, WorkRequest,
};

/// Faults this long before the first and after the last record are part of the timeline.
const MARGIN: SignedDuration = SignedDuration::from_secs(2);

/// The timeline of the job `id`, one line per record. Ends with a newline.
pub fn timeline(records: &[Record], id: RequestId) -> String {
    let row = records.iter().find_map(|record| match record {
        Record::Row(row) if row.id == id => Some(row),
        _ => None,
    });
    // A request without a `202` knows no id. It is found by the report name of the row.
    let name = row.map(|row| row.report_name.as_str());
    let mut lines: Vec<_> = records
        .iter()
        .filter_map(|record| line(record, id, name))
        .collect();
    let first = lines.iter().map(|(at, _)| *at).min();
    let last = lines.iter().map(|(at, _)| *at).max();
    if let Some((first, last)) = first.zip(last) {
        lines.extend(faults_around(records, first, last));
    }
    lines.sort_by_key(|(at, _)| *at); // stable: equal times keep their recorded order

    let mut text = format!("job {id}");
    if let Some(first) = first {
        let _ = write!(text, ", from {first:.3}"); // writing to a String can't fail
    }
    text.push('\n');
    for (at, what) in lines {
        let _ = writeln!(text, "  {}  {what}", at.strftime("%H:%M:%S%.3f"));
    }
    let end = row.map_or("final     no row".to_owned(), final_row);
    let _ = writeln!(text, "  {end}");
    text
}

/// The line for a record of this job, whose report has this name.
fn line(record: &Record, id: RequestId, name: Option<&str>) -> Option<(Timestamp, String)> {
    match record {
        Record::Submitted(submitted)
            if submitted.answer == SubmitAnswer::Accepted(id)
                || Some(submitted.report_name.as_str()) == name =>
        {
            Some((submitted.at, answer(submitted)))
        }
        Record::Polled(polled) if polled.id == id => Some((polled.at, poll(polled))),
        Record::RedeliveryAsked(asked) if asked.id == id => Some((asked.at, redelivery(asked))),
        Record::CancelAsked(asked) if asked.id == id => Some((asked.at, cancel(asked))),
        Record::EraseAsked(asked) if asked.id == id => Some((asked.at, erase(asked))),
        Record::Received(received) if received.id == id => Some((received.at, callback(received))),
        Record::WorkRequest(asked) if asked.id == id => Some((asked.at, work(asked))),
        Record::WorkStored(it) if it.id == id => Some((it.at, format!("worked    {:?}", it.end))),
        Record::Transition(moved) if moved.id == id => Some((moved.at, step(moved))),
        Record::Deleted(it) if it.id == id => Some((it.at, "deleted".to_owned())),
        Record::Event(event) if event.id == id => Some((event.at, recorded(event))),
        _ => None,
    }
}

fn faults_around(
    records: &[Record],
    first: Timestamp,
    last: Timestamp,
) -> impl Iterator<Item = (Timestamp, String)> {
    let faults = records.iter().filter_map(|record| match record {
        Record::Fault(fault) => Some(fault),
        _ => None,
    });
    let around = faults.filter(move |fault| {
        first.duration_since(fault.healed_at) <= MARGIN && fault.at.duration_since(last) <= MARGIN
    });
    around.flat_map(|fault: &Fault| {
        let done = format!(
            "fault     {}, {} jobs in flight",
            fault.kind, fault.in_flight
        );
        let healed = format!("healed    {}", fault.kind);
        [(fault.at, done), (fault.healed_at, healed)]
    })
}

fn answer(submitted: &Submitted) -> String {
    let asked = format!(
        "`{}` of {} records",
        submitted.report_name, submitted.records
    );
    match &submitted.answer {
        SubmitAnswer::Accepted(id) => format!("submitted {asked}: 202 {id}"),
        SubmitAnswer::Refused(status) => format!("submitted {asked}: {status}"),
        SubmitAnswer::KeyReused => format!("submitted {asked}: 422 idempotency-key-reused"),
        SubmitAnswer::OutcomeUnknown => format!("submitted {asked}: 503 outcome-unknown"),
        SubmitAnswer::NoAnswer(why) => format!("submitted {asked}: no response: {why}"),
    }
}

fn poll(polled: &Polled) -> String {
    let status = polled.status.map_or("404", Status::as_str);
    let took = polled.at.duration_since(polled.asked_at);
    let mut text = format!("polled    {status}, sent {} ms earlier", took.as_millis());
    if polled.erased {
        text.push_str(", erased");
    }
    text
}

fn redelivery(asked: &RedeliveryAsked) -> String {
    let answer = match &asked.answer {
        RedeliveryAnswer::Accepted => "202".to_owned(),
        RedeliveryAnswer::Refused { status, problem } => {
            let problem = problem.as_deref().unwrap_or("no problem type");
            format!("{status} {problem}")
        }
        RedeliveryAnswer::OutcomeUnknown => "503 outcome-unknown".to_owned(),
        RedeliveryAnswer::NoAnswer(why) => format!("no response: {why}"),
    };
    let took = asked.at.duration_since(asked.asked_at).as_millis();
    format!("redeliver {answer}, sent {took} ms earlier")
}

fn work(asked: &WorkRequest) -> String {
    let answer = asked
        .answered
        .map_or("no response".to_owned(), |it| it.to_string());
    let right = if asked.right { "" } else { ", wrong" };
    format!("work      attempt {}{right}: {answer}", asked.attempt)
}

fn cancel(asked: &CancelAsked) -> String {
    let answer = match &asked.answer {
        CancelAnswer::Job => "200, the job".to_owned(),
        CancelAnswer::Redelivery => "200, the redelivery".to_owned(),
        CancelAnswer::Refused { status, problem } => {
            let problem = problem.as_deref().unwrap_or("no problem type");
            format!("{status} {problem}")
        }
        CancelAnswer::OutcomeUnknown => "503 outcome-unknown".to_owned(),
        CancelAnswer::NoAnswer(why) => format!("no response: {why}"),
    };
    let took = asked.at.duration_since(asked.asked_at).as_millis();
    format!("cancel    {answer}, sent {took} ms earlier")
}

fn erase(asked: &EraseAsked) -> String {
    let answer = match &asked.answer {
        EraseAnswer::Erased { erased_at } => format!("200, erased at {erased_at}"),
        EraseAnswer::Refused { status, problem } => {
            let problem = problem.as_deref().unwrap_or("no problem type");
            format!("{status} {problem}")
        }
        EraseAnswer::OutcomeUnknown => "503 outcome-unknown".to_owned(),
        EraseAnswer::NoAnswer(why) => format!("no response: {why}"),
    };
    let took = asked.at.duration_since(asked.asked_at).as_millis();
    format!("erase     {answer}, sent {took} ms earlier")
}

fn callback(received: &Received) -> String {
    let bytes = if received.right {
        "correct"
    } else {
        "INCORRECT"
    };
    let answer = received
        .answered
        .map_or("no response".to_owned(), |status| {
            format!("response {status}")
        });
    format!(
        "callback  {bytes} body ({}), {answer}",
        short(&received.body_sha256)
    )
}

fn recorded(event: &HistoryEvent) -> String {
    let detail = event.detail.as_deref().unwrap_or("no detail");
    format!(
        "event     {} of claim {}: {detail}",
        event.event, event.claim
    )
}

fn step(moved: &Transition) -> String {
    let whose = match moved.kind {
        RowKind::Job => "",
        RowKind::Redelivery => "redelivery ",
    };
    let Some(before) = &moved.before else {
        let by = if moved.by_filter { ", by filter" } else { "" };
        return format!("inserted  {whose}{}{by}", describe(&moved.after));
    };
    let after = describe(&moved.after);
    if moved.erases {
        return format!("erased    {whose}{after}");
    }
    let mut text = format!("moved     {whose}{} -> {after}", before.status);
    if moved.after.result != before.result {
        let result = moved.after.result.as_deref().unwrap_or("none");
        let _ = write!(text, ", stored the result {result}");
    }
    if moved.by_filter {
        text.push_str(", cancelled by filter");
    }
    if let Some(due) = moved.due {
        let _ = write!(text, ", due at {}", due.strftime("%H:%M:%S%.3f"));
    }
    text
}

fn final_row(row: &Row) -> String {
    let result = row.state.result.as_deref().unwrap_or("none");
    let mut text = format!("final     {}, result {result}", describe(&row.state));
    if let Some(at) = row.completed_at {
        let _ = write!(text, ", completed at {at:.3} by the wall clock");
    }
    if let Some(reason) = &row.failure_reason {
        let detail = row.failure_detail.as_deref().unwrap_or("no detail");
        let _ = write!(text, ", {reason}: {detail}");
    }
    text
}

/// A row's state in words, without the values that are zero or unset.
fn describe(state: &RowState) -> String {
    let mut text = format!("{}, claim {}", state.status, state.claim);
    if let Some(owner) = &state.owner {
        let _ = write!(text, " of {}", short(owner));
    }
    if state.attempts != 0 {
        let _ = write!(text, ", {} attempts", state.attempts);
    }
    if state.lost_claims != 0 {
        let _ = write!(text, ", {} lost claims", state.lost_claims);
    }
    if state.parks != 0 {
        let _ = write!(text, ", {} parks", state.parks);
    }
    text
}

/// A prefix of a digest or an id that is unique within one job.
fn short(text: &str) -> &str {
    text.get(..8).unwrap_or(text)
}
