//! Erasures: the rule rejects the histories that break it, and no right one.

use storm_shared::models::Status::{Completed, Failed, Pending, Processing};

use crate::chaos::{
    checker::{
        CheckRule, check,
        example::{ERASED, ERASED_WITH_KEY, Example, STEP, Story, id, limits, refused},
    },
    history::{EraseAnswer, Erased, Record, SubmitAnswer},
};

fn completed() -> Story {
    let story = Story::of(700).accepted().claimed_by("a");
    story.called(Some(200)).completed()
}

fn erased() -> Story {
    completed().erased().erase_answered()
}

#[track_caller]
fn assert_violation(story: Story, rule: CheckRule, what: &str) {
    Example::with(story).assert_violation(rule, id(700), what);
}

#[track_caller]
fn assert_passes(story: Story) {
    Example::with(story).assert_passes();
}

/// The story of an erasure with a `change` of what was recorded of it.
fn recorded(change: impl Fn(&mut Erased)) -> Example {
    let mut example = Example::with(erased());
    for record in &mut example.records {
        match record {
            Record::Erased(erased) if erased.id == id(700) => change(erased),
            _ => {}
        }
    }
    example
}

#[test]
fn what_was_answered_as_erased_is_erased() {
    assert_passes(erased());
    let story = completed().erase_answered();
    assert_violation(
        story,
        CheckRule::Erased,
        "says that it is erased, and it is not",
    );
    // Answered before it was done.
    let story = completed().erase_answered().later(STEP).erased();
    assert_violation(
        story,
        CheckRule::Erased,
        "says that it is erased, and it is not",
    );
}

#[test]
fn each_answer_has_the_time_of_the_first_erasure() {
    assert_passes(erased().later(STEP * 5).erase_answered());
    let other = EraseAnswer::Erased {
        erased_at: "2026-01-06T16:00:01.000Z".to_owned(),
    };
    assert_violation(
        erased().erase_asked(other),
        CheckRule::Erased,
        "and its row says",
    );
    assert_violation(erased().erased(), CheckRule::Erased, "it was erased again");
}

#[test]
fn nothing_is_erased_that_no_request_explains() {
    assert_violation(
        completed().erased(),
        CheckRule::Erased,
        "no request explains it",
    );
    let busy = EraseAnswer::Refused {
        status: 503,
        problem: None,
    };
    let story = completed().erased().erase_asked(busy);
    assert_violation(story, CheckRule::Erased, "no request explains it");
    // Sent after it.
    let late = completed().erased().later(STEP * 3);
    let late = late.erase_asked(EraseAnswer::OutcomeUnknown);
    assert_violation(late, CheckRule::Erased, "no request explains it");
    for answer in [
        EraseAnswer::OutcomeUnknown,
        EraseAnswer::NoAnswer("cut".to_owned()),
    ] {
        assert_passes(completed().erased().erase_asked(answer));
    }
}

#[test]
fn only_a_finished_request_is_erased() {
    let running = Story::of(700).accepted().claimed_by("a").erased();
    let running = running.erase_answered().called(Some(200)).completed();
    let verdict = Example::with(running).verdict();
    assert!(verdict.by_rule().contains_key(&CheckRule::Erased));

    let redelivered = completed().redelivering().claimed_by("b");
    let redelivered = redelivered.called(Some(200)).redelivered();
    assert_passes(redelivered.erased().erase_answered());
    let verdict = Example::with(erased_during_a_redelivery()).verdict();
    let mut found = verdict.violations.iter().map(|violation| &violation.what);
    assert!(found.any(|what| what == "it was erased during a redelivery"));
}

/// The job's row is erased between the begin and the end of its redelivery.
fn erased_during_a_redelivery() -> Story {
    let mut story = completed().redelivering().claimed_by("b");
    let erased = completed().erased().records.into_iter().rev();
    let mut erased = erased.filter(|record| matches!(record, Record::Transition(_)));
    story.records.extend(erased.next());
    story.called(Some(200)).redelivered().erase_answered()
}

#[test]
fn an_erasure_removes_the_result_and_keeps_the_outcome() {
    for (change, what) in [
        ("result", "left the result"),
        ("status", "changed other columns"),
        ("attempts", "changed other columns"),
        ("claim", "changed other columns"),
    ] {
        let story = completed().erased_with(|state| match change {
            "result" => state.result = Some("{}".to_owned()),
            "status" => state.status = Failed,
            "attempts" => state.attempts += 1,
            _ => state.claim += 1,
        });
        let verdict = Example::with(story.erase_answered()).verdict();
        let mut found = verdict.violations.iter();
        let found = found.any(|it| it.rule == CheckRule::Erased && it.what.contains(what));
        assert!(found, "{change}");
    }
    let example = recorded(|erased| erased.outcome_kept = false);
    example.assert_violation(CheckRule::Erased, id(700), "changed its outcome");
    let example = recorded(|erased| erased.left = vec!["attempts.error".to_owned()]);
    example.assert_violation(CheckRule::Erased, id(700), "are left: attempts.error");
}

#[test]
fn the_result_that_was_erased_was_the_requested_report() {
    Example::changed(|record| match record {
        Record::Transition(moved) if moved.id == id(ERASED) => {
            for state in moved.before.iter_mut().chain([&mut moved.after]) {
                if let Some(result) = &mut state.result {
                    *result = r#"{"report_id": "", "checksum": ""}"#.to_owned();
                }
            }
        }
        _ => {}
    })
    .assert_violation(CheckRule::Delivered, id(ERASED), "not the requested report");
}

