use serde_json::{Value, json};

use super::{is_report, page};
use crate::{
    chaos::course::{Course, CourseFault, CoursePart, CoursePoint},
    report::{chaos::tests::result, export::document},
};

fn times(ms: f64) -> Value {
    json!({"p50_ms": ms, "p95_ms": ms * 2.0, "p99_ms": ms * 3.0, "p99_9_ms": ms * 4.0,
        "max_ms": ms * 5.0})
}

fn failed(refused: u64) -> Value {
    json!({"refused": refused, "timeout": 0, "other_status": 0, "connection": 0, "wrong_answer": 0,
        "not_sent": 0, "outcome_unknown": 0})
}

fn answers(ok: u64, refused: u64, ms: f64) -> Value {
    let latency = if ok > 0 { times(ms) } else { Value::Null };
    json!({"requests": ok + refused, "ok": ok, "failed": failed(refused), "latency": latency,
        "first_failure": null})
}

fn jobs(accepted: u64, right: u64) -> Value {
    json!({"accepted": accepted, "right": right, "lost": accepted - right, "not_awaited": 0,
        "repeated": 0, "wrong": 0, "failed": 0, "unexpected": 0,
        "signatures": {"checked": true, "right": right, "headers": 0, "id": 0, "stale": 0,
            "wrong": 0},
        "ideal_ms": 490.0, "time_to_completion": times(500.0), "lateness": times(10.0),
        "deviation": null, "completed_per_s": 12.345})
}

fn series(points: u32, ms: Option<f64>) -> Value {
    let latency = ms.map_or(Value::Null, times);
    let point = |number: u32| {
        json!({"at_ms": number * 100, "offered": 10, "sent": 10, "ok": u8::from(ms.is_some()) * 10,
            "refused": u8::from(ms.is_none()) * 10, "failed": 0, "in_flight": 2,
            "answer": latency, "completed": 0, "completion": null})
    };
    json!({"interval_ms": 100, "points": (0..points).map(point).collect::<Vec<_>>()})
}

fn storm(mode: &str, rate: u32, (ok, refused): (u64, u64)) -> Value {
    let ms = if ok > 0 { Some(5.0) } else { None };
    let buckets = if ok > 0 {
        json!([[5.012, ok]])
    } else {
        json!([])
    };
    let jobs = if mode == "async" {
        jobs(ok, ok)
    } else {
        Value::Null
    };
    json!({"command": "storm", "passed": ok > 0, "api": "http://127.0.0.1:8000", "mode": mode,
        "rate": rate, "duration_ms": 1000.0, "handler": null, "records": 10, "payload_bytes": null,
        "interrupted": false, "offered": ok + refused, "sent": ok + refused, "unanswered": 0,
        "answers": answers(ok, refused, 5.0), "completion": {"by": "callback"}, "jobs": jobs,
        "series": series(10, ms), "distribution": {"answer": buckets, "completion": []}})
}

fn demo() -> Value {
    let side = |ok: u64, refused: u64, ms: f64| {
        let mut side = answers(ok, refused, ms);
        side["series"] = series(50, Some(ms));
        side["distribution"] = json!({"answer": [[ms, ok]], "completion": []});
        side
    };
    json!({"command": "demo", "passed": true, "api": "http://127.0.0.1:8000",
        "callback_url": "http://localhost:8001/webhook", "interrupted": false, "requests": 50,
        "records": 49, "sync": side(40, 10, 2460.0), "async": side(50, 0, 10.0),
        "jobs": jobs(50, 50), "why_lost": null})
}

fn report(results: &[Value]) -> String {
    let texts: Vec<String> = results.iter().map(ToString::to_string).collect();
    page(&texts).unwrap()
}

fn error(results: &[Value]) -> String {
    let texts: Vec<String> = results.iter().map(ToString::to_string).collect();
    format!("{:#}", page(&texts).unwrap_err())
}

