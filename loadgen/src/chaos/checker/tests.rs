//! The checker as a whole; what a single rule refuses is tested beside it.

use std::collections::BTreeMap;

use super::{
    Rule, TimesDone,
    example::{Example, QUICK, REPEATED, Story, id, limits},
    index::{Index, Job},
    judge, read,
};
use crate::chaos::{
    history::{Answer, Record},
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
fn a_good_history_is_accepted() {
    Example::good().is_accepted();
}

#[test]
fn the_summary_counts_what_there_is() {
    // Seven rounds of the same stories, four and three.
    let summary = Example::good().verdict().summary;
    assert_eq!((summary.accepted, summary.unanswered), (63, 14));
    assert_eq!(summary.refused, [(422, 7), (503, 7)].into());
    assert_eq!(summary.rows, 84);
    let ended = counts([
        ("COMPLETED", 63),
        ("FAILED callback_failed", 14),
        ("FAILED poison", 7),
    ]);
    assert_eq!(summary.ended, ended);
    let repeats = counts([
        ("attempt_failed", 49),
        ("claim_lost", 14),
        ("given_back", 7),
    ]);
    assert_eq!(summary.repeats, repeats);
    let events = counts([
        ("attempt_failed", 70),
        ("claim_lost", 56),
        ("given_back", 14),
    ]);
    assert_eq!(summary.events, events);
    assert_eq!(summary.callbacks, 133);
}

#[test]
fn the_summary_says_how_many_jobs_each_fault_hit() {
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
    let done = TimesDone {
        times: 4,
        min: 3,
        median: 7,
        max: 90,
    };
    assert_eq!(example.verdict().summary.faults["kill_worker"], done);
}

#[test]
fn the_order_in_which_things_were_written_down_is_told_by_their_times() {
    let good = Example::good();
    let is_move = |record: &&Record| matches!(record, Record::Moved(_));
    let (moves, others): (Vec<_>, Vec<_>) = good.records.iter().partition(is_move);
    let records = others.into_iter().rev().chain(moves).cloned().collect();
    let reversed = Example { records };
    reversed.is_accepted();
    assert_eq!(reversed.verdict().summary, good.verdict().summary);
}

/// Whatever a rule leans on, its absence is noticed: a checker that saw nothing must not be content.
#[test]
fn no_record_of_what_the_database_did_can_go_missing() {
    let good = Example::good().records;
    // The record of a last attempt may be there or not.
    let index = Index::of(&good);
    let events: Vec<_> = index.jobs().flat_map(Job::excuses).collect();
    let mut tried = 0;
    for (index, record) in good.iter().enumerate() {
        match record {
            Record::Moved(_) | Record::Row(_) => {}
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

/// An attempt that reached nobody leaves an event that could excuse a repeat; the others leave none.
#[test]
fn no_callback_can_be_added_to_a_job_whose_attempts_all_arrived() {
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
        Example { records }.is_refused(Rule::Repeats, job.id, "no event explains it");
    }
    assert!(tried >= 5 * 7, "{tried}");
}

#[test]
fn an_empty_history_proves_nothing() {
    let verdict = Example {
        records: Vec::new(),
    }
    .verdict();
    let rules: Vec<_> = verdict.by_rule().into_keys().collect();
    assert_eq!(rules, [Rule::Sizes, Rule::Faults]);
}

#[test]
fn a_kept_history_is_judged_as_the_run_was() {
    let mut example = Example::with(Story::nothing_of(700).accepted());
    example.records.insert(0, Record::Limits(limits()));
    let judged = judge(lines(&example.records).as_bytes()).unwrap();
    assert_eq!(judged.records, example.records);
    assert_eq!(judged.verdict.violations, example.verdict().violations);
    assert_eq!(judged.verdict.summary, example.verdict().summary);
}

#[test]
fn a_kept_history_that_can_not_be_read_says_where() {
    let kept = lines(&Example::good().records[..3]) + "{\"record\":\"moved\"}\n";
    let error = read(kept.as_bytes()).unwrap_err();
    assert!(format!("{error:#}").contains("line 4"), "{error:#}");
    let no_limits = judge(lines(&Example::good().records).as_bytes()).unwrap_err();
    assert!(no_limits.to_string().contains("no `limits`"), "{no_limits}");
}

#[test]
fn a_refusal_shows_every_rule_that_was_broken_and_some_timelines() {
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
    let words = example.verdict().render(&example.records);
    assert!(
        words.starts_with("refused: 41 violations, 40 ended, 1 delivered\n"),
        "{words}"
    );
    assert!(
        words.contains(&format!("  delivered {}: ", id(900))),
        "{words}"
    );
    assert_eq!(
        words.matches("has no row: it is lost").count(),
        19,
        "{words}"
    );
    assert!(words.contains("  and 21 more\n"), "{words}");
    assert_eq!(words.matches("\njob ").count(), 3, "{words}");

    let good = Example::good();
    let words = good.verdict().render(&good.records);
    assert_eq!(
        words,
        "accepted: nothing stands against the history of 84 jobs\n"
    );
}

#[test]
fn a_timeline_is_the_whole_story_of_a_job_by_time() {
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
        "inserted", "told", "moved", "moved", "callback", "fault", "fault", "event", "moved",
        "looked", "moved", "callback", "moved", "healed", "healed", "the",
    ];
    assert_eq!(kinds, expected, "{story}");
    assert!(
        story.contains("moved     PROCESSING -> PENDING, claim 1, 1 lost claims"),
        "{story}"
    );
    assert!(!story.contains(&id(QUICK).to_string()), "{story}");
}

#[test]
fn the_timeline_of_a_request_without_an_answer_begins_with_it() {
    let story = Story::of(700)
        .told(Answer::Nothing("cut".to_owned()))
        .row(None);
    let words = timeline(&story.records, id(700));
    assert!(
        words.contains("told      nothing for `chaos-7-000700` of 1 records: cut"),
        "{words}"
    );
    assert!(
        words.ends_with("at the end PENDING, claim 0, result none\n"),
        "{words}"
    );
}
