use std::time::Duration;

use serde_json::json;

use super::{
    ChaosFigures, Figures, JobFigures, Judged, Missing, RecoveryFigures, RequestFigures, Run,
    Threshold, hold,
};
use crate::{
    answers::{AnswerSummary, FailureCounts},
    latency::Percentiles,
};

fn parse(text: &str) -> Threshold {
    Threshold::parse(text, Run::Storm).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// 100, 200, 300, 400 and 500 times this.
fn percentiles(unit: Duration) -> Percentiles {
    Percentiles {
        p50: unit * 100,
        p95: unit * 200,
        p99: unit * 300,
        p999: unit * 400,
        max: unit * 500,
    }
}

/// Of 200 requests that were due, 190 were answered.
fn requests() -> RequestFigures {
    let failed = FailureCounts {
        refused: 1,
        timeout: 2,
        not_sent: 7,
        ..FailureCounts::default()
    };
    RequestFigures {
        answers: AnswerSummary {
            requests: 200,
            ok: 190,
            failed,
            latency: Some(percentiles(Duration::from_millis(1))),
            first_failure: None,
        },
        ok_per_s: 99.5,
    }
}

fn jobs() -> JobFigures {
    JobFigures {
        completion: Some(percentiles(Duration::from_millis(10))),
        lateness: None,
        accepted: 190,
        right: 187,
        lost: 1,
        wrong: 0,
        failed: 2,
        repeated: 19,
        unexpected: 0,
        completed_per_s: 90.0,
    }
}

fn figures() -> Figures {
    Figures {
        requests: Some(requests()),
        jobs: Some(jobs()),
        ..Figures::default()
    }
}

fn judge(text: &str) -> Judged {
    parse(text).judge(&figures())
}

fn exceeds(text: &str) -> bool {
    judge(text).exceeded
}

#[test]
fn a_threshold_is_met_by_what_was_measured_or_not() {
    for (text, expected) in [
        ("p99>299ms", true),
        ("p99>300ms", false),
        ("p99>=300ms", true),
        ("p50<100ms", false),
        ("p50<=100ms", true),
        ("max > 499999us", true),
        ("p99.9>400ms", false),
        ("callback.p99>3s", false),
        ("callback.p99>2s", true),
        ("lost>0", true),
        ("wrong>0", false),
        ("errors>10", false),
        ("errors>=10", true),
        ("not_sent>6", true),
        ("ok<95%", false),
        ("ok<95.5%", true),
        ("repeated>=10%", true),
        ("repeated>10 %", false),
        ("ok_per_s<100", true),
        ("completed_per_s<90", false),
    ] {
        assert_eq!(exceeds(text), expected, "{text}");
    }
}

#[test]
fn what_was_not_measured_fails_the_run() {
    let judged = judge("lateness.p99>1h");
    assert!(judged.exceeded && judged.measured.is_none());
    let mut none = figures();
    none.jobs = Some(JobFigures {
        accepted: 0,
        ..jobs()
    });
    let share = parse("lost>50%").judge(&none);
    assert!(share.exceeded && share.measured.is_none());
    none.jobs = None;
    assert!(parse("lost>0").judge(&none).exceeded);
    assert!(!hold(&[judged]) && hold(&[]));
}

#[test]
fn a_threshold_that_is_none_is_refused_with_what_is_accepted() {
    for (text, accepted) in [
        ("", "such as p99>50ms"),
        ("p99", "one of > >= < <="),
        ("p99=50ms", "one of > >= < <="),
        ("p99==50ms", "one of > >= < <="),
        (
            "p98>50ms",
            "there is no figure `p98`; there are p50, p95, p99,",
        ),
        ("p98>50ms", "callback.p99, "),
        (">50ms", "there is no figure ``"),
        ("sync.p99>50ms", "there is no figure `sync.p99`"),
        (
            "p99>50",
            "p99 is a time: compare it with a whole number and a unit",
        ),
        ("p99>=", "p99 is a time"),
        ("p99>-1ms", "p99 is a time"),
        ("p99>1%", "p99 is a time"),
        (
            "lost>0ms",
            "lost is a count: compare it with a whole number, or a share",
        ),
        ("lost>-1", "lost is a count"),
        ("lost>101%", "lost is a count"),
        ("lost>NaN%", "lost is a count"),
        ("lost>>0", "lost is a count"),
        ("ok_per_s<inf", "ok_per_s is a rate per second"),
        ("ok_per_s<1e3", "ok_per_s is a rate per second"),
        ("ok_per_s<1.2.3", "ok_per_s is a rate per second"),
    ] {
        let error = Threshold::parse(text, Run::Storm).expect_err(text);
        assert!(error.contains(accepted), "{text}: {error}");
    }
    let error = Threshold::parse("p99>1s", Run::Demo).expect_err("two sides");
    assert!(
        error.contains("sync.p99, ") && error.contains("async.p99, "),
        "{error}"
    );
    let error = Threshold::parse("p99", Run::Demo).expect_err("no operator");
    assert!(error.contains("such as async.p99>50ms"), "{error}");
}

#[test]
fn every_figure_can_be_compared_and_has_one_name() {
    for run in [Run::Storm, Run::Demo, Run::Chaos] {
        let names: Vec<_> = run.figures().map(super::Figure::name).collect();
        assert!(Threshold::parse(run.example().split(' ').next().unwrap(), run).is_ok());
        for name in &names {
            let accepted =
                ["1ms", "1"].map(|bound| Threshold::parse(&format!("{name}>{bound}"), run).is_ok());
            assert!(accepted.contains(&true), "{name}");
            assert_eq!(names.iter().filter(|it| *it == name).count(), 1, "{name}");
        }
    }
}

#[test]
fn the_sides_of_a_demo_have_figures_of_their_own() {
    let (mut slow, quick) = (requests(), requests());
    slow.answers.latency = Some(percentiles(Duration::from_secs(1)));
    let figures = Figures {
        sync: Some(slow),
        ack: Some(quick),
        jobs: Some(jobs()),
        ..Figures::default()
    };
    let judge = |text: &str| {
        let threshold = Threshold::parse(text, Run::Demo).unwrap();
        threshold.judge(&figures).exceeded
    };
    assert!(judge("sync.p99>10s") && !judge("async.p99>10s"));
    assert!(judge("callback.p50<=1s"));
}

#[test]
fn a_chaos_run_has_recovery_times_and_repeats() {
    let chaos = ChaosFigures {
        requests: 1000,
        accepted: 900,
        unanswered: 60,
        outcome_unknown: 30,
        not_sent: 10,
        callbacks: 2000,
        repeated: 30,
        recovery: RecoveryFigures {
            kill: Some(Duration::from_secs(4)),
            ..RecoveryFigures::default()
        },
    };
    let figures = Figures {
        chaos: Some(chaos),
        ..Figures::default()
    };
    for (text, expected) in [
        ("recovery.kill>5s", false),
        ("recovery.kill>3s", true),
        ("recovery.freeze>5s", true), // not measured
        ("repeated>1%", true),
        ("repeated>2%", false),
        ("accepted<90%", false),
        ("not_sent>0", true),
    ] {
        let threshold = Threshold::parse(text, Run::Chaos).unwrap();
        assert_eq!(threshold.judge(&figures).exceeded, expected, "{text}");
    }
    let error = Threshold::parse("lost>0", Run::Chaos).expect_err("a rule, not a figure");
    assert!(error.contains("there are accepted, "), "{error}");
}

#[test]
fn a_figure_that_a_run_can_not_have_is_found_before_it() {
    let check = |text: &str, missing| parse(text).check(missing);
    let error = check("callback.p99>1s", Missing::Jobs).unwrap_err();
    assert_eq!(
        error,
        "--fail-if callback.p99>1s: it is a figure of jobs, and /sync makes none"
    );
    let error = check("lateness.p99>1s", Missing::Lateness).unwrap_err();
    assert!(error.contains("use callback and not lateness"), "{error}");
    assert_eq!(check("p99>1s", Missing::Jobs), Ok(()));
    assert_eq!(check("callback.p99>1s", Missing::Lateness), Ok(()));
    let promotion = Threshold::parse("recovery.promotion>9s", Run::Chaos).unwrap();
    let error = promotion.check(Missing::Promotion).unwrap_err();
    assert!(error.contains("without --postgres"), "{error}");
}

#[test]
fn json_has_the_number_and_its_unit() {
    let json = |text: &str| serde_json::to_value(judge(text)).unwrap();
    assert_eq!(
        json("p99>50ms"),
        json!({"fail_if": "p99>50ms", "figure": "p99", "measured": 300.0, "unit": "ms",
            "exceeded": true})
    );
    assert_eq!(
        json("lost > 3"),
        json!({"fail_if": "lost > 3", "figure": "lost", "measured": 1.0, "unit": null,
            "exceeded": false})
    );
    assert_eq!(json("repeated>1%")["unit"], "%");
    assert_eq!(json("ok_per_s<1")["unit"], "per_s");
    assert_eq!(json("lateness.max>1s")["measured"], json!(null));
}
