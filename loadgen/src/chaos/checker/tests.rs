//! Tests of the checker as a whole. Each rule has its tests in its own module.

mod redeliveries;

use std::collections::BTreeMap;

use super::{
    CheckRule, FaultCount,
    example::{Example, QUICK, REPEATED, Story, id, limits},
    index::{Index, JobHistory},
    judge, read,
};
use crate::chaos::{
    history::{Record, SubmitAnswer, WorkRequest},
    timeline::timeline,
};

fn lines(records: &[Record]) -> String {
    let lines = records
        .iter()
        .map(|record| serde_json::to_string(record).unwrap());
    lines.map(|line| line + "\n").collect()
}

fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(what, count)| (what.to_owned(), count)).into()
}

#[test]
fn a_valid_history_passes() {
    Example::good().assert_passes();
}

#[test]
fn the_summary_counts_all_records() {
    // Seven rounds of the same stories: four in the first load and three in the second.
    let summary = Example::good().verdict().summary;
    assert_eq!((summary.accepted, summary.unanswered), (135, 14));
    assert_eq!(summary.refused, [(422, 14)].into());
    assert_eq!(summary.outcome_unknown, 7);
    assert_eq!(
        (summary.rows, summary.deleted, summary.erased),
        (156, 7, 14)
    );
    let ended = counts([
        ("COMPLETED", 113),
        ("FAILED callback_failed", 14),
        ("FAILED cancelled", 15),
        ("FAILED poison", 7),
        ("FAILED work_failed", 7),
    ]);
    assert_eq!(summary.ended, ended);
    let asked = counts([
        ("202", 35),
        ("404 not-found", 7),
        ("409 redelivery-under-way", 7),
        ("409 request-erased", 7),
    ]);
    assert_eq!(summary.redeliveries_asked, asked);
    let asked = counts([
        ("200, a job", 21),
        ("200, a redelivery", 14),
        ("409 request-over", 7),
        ("no response", 7),
    ]);
    assert_eq!(summary.cancels_asked, asked);
    let asked = counts([
        ("200", 14),
        ("409 request-unfinished", 7),
        ("no response", 7),
    ]);
    assert_eq!(summary.erasures_asked, asked);
    let by_filter = counts([
        ("cancel, 200", 2),
        ("cancel, dry run, 200", 1),
        ("cancel, requests changed", 2),
        ("redeliver, 200", 1),
        ("redeliver, requests changed", 1),
    ]);
    assert_eq!(summary.filters, by_filter);
    let redeliveries = counts([
        ("COMPLETED, cancelled", 8),
        ("FAILED, cancelled", 7),
        ("COMPLETED, delivered", 7),
        ("COMPLETED, not delivered", 7),
        ("FAILED, delivered", 7),
    ]);
    assert_eq!(summary.redeliveries, redeliveries);
    let repeats = counts([
        ("attempt_failed", 77),
        ("claim_lost", 14),
        ("given_back", 14),
        ("redelivery", 21),
    ]);
    assert_eq!(summary.repeats, repeats);
    let events = counts([
        ("attempt_failed", 147),
        ("claim_lost", 70),
        ("given_back", 21),
    ]);
    assert_eq!(summary.events, events);
    assert_eq!(summary.callbacks, 253);
    assert_eq!(summary.work_requests, 21);
}

#[test]
fn the_summary_has_the_jobs_in_flight_of_each_fault() {
    let mut example = Example::good();
    let fault = example.records.iter().find_map(|record| match record {
        Record::Fault(fault) if fault.kind == "kill_worker" => Some(fault.clone()),
        _ => None,
    });
    for in_flight in [90, 7, 8] {
        let mut fault = fault.clone().unwrap();
        fault.in_flight = in_flight;
        example.records.push(Record::Fault(fault));
    }
    let done = FaultCount {
        times: 4,
        min: 3,
        median: 7,
        max: 90,
    };
    assert_eq!(example.verdict().summary.faults["kill_worker"], done);
}

#[test]
fn records_other_than_transitions_are_ordered_by_time() {
    let good = Example::good();
    let is_move = |record: &&Record| matches!(record, Record::Transition(_));
    let (moves, others): (Vec<_>, Vec<_>) = good.records.iter().partition(is_move);
    let records = others.into_iter().rev().chain(moves).cloned().collect();
    let reversed = Example { records };
    reversed.assert_passes();
    assert_eq!(reversed.verdict().summary, good.verdict().summary);
}

/// The absence of any record that a rule relies on is a violation: a checker without observations
/// must not pass.
#[test]
fn a_missing_database_record_is_a_violation() {
    let good = Example::good().records;
    // The event of a final attempt is optional.
    let index = Index::of(&good);
    let events: Vec<_> = index
        .jobs()
        .flat_map(JobHistory::explaining_events)
        .collect();
    let mut tried = 0;
    for (index, record) in good.iter().enumerate() {
        match record {
            Record::Transition(_)
            | Record::Row(_)
            | Record::WorkStored(_)
            | Record::WorkRequest(WorkRequest {
                answered: Some(_), ..
            }) => {}
            Record::Event(event) if events.contains(&event) => {}
            _ => continue,
        }
        let mut records = good.clone();
        let missing = records.remove(index);
        tried += 1;
        assert!(
            !Example { records }.verdict().passed(),
            "without {missing:?}"
        );
    }
    assert!(tried > 400, "{tried}");
}

