//! Actions by filter: the rule rejects the histories that break it, and no right one.

use storm_shared::models::Status;

use crate::chaos::{
    checker::{
        CheckRule, check,
        example::{
            BY_FILTER, CLIENT, Example, ORIGIN, STEP, Story, assert_passes, assert_violation, at,
            completed, id, limits, named,
        },
    },
    history::{
        Filter, FilterAction, FilterAnswer, FilterApplied, FilterAsked, FilterCounts, Record,
    },
};

fn job() -> Story {
    Story::of(700).accepted()
}

fn all() -> Filter {
    Filter {
        all: true,
        ..Filter::default()
    }
}

/// The story of a cancellation with a change of its request, its answer or its record.
fn cancelled_with(change: impl Fn(&mut Record)) -> Example {
    let mut story = job().cancelled_by(named(id(700)));
    story.records.iter_mut().for_each(change);
    Example::with(story)
}

fn asked_with(change: impl Fn(&mut FilterAsked)) -> Example {
    cancelled_with(|record| {
        if let Record::FilterAsked(asked) = record {
            change(asked);
        }
    })
}

fn counts_with(change: impl Fn(&mut FilterCounts)) -> Example {
    asked_with(|asked| {
        if let FilterAnswer::Done(counts) = &mut asked.answer {
            change(counts);
        }
    })
}

fn applied_with(change: impl Fn(&mut FilterApplied)) -> Example {
    cancelled_with(|record| {
        if let Record::FilterApplied(applied) = record {
            change(applied);
        }
    })
}

/// Asserts that the rule finds this, and that no other rule finds anything.
#[track_caller]
fn assert_found(example: &Example, what: &[&str]) {
    let verdict = example.verdict();
    let text = verdict.render(&example.records);
    let rules: Vec<_> = verdict.by_rule().into_keys().collect();
    assert_eq!(rules, [CheckRule::Filters], "{text}");
    for what in what {
        assert!(text.contains(what), "`{what}` is not in: {text}");
    }
}

#[test]
fn what_a_filter_matches_is_cancelled_and_redelivered() {
    let of = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    };
    for filter in [
        named(id(700)),
        all(),
        of(|it| it.status = vec![Status::Processing]),
        of(|it| it.client = Some(CLIENT.to_owned())),
        of(|it| it.origin = Some(ORIGIN.to_owned())),
        of(|it| it.handler = Some("report".to_owned())),
        of(|it| (it.created_after, it.created_before) = (Some(at(700)), Some(at(701)))),
    ] {
        assert_passes(job().claimed_by("a").cancelled_by(filter));
    }
    let failed = || {
        let story = job().claimed_by("a").attempt_failed().claimed_by("a");
        let story = story.attempt_failed().claimed_by("a").attempt_failed();
        let story = story.claimed_by("a").callback_failed();
        story.for_reason("callback_failed")
    };
    for filter in [
        named(id(700)),
        of(|it| it.created_after = Some(at(700))),
        of(|it| it.reason = Some("callback_failed".to_owned())),
        of(|it| (it.status, it.created_after) = (vec![Status::Failed], Some(at(700)))),
    ] {
        let story = failed().redelivering_by(filter).claimed_by("b");
        assert_passes(story.called(Some(200)).redelivered());
    }
}

#[test]
fn nothing_is_changed_that_did_not_match() {
    let of = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    };
    for filter in [
        named(id(0)),
        of(|it| it.status = vec![Status::Processing]),
        of(|it| it.client = Some("nobody".to_owned())),
        of(|it| it.origin = Some("http://b".to_owned())),
        of(|it| it.handler = Some("chaos".to_owned())),
        of(|it| it.created_after = Some(at(701))),
        of(|it| it.created_before = Some(at(700))),
        of(|it| it.reason = Some("callback_failed".to_owned())),
    ] {
        // What it names instead is not there, so that more cannot have matched.
        let example = Example::with(job().cancelled_by(filter));
        assert_found(&example, &["and did not match"]);
    }
    // What has succeeded is not redelivered unless it is named.
    let story = completed().redelivering_by(all()).claimed_by("b");
    let example = Example::with(story.called(Some(200)).redelivered());
    assert_found(&example, &["it was changed by", "and did not match"]);
    // Nor what was cancelled.
    let story = job().claimed_by("a").stored().cancelled_by(named(id(700)));
    let story = story.later(STEP).redelivering_by(all()).claimed_by("b");
    let example = Example::with(story.called(Some(200)).redelivered());
    assert_found(&example, &["and did not match"]);
}

