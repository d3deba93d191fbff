//! One job's whole story: everything that is known of it, and what was broken meanwhile, by time.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use storm_shared::models::{RequestId, Status};

use super::history::{Answer, Event, Fault, Held, Looked, Moved, Received, Record, Row, Told};

/// How long before a job's first line and after its last a fault still belongs to its story.
const AROUND: SignedDuration = SignedDuration::from_secs(2);

/// The story of the job `id`, a line for each thing that happened. Ends with a newline.
pub fn timeline(records: &[Record], id: RequestId) -> String {
    let row = records.iter().find_map(|record| match record {
        Record::Row(row) if row.id == id => Some(row),
        _ => None,
    });
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
    lines.sort_by_key(|(at, _)| *at); // things of one moment stay as they were written down

    let mut text = format!("job {id}");
    if let Some(first) = first {
        let _ = write!(text, ", from {first:.3}"); // writing to a String can't fail
    }
    text.push('\n');
    for (at, what) in lines {
        let _ = writeln!(text, "  {}  {what}", at.strftime("%H:%M:%S%.3f"));
    }
    let end = row.map_or("no row at the end".to_owned(), at_the_end);
    let _ = writeln!(text, "  {end}");
    text
}

/// What a record says of this job, whose report has this name.
fn line(record: &Record, id: RequestId, name: Option<&str>) -> Option<(Timestamp, String)> {
    match record {
        Record::Told(told)
            if told.answer == Answer::Accepted(id) || Some(told.report_name.as_str()) == name =>
        {
            Some((told.at, answer(told)))
        }
        Record::Looked(looked) if looked.id == id => Some((looked.at, look(looked))),
        Record::Received(received) if received.id == id => Some((received.at, callback(received))),
        Record::Moved(moved) if moved.id == id => Some((moved.at, step(moved))),
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
        first.duration_since(fault.healed_at) <= AROUND && fault.at.duration_since(last) <= AROUND
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

fn answer(told: &Told) -> String {
    let asked = format!("`{}` of {} records", told.report_name, told.records);
    match &told.answer {
        Answer::Accepted(id) => format!("told      202 {id} for {asked}"),
        Answer::Refused(status) => format!("told      {status} for {asked}"),
        Answer::Nothing(why) => format!("told      nothing for {asked}: {why}"),
    }
}

fn look(looked: &Looked) -> String {
    let status = looked.status.map_or("404", Status::as_str);
    let took = looked.at.duration_since(looked.asked_at);
    format!("looked    {status}, asked {} ms before", took.as_millis())
}

fn callback(received: &Received) -> String {
    let bytes = if received.right { "right" } else { "WRONG" };
    let answer = received
        .answered
        .map_or("not answered".to_owned(), |status| {
            format!("answered {status}")
        });
    format!(
        "callback  {bytes} bytes ({}), {answer}",
        short(&received.body_sha256)
    )
}

fn recorded(event: &Event) -> String {
    let detail = event.detail.as_deref().unwrap_or("no detail");
    format!(
        "event     {} of claim {}: {detail}",
        event.event, event.claim
    )
}

fn step(moved: &Moved) -> String {
    let Some(before) = &moved.before else {
        return format!("inserted  {}", words(&moved.after));
    };
    let mut text = format!("moved     {} -> {}", before.status, words(&moved.after));
    if moved.after.result != before.result {
        let result = moved.after.result.as_deref().unwrap_or("none");
        let _ = write!(text, ", now with the result {result}");
    }
    text
}

fn at_the_end(row: &Row) -> String {
    let result = row.held.result.as_deref().unwrap_or("none");
    let mut text = format!("at the end {}, result {result}", words(&row.held));
    if let Some(at) = row.completed_at {
        let _ = write!(text, ", since {at:.3}");
    }
    if let Some(reason) = &row.failure_reason {
        let detail = row.failure_detail.as_deref().unwrap_or("no detail");
        let _ = write!(text, ", {reason}: {detail}");
    }
    text
}

/// A row in words: what is not there is not said.
fn words(held: &Held) -> String {
    let mut text = format!("{}, claim {}", held.status, held.claim);
    if let Some(owner) = &held.owner {
        let _ = write!(text, " of {}", short(owner));
    }
    if held.attempts != 0 {
        let _ = write!(text, ", {} attempts", held.attempts);
    }
    if held.lost_claims != 0 {
        let _ = write!(text, ", {} lost claims", held.lost_claims);
    }
    text
}

/// Enough of a digest or an id to tell it from the others of one job.
fn short(text: &str) -> &str {
    text.get(..8).unwrap_or(text)
}