/// An attempt that did not reach the receiver leaves an event that explains a duplicate. These jobs
/// have none.
#[test]
fn an_added_delivery_is_unexplained_if_all_attempts_arrived() {
    let good = Example::good().records;
    let mut tried = 0;
    for job in Index::of(&good).jobs() {
        let Some(callback) = job.callbacks.last() else {
            continue;
        };
        if job.callbacks.len() <= job.events.len() {
            continue;
        }
        let mut records = good.clone();
        records.push(Record::Received((*callback).clone()));
        tried += 1;
        Example { records }.assert_violation(
            CheckRule::Repeats,
            job.id,
            "is unexplained: no event precedes it",
        );
    }
    assert!(tried >= 5 * 7, "{tried}");
}

#[test]
fn an_empty_history_fails() {
    let verdict = Example {
        records: Vec::new(),
    }
    .verdict();
    let rules: Vec<_> = verdict.by_rule().into_keys().collect();
    assert_eq!(rules, [CheckRule::Sizes, CheckRule::Faults]);
}

#[test]
fn a_stored_history_gets_the_same_verdict_as_the_run() {
    let mut example = Example::with(Story::nothing_of(700).accepted());
    example.records.insert(0, Record::Limits(limits()));
    let judged = judge(lines(&example.records).as_bytes()).unwrap();
    assert_eq!(judged.records, example.records);
    assert_eq!(judged.verdict.violations, example.verdict().violations);
    assert_eq!(judged.verdict.summary, example.verdict().summary);
}

#[test]
fn an_invalid_stored_history_is_reported_with_its_line() {
    let kept = lines(&Example::good().records[..3]) + "{\"record\":\"moved\"}\n";
    let error = read(kept.as_bytes()).unwrap_err();
    assert!(format!("{error:#}").contains("line 4"), "{error:#}");
    let no_limits = judge(lines(&Example::good().records).as_bytes()).unwrap_err();
    assert!(no_limits.to_string().contains("no `limits`"), "{no_limits}");
}

#[test]
fn a_failed_verdict_shows_every_violated_rule_and_some_timelines() {
    let mut example = Example::good();
    for millis in 700..740 {
        let story = Story::nothing_of(millis).accepted();
        example.records.extend(story.records);
    }
    example.records.extend(
        Story::nothing_of(900)
            .unanswered()
            .called(Some(200))
            .records,
    );
    let text = example.verdict().render(&example.records);
    assert!(
        text.starts_with("failed: 41 violations, 40 ended, 1 delivered\n"),
        "{text}"
    );
    assert!(
        text.contains(&format!("  delivered {}: ", id(900))),
        "{text}"
    );
    assert_eq!(
        text.matches("it is lost: it was accepted").count(),
        19,
        "{text}"
    );
    assert!(text.contains("  and 21 more\n"), "{text}");
    assert_eq!(text.matches("\njob ").count(), 3, "{text}");

    let good = Example::good();
    let text = good.verdict().render(&good.records);
    assert_eq!(text, "passed: no violations in the history of 156 jobs\n");
}

#[test]
fn a_timeline_has_all_records_of_a_job_by_time() {
    let story = timeline(&Example::good().records, id(REPEATED));
    let lines: Vec<_> = story.lines().collect();
    let expected = [
        &format!("job {}, from 2026-01-05T08:00:00.004Z", id(REPEATED)),
        "  08:00:00.004  inserted  PENDING, claim 0",
    ];
    assert_eq!(lines[..2], expected, "{story}");
    let kinds: Vec<_> = lines[1..]
        .iter()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    let expected = [
        "inserted",
        "submitted",
        "moved",
        "moved",
        "callback",
        "fault",
        "fault",
        "event",
        "moved",
        "polled",
        "moved",
        "callback",
        "moved",
        "healed",
        "healed",
        "COMPLETED,",
    ];
    assert_eq!(kinds, expected, "{story}");
    assert!(
        story.contains("moved     PROCESSING -> PENDING, claim 1, 1 lost claims"),
        "{story}"
    );
    assert!(!story.contains(&id(QUICK).to_string()), "{story}");
}

#[test]
fn a_timeline_starts_with_a_request_without_a_response() {
    let story = Story::of(700)
        .submitted(SubmitAnswer::NoAnswer("cut".to_owned()))
        .row(None);
    let text = timeline(&story.records, id(700));
    assert!(
        text.contains("submitted `chaos-7-000700` of 1 records: no response: cut"),
        "{text}"
    );
    assert!(
        text.ends_with("final     PENDING, claim 0, result none\n"),
        "{text}"
    );
}