#[test]
fn nothing_that_matched_is_left_out() {
    // It is in progress all the time, and the page is the last one.
    let unfinished = || job().claimed_by("a").later(STEP * 20).called(Some(200));
    let page = Story::of(705).accepted().later(STEP * 3);
    let with = |page: Story| {
        let mut example = Example::with(unfinished().completed());
        example.records.extend(page.records);
        example
    };
    let example = with(page.cancelled_by(all()));
    example.assert_violation(CheckRule::Filters, id(700), "was left out by");
    // One that ends before the cursor leaves the others to the next pages.
    let page = Story::of(705).accepted().later(STEP * 3);
    let mut example = with(page.cancelled_by(all()));
    for record in &mut example.records {
        if let Record::FilterAsked(asked) = record
            && asked.filter.all
        {
            asked.cursor = Some(id(701));
        }
    }
    example.assert_passes();
    // The same of a dry run.
    let page = Story::of(705).accepted().claimed_by("a").later(STEP * 3);
    let page = page.tried_out(FilterAction::Cancel, all(), true);
    let example = with(page.later(STEP * 3).called(Some(200)).completed());
    example.assert_violation(CheckRule::Filters, id(700), "was left out by");
    // One to redeliver may have been skipped, if that is counted.
    let failed = |of| {
        let story = Story::of(of).accepted().claimed_by("a");
        (0..3)
            .fold(story, |story, _| story.attempt_failed().claimed_by("a"))
            .callback_failed()
            .for_reason("callback_failed")
    };
    let by_reason = || Filter {
        reason: Some("callback_failed".to_owned()),
        created_after: Some(at(700)),
        created_before: Some(at(702)),
        ..Filter::default()
    };
    let again = failed(701).later(STEP * 3).redelivering_by(by_reason());
    let again = again.claimed_by("b").called(Some(200)).redelivered();
    let mut example = Example::with(failed(700));
    example.records.extend(again.records);
    example.assert_violation(CheckRule::Filters, id(700), "was left out by");
    for record in &mut example.records {
        match record {
            Record::FilterAsked(asked) if asked.filter == by_reason() => {
                let FilterAnswer::Done(counts) = &mut asked.answer else {
                    panic!("it was answered")
                };
                (counts.matched, counts.skipped) = (2, 1);
            }
            Record::FilterApplied(applied) if applied.filter.contains("callback_failed") => {
                applied.matched = 2;
            }
            _ => {}
        }
    }
    example.assert_passes();
}

#[test]
fn each_page_has_one_record_and_each_record_one_request() {
    let mut example = cancelled_with(|_| {});
    let is_applied = |record: &Record, of| match record {
        Record::FilterApplied(applied) => applied.ids == [id(of)],
        _ => false,
    };
    let record = example.records.iter().find(|it| is_applied(it, 700));
    let record = record.unwrap().clone();
    // Twice.
    example.records.push(record);
    assert_found(&example, &["and no request explains it"]);
    // Not at all.
    let story = job().cancelled_by(named(id(700)));
    let mut example = Example::with(story);
    example.records.retain(|it| !is_applied(it, 700));
    assert_found(&example, &["the audit has no such record"]);
    // The auditor has no record then that the change could belong to.
    for record in &mut example.records {
        if let Record::Transition(moved) = record
            && moved.id == id(700)
        {
            moved.by_filter = false;
        }
    }
    let rules: Vec<_> = example.verdict().by_rule().into_keys().collect();
    assert_eq!(rules, [CheckRule::Cancels, CheckRule::Filters]);
}

#[test]
fn a_page_whose_answer_is_lost_is_done_once_at_the_most() {
    let unknown = || FilterAnswer::Unknown("cut".to_owned());
    asked_with(|asked| asked.answer = unknown()).assert_passes();
    let nothing = Record::FilterAsked(FilterAsked {
        asked_at: at(51_000),
        at: at(51_100),
        action: FilterAction::Cancel,
        filter: all(),
        dry_run: false,
        limit: Some(1),
        cursor: None,
        answer: unknown(),
    });
    let mut example = Example::good();
    example.records.push(nothing);
    example.assert_passes();
    // A request without an answer explains nothing that was before it, nor another filter.
    let late = asked_with(|asked| {
        asked.answer = unknown();
        (asked.asked_at, asked.at) = (asked.at + STEP, asked.at + STEP * 2);
    });
    assert_found(&late, &["and no request explains it"]);
    let other = asked_with(|asked| (asked.answer, asked.filter) = (unknown(), all()));
    assert_found(&other, &["and no request explains it"]);
    for (status, passes) in [(503, false), (409, false)] {
        let refused = asked_with(|asked| asked.answer = FilterAnswer::Refused(status));
        assert_eq!(refused.verdict().passed(), passes, "{status}");
    }
}