#[test]
fn a_poll_after_an_erasure_shows_it_and_nothing_of_the_contents() {
    assert_passes(erased().polled_erased(Completed, &[]));
    let story = erased().polled(Some(Completed));
    assert_violation(story, CheckRule::Erased, "a poll did not show that");
    let story = erased().polled_erased(Completed, &["payload", "callback_url"]);
    assert_violation(
        story,
        CheckRule::Erased,
        "a poll showed its payload, callback_url",
    );
    // One that was sent before it may show either, and never half of it.
    let before = || completed().erased().later(-STEP * 3 / 2);
    let asked = |story: Story| story.erase_answered();
    assert_passes(asked(before().polled(Some(Completed))));
    assert_passes(asked(before().polled_erased(Completed, &[])));
    let half = asked(before().polled_erased(Completed, &["result"]));
    assert_violation(half, CheckRule::Erased, "a poll showed its result");
    // Nor is it shown before it happens.
    let early = completed().polled_erased(Completed, &[]).later(STEP);
    assert_violation(
        early.erased().erase_answered(),
        CheckRule::Erased,
        "a poll showed it as erased",
    );
}

#[test]
fn the_outcome_of_an_erased_request_stays_as_it_was() {
    let story = erased().polled_erased(Failed, &[]);
    assert_violation(story, CheckRule::Seen, "and its row is COMPLETED");
    for status in [Pending, Processing, Failed] {
        let story = erased().moved(|state| state.status = status);
        let verdict = Example::with(story).verdict();
        assert!(
            verdict.by_rule().contains_key(&CheckRule::Erased),
            "{status}"
        );
    }
}

#[test]
fn no_redelivery_of_an_erased_request_begins() {
    let story = erased().redelivering().claimed_by("b").called(Some(200));
    let verdict = Example::with(story.redelivered()).verdict();
    let mut found = verdict.violations.iter().map(|violation| &violation.what);
    assert!(found.any(|what| what.starts_with("it was erased, and redelivered by")));
    // One that was refused for it was refused rightly.
    let early = completed().asked_again(refused(409, "request-erased"));
    assert_violation(early, CheckRule::Seen, "it was not erased");
    let wrong = erased().asked_again(refused(409, "nothing-to-redeliver"));
    assert_violation(wrong, CheckRule::Seen, "it has a result");
}

#[test]
fn no_callback_of_an_erased_request_is_read_later_than_its_attempts_may_last() {
    // A worker that had lost its claim.
    let lost = || Story::of(700).accepted().claimed_by("a").lost();
    let done = || lost().claimed_by("b").called(Some(200)).completed();
    let erased = || done().erased().erase_answered();
    assert_passes(erased().called(Some(200)));
    let late = erased().later(STEP * 26).called(Some(200));
    assert_violation(late, CheckRule::Erased, "a callback was read at");
}

#[test]
fn a_refusal_was_true_at_some_moment() {
    let refused = |status, problem: &str| EraseAnswer::Refused {
        status,
        problem: Some(problem.to_owned()),
    };
    let unfinished = || refused(409, "request-unfinished");
    let early = Story::of(700).accepted().erase_asked(unfinished());
    assert_passes(early.claimed_by("a").called(Some(200)).completed());
    let under_way = || refused(409, "redelivery-under-way");
    let story = completed().redelivering().claimed_by("b");
    let story = story.erase_asked(under_way()).called(Some(200));
    assert_passes(story.redelivered());
    for (answer, what) in [
        (unfinished(), "the job had ended"),
        (under_way(), "there was no redelivery"),
        (refused(404, "not-found"), "the job was known"),
        (refused(422, "validation"), "no fault of this run"),
    ] {
        let story = completed().later(STEP * 3).erase_asked(answer);
        assert_violation(story, CheckRule::Erased, what);
    }
}

#[test]
fn a_key_is_reused_only_after_the_erasure_of_its_job() {
    let keyed = || {
        let story = Story::of(700).keyed(SubmitAnswer::Accepted(id(700)));
        story.claimed_by("a").called(Some(200)).completed()
    };
    let erased = |story: Story| story.erased().erase_answered();
    assert_passes(erased(keyed()).keyed(SubmitAnswer::KeyReused));
    for story in [
        keyed().keyed(SubmitAnswer::KeyReused),
        erased(keyed().keyed(SubmitAnswer::KeyReused)),
    ] {
        Example::with(story).assert_run_violation(CheckRule::Named, "its job was not erased");
    }
}

#[test]
fn a_run_that_erases_has_some_erasures() {
    let mut example = Example::good();
    let erased: Vec<_> = (0..100_000)
        .step_by(1000)
        .flat_map(|start| [ERASED, ERASED_WITH_KEY].map(|it| id(start + it)))
        .collect();
    let names = ["020", "021"];
    example.records.retain(|record| match record {
        Record::Transition(moved) => !erased.contains(&moved.id),
        Record::Received(it) => !erased.contains(&it.id),
        Record::Row(row) => !erased.contains(&row.id),
        Record::Erased(_) | Record::EraseAsked(_) => false,
        Record::RedeliveryAsked(asked) => !erased.contains(&asked.id),
        Record::Polled(polled) => !erased.contains(&polled.id),
        Record::Submitted(it) => !names.iter().any(|name| it.report_name.ends_with(name)),
        _ => true,
    });
    example.assert_run_violation(CheckRule::Faults, "erasures were planned");
    // An older history promises none.
    let mut limits = limits();
    limits.erasures = false;
    assert!(check(&example.records, &limits).passed());
}