/// The data of the plots.
fn plots(text: &str) -> Vec<Value> {
    let (_, data) = text.split_once("id=\"plots\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    serde_json::from_str(data).unwrap()
}

fn names(plot: &Value) -> Vec<&str> {
    let lines = plot["lines"].as_array().unwrap().iter();
    lines.map(|line| line["name"].as_str().unwrap()).collect()
}

#[test]
fn a_demo_shows_both_endpoints_in_each_plot_and_a_mark_for_each_promise() {
    let text = report(&[demo()]);
    assert!(is_report(text.as_bytes()));
    let plots = plots(&text);
    assert_eq!(plots.len(), 4);
    for plot in &plots {
        let names = names(plot);
        assert!(names.iter().any(|it| it.starts_with("/sync")), "{names:?}");
        assert!(names.iter().any(|it| it.starts_with("/async")), "{names:?}");
    }
    for promise in ["Every job ends", "At-least-once delivery", "Clear answers"] {
        let kept = format!("<b>{promise}</b><span class=\"unseen\"> (kept)");
        assert!(text.contains(&kept), "{promise}");
    }
    // It does not claim what it has not tested.
    assert!(text.contains("<b>Durable</b><span class=\"unseen\"> (not judged)"));
    assert!(text.contains("80 % with a p95 of 4.92 s"));
    // Every number of a plot is in a table.
    assert_eq!(text.matches("<details class=\"numbers\">").count(), 4);
    assert!(text.contains("<td>4920</td>"));
}

#[test]
fn a_lost_job_breaks_a_promise() {
    let mut demo = demo();
    demo["passed"] = json!(false);
    demo["jobs"] = jobs(50, 49);
    demo["why_lost"] = json!("it is <PENDING>");
    let text = report(&[demo]);
    assert!(text.contains("<p class=\"outcome broken\">"));
    assert!(text.contains("1 of 50 accepted jobs did not end in time"));
    assert!(text.contains("it is &lt;PENDING&gt;"));
    assert!(!text.contains("outcome kept"));
}

#[test]
fn an_exceeded_threshold_is_the_outcome_beside_kept_promises() {
    let threshold = |fail_if: &str, measured: u32, unit: Option<&str>, exceeded: bool| {
        json!({"fail_if": fail_if, "figure": "", "measured": measured, "unit": unit,
            "exceeded": exceeded})
    };
    for exceeded in [true, false] {
        let mut result = storm("async", 100, (100, 0));
        result["passed"] = (!exceeded).into();
        result["thresholds"] = json!([
            threshold("p99>10ms", 15, Some("ms"), exceeded),
            threshold("lost>0", 0, None, false),
        ]);
        let text = report(&[result]);
        let failed = "failed: a threshold was exceeded";
        assert_eq!(text.contains(failed), exceeded, "{text}");
        for shown in [
            "Not p99&gt;10ms",
            "measured: 15 ms",
            "Not lost&gt;0",
            "measured: 0",
        ] {
            assert!(text.contains(shown), "{shown} is not in {text}");
        }
    }
}

#[test]
fn storms_at_several_rates_show_the_knee() {
    let results: Vec<Value> = [(25, 25, 0), (50, 50, 0), (100, 60, 40)]
        .into_iter()
        .flat_map(|(rate, ok, refused)| {
            [
                storm("sync", rate, (ok, refused)),
                storm("async", rate, (rate.into(), 0)),
            ]
        })
        .collect();
    let text = report(&results);
    let plots = plots(&text);
    // Two over the rates, and four for each rate.
    assert_eq!(plots.len(), 14);
    assert_eq!(plots[0]["at"], json!([25.0, 50.0, 100.0]));
    let marks = plots[0]["marks"].as_array().unwrap();
    assert_eq!(marks.len(), 1, "/async keeps up with all of them");
    assert_eq!(
        (&marks[0]["at"], &marks[0]["ink"]),
        (&json!(50.0), &json!("sync"))
    );
    assert!(text.contains("/sync keeps up to 50/s. /async keeps up with every rate"));
    // The highest rate comes first, and only that is unfolded.
    assert_eq!(text.matches("<details class=\"folded\">").count(), 2);
    let place = |text: &str, what: &str| text.find(what).unwrap();
    assert!(place(&text, "At 100 requests") < place(&text, "At 50 requests"));
}

#[test]
fn a_storm_that_was_refused_altogether_says_so_in_place_of_its_latency() {
    let text = report(&[storm("sync", 100, (0, 100))]);
    assert!(text.contains("No request succeeded, so there is no latency."));
    // Throughput, and requests in flight.
    assert_eq!(plots(&text).len(), 2);
    assert!(text.contains("not one request succeeded"));
    assert!(text.contains("<p class=\"outcome broken\">"));
}

#[test]
fn a_run_without_success_fails_the_report_of_a_sweep() {
    let text = report(&[storm("async", 50, (50, 0)), storm("sync", 50, (0, 50))]);
    assert!(text.contains("<p class=\"outcome broken\">"), "{text}");
    assert!(text.contains("in 1 of 2 runs, not one request succeeded"));
}

/// A condition of `--fail-if` that was met.
fn exceeded(mut result: Value, fail_if: &str) -> Value {
    result["passed"] = json!(false);
    result["thresholds"] = json!([{"fail_if": fail_if, "figure": "p99", "measured": 5.0,
        "unit": "ms", "exceeded": true}]);
    result
}

#[test]
fn the_thresholds_of_a_sweep_name_their_runs() {
    let storms = [storm("async", 10, (5, 0)), storm("async", 20, (5, 0))];
    let text = report(&storms.map(|it| exceeded(it, "p99>1ms")));
    for run in ["/async at 10/s", "/async at 20/s"] {
        assert!(text.contains(&format!("{run}: not p99&gt;1ms")), "{text}");
    }
    assert!(text.contains("failed: a threshold was exceeded"));
}

#[test]
fn a_late_demo_has_passed_and_a_threshold_that_it_exceeds_is_what_it_fails_by() {
    let mut late = demo();
    late["async"]["latency"]["p95_ms"] = json!(140.0);
    let text = report(std::slice::from_ref(&late));
    assert!(
        text.contains("passed, with late acknowledgements"),
        "{text}"
    );
    let text = report(&[exceeded(late, "async.p99>50ms")]);
    assert!(text.contains("failed: a threshold was exceeded"), "{text}");
    let mut wrong = demo();
    wrong["jobs"]["right"] = json!(49);
    wrong["jobs"]["wrong"] = json!(1);
    let text = report(&[exceeded(wrong, "async.p99>50ms")]);
    assert!(
        text.contains("failed: not every job was delivered"),
        "{text}"
    );
}

#[test]
fn an_interrupted_storm_is_neither_passed_nor_failed() {
    let mut storm = storm("async", 10, (5, 0));
    storm["interrupted"] = json!(true);
    storm["passed"] = json!(false);
    storm["unanswered"] = json!(3);
    storm["jobs"]["right"] = json!(3);
    storm["jobs"]["not_awaited"] = json!(2);
    let text = report(&[storm]);
    assert!(text.contains("<p class=\"outcome open\">"), "{text}");
    assert!(text.contains("3 answers and 2 jobs were not awaited"));
    assert!(text.contains("2 of 5 jobs were not awaited"));
}

#[test]
fn a_run_without_a_single_event_has_no_plot_and_no_error() {
    let mut storm = storm("async", 10, (0, 0));
    storm["series"] = json!({"interval_ms": 100, "points": []});
    storm["interrupted"] = json!(true);
    let text = report(&[storm]);
    assert!(text.contains("<p class=\"outcome open\">"), "{text}");
    assert!(plots(&text).is_empty());
    assert_eq!(text.matches("class=\"missing\"").count(), 4);
}

#[test]
fn a_result_of_an_earlier_version_has_its_numbers_and_no_plot() {
    let mut storm = storm("sync", 10, (10, 0));
    let fields = storm.as_object_mut().unwrap();
    fields.remove("series");
    fields.remove("distribution");
    let text = report(&[storm]);
    assert!(plots(&text).is_empty());
    assert!(text.contains("an earlier version has written it"));
    assert!(text.contains("<th scope=\"row\">/sync at 10/s</th>"));
}

#[test]
fn the_report_of_an_hour_is_small() {
    let mut storm = storm("async", 500, (1_800_000, 0));
    let point = |number: u32| {
        let ms = f64::from(number) * 1.234_567;
        json!({"at_ms": number * 12800, "offered": 123_456, "sent": 123_456, "ok": 123_456,
            "refused": 123_456, "failed": 123_456, "in_flight": 12_345, "answer": times(ms),
            "completed": 123_456, "completion": times(ms)})
    };
    let points: Vec<Value> = (0..240).map(point).collect();
    storm["series"] = json!({"interval_ms": 12800, "points": points});
    let buckets: Vec<Value> = (0..190)
        .map(|it| json!([f64::from(it) * 1.1, 12_345]))
        .collect();
    storm["distribution"] = json!({"answer": buckets, "completion": buckets});
    let size = report(&[storm.clone()]).len();
    assert!(size < 500_000, "{size}");
    // Each of many runs has fewer points.
    let many: Vec<Value> = (1..=50)
        .map(|rate| {
            let mut storm = storm.clone();
            storm["rate"] = json!(rate);
            storm
        })
        .collect();
    let size = report(&many).len();
    assert!(size < 4_000_000, "{size}");
}

#[test]
fn a_chaos_run_shows_what_was_broken_when() {
    let mut run = result(false);
    run.course = Course {
        interval_ms: 250,
        points: vec![CoursePoint {
            accepted: 5,
            ..CoursePoint::default()
        }],
        faults: vec![CourseFault {
            kind: "kill_worker".to_owned(),
            at_ms: 100,
            healed_ms: 200,
            in_flight: 7,
            kill: true,
        }],
        parts: vec![CoursePart {
            part: "storm".to_owned(),
            at_ms: 240,
        }],
    };
    let text = page(&[document("chaos", true, &run).unwrap()]).unwrap();
    let plots = plots(&text);
    assert_eq!(plots.len(), 3);
    assert_eq!(plots[0]["lines"][0]["cells"], json!([20.0]));
    assert_eq!(plots[1]["lanes"], json!(["kill worker"]));
    assert_eq!(plots[0]["together"], plots[1]["together"]);
    assert!(text.contains("<b>Rule fences</b><span class=\"unseen\"> (kept)"));
    assert!(
        text.contains("<dd>18446744073709551615</dd>"),
        "the seed is exact"
    );
    // The machine comes from the result.
    assert!(text.contains("<dd>storm-loadgen "));
}

#[test]
fn a_chaos_run_that_broke_a_promise_or_was_interrupted_says_so() {
    let mut run = result(false);
    run.violations.push("worker-1 exited with 101".to_owned());
    let text = page(&[document("chaos", false, &run).unwrap()]).unwrap();
    assert!(text.contains("failed: 1 violations") && text.contains("worker-1 exited with 101"));
    assert!(text.contains("No fault was injected.") && text.contains("Nothing was sent."));
    let text = page(&[document("chaos", false, &result(true)).unwrap()]).unwrap();
    assert!(text.contains("<p class=\"outcome open\">"));
    assert!(!text.contains("(kept)") && !text.contains("(broken)"));
}

#[test]
fn results_that_can_not_share_a_report_are_refused() {
    let both = error(&[demo(), storm("sync", 1, (1, 0))]);
    assert!(both.contains("only storms can share a report"), "{both}");
    assert!(error(&[]).contains("a report needs a result"));
    let other = error(&[json!({"command": "other", "passed": true})]);
    assert!(other.contains("unknown variant `other`"), "{other}");
}

#[test]
fn only_an_empty_file_and_a_report_may_be_replaced() {
    for (text, expected) in [
        ("", true),
        ("\n", true),
        (
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<title>mine</title>",
            false,
        ),
        ("{\"command\": \"storm\"", false),
    ] {
        assert_eq!(is_report(text.as_bytes()), expected, "{text}");
    }
}