#[test]
fn the_counts_are_true() {
    for changed in [0, 2] {
        let example = applied_with(|it| (it.matched, it.changed) = (it.matched + 1, changed));
        assert_found(&example, &["changes before it", "has no such record"]);
        let example = counts_with(|it| it.changed = changed);
        assert_found(&example, &["its counts make", "has no such record"]);
    }
    // Both say that one more has matched.
    let example = cancelled_with(|record| match record {
        Record::FilterApplied(applied) => applied.matched = 2,
        Record::FilterAsked(asked) => {
            if let FilterAnswer::Done(counts) = &mut asked.answer {
                (counts.matched, counts.skipped) = (2, 1);
            }
        }
        _ => {}
    });
    assert_found(&example, &["says that 2 matched, and 1 can have"]);
    assert_found(&counts_with(|it| it.skipped = 1), &["its counts make 2"]);
    let limited = asked_with(|it| it.limit = Some(0));
    assert_found(&limited, &["more than its limit"]);
    let repeated = asked_with(|asked| {
        asked.cursor = Some(id(699));
        if let FilterAnswer::Done(counts) = &mut asked.answer {
            counts.cursor = Some(id(699));
        }
    });
    assert_found(&repeated, &["its cursor is not after"]);
    let outside = asked_with(|asked| asked.cursor = Some(id(700)));
    assert_found(&outside, &["is not between the cursors"]);
}

#[test]
fn a_dry_run_changes_nothing_and_lists_what_matched() {
    let tried = |listed| {
        let story = job().claimed_by("a").later(STEP);
        let story = story.tried_out(FilterAction::Cancel, named(id(700)), listed);
        story.later(STEP * 3).called(Some(200)).completed()
    };
    assert_passes(tried(true));
    assert_violation(tried(false), CheckRule::Filters, "was left out by");
    let over = completed().later(STEP);
    let over = over.tried_out(FilterAction::Cancel, named(id(700)), true);
    assert_found(
        &Example::with(over),
        &["it was listed by", "and did not match"],
    );
    // It has changed something.
    let example = cancelled_with(|record| match record {
        Record::FilterApplied(applied) => applied.dry_run = true,
        Record::FilterAsked(asked) => asked.dry_run = true,
        _ => {}
    });
    assert_found(
        &example,
        &["it is of a dry run", "it says that `dry_run` is false"],
    );
    let listed = counts_with(|it| it.ids = Some(vec![id(700)]));
    assert_found(&listed, &["only a dry run does"]);
}

#[test]
fn what_a_filter_has_cancelled_is_called_only_as_long_as_an_attempt_may_last() {
    let running = || job().claimed_by("a").stored().cancelled_by(named(id(700)));
    assert_passes(running().later(STEP * 20).called(Some(200)));
    let late = running().later(STEP * 26).called(Some(200));
    assert_violation(late, CheckRule::Cancels, "an operator had cancelled it by");
}

#[test]
fn a_change_without_a_record_needs_a_request_of_its_own() {
    // One too many: the page counts another one.
    let story = job().cancelled();
    assert_violation(story, CheckRule::Cancels, "no request explains it");
    let story = completed().redelivery_inserted().claimed_by("b");
    let story = story.called(Some(200)).redelivered();
    assert_violation(story, CheckRule::Named, "no request explains it");
}

#[test]
fn a_run_that_acts_by_filter_has_all_kinds_of_it() {
    let is_of = |record: &Record, of: &[u64]| {
        let ids: Vec<_> = of.iter().map(|of| id(*of)).collect();
        match record {
            Record::Transition(moved) => ids.contains(&moved.id),
            Record::Received(it) => ids.contains(&it.id),
            Record::Row(row) => ids.contains(&row.id),
            Record::Submitted(it) => of
                .iter()
                .any(|of| it.report_name.ends_with(&of.to_string())),
            Record::FilterAsked(asked) => ids.contains(&asked.filter.ids[0]),
            Record::FilterApplied(it) => ids.iter().any(|id| it.filter.contains(&id.to_string())),
            _ => false,
        }
    };
    let both = [BY_FILTER, BY_FILTER + 1];
    for of in [&both[..1], &both[1..], &both] {
        let example = Example::without(|record| is_of(record, of));
        example.assert_run_violation(CheckRule::Faults, "by filter were planned");
        // An older history promises none.
        let mut limits = limits();
        limits.filters = false;
        assert!(check(&example.records, &limits).passed());
    }
}
