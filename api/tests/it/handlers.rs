//! `POST /async/{handler}`: jobs for handlers. `GET /handlers`: which ones there are.

use std::{fs, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use storm_api::body::LIMIT;
use storm_shared::{
    models::HandlerName,
    services::store::{Candidate, OpenBreaker, OwnerId},
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use crate::{
    PATIENCE,
    auth::{bearing, entry, token},
    client::{Answer, Client, bare, post},
    eventually,
    idempotency::{accepted, rows, with_key},
    program_database::Direct,
    redis_server::RedisServer,
    server::Server,
    service::{Service, exited_with, program},
};

/// A handler whose URL must not show.
const PDF: (&str, &str) = ("HANDLERS__PDF__URL", "http://127.0.0.1:9/secret-path");

/// The smallest `max_payload`.
const MAX_PAYLOAD: usize = 1024;

/// A handler with the smallest `max_payload`.
const LIMITED: [(&str, &str); 2] = [PDF, ("HANDLERS__PDF__MAX_PAYLOAD", "1KiB")];

async fn start(more: &[(&str, &str)]) -> Server {
    Server::start(&[&LIMITED, more].concat()).await
}

fn submission(handler: &str, payload: impl std::fmt::Display) -> String {
    post(
        &format!("/async/{handler}"),
        format!("{{\"payload\": {payload}}}"),
    )
}

fn chunked(path: &str, chunks: &[&str]) -> String {
    let chunks = chunks
        .iter()
        .map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    let chunks = chunks.collect::<Vec<_>>().concat();
    format!("{}{chunks}0\r\n\r\n", chunked_head(path))
}

fn chunked_head(path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n"
    )
}

/// The stored payload of a job, small or large, and its handler.
async fn stored(database: &Direct, id: &str) -> (String, Option<String>) {
    let payload = database.either(
        "coalesce((SELECT body FROM bodies WHERE request_id = id AND kind = 'input'),
             input_payload)",
        "input_payload",
    );
    let query = format!("SELECT {payload}, handler FROM requests WHERE id = '{id}'");
    let [mut row] = database.rows(&query).await.try_into().unwrap();
    (row[0].take().unwrap(), row[1].take())
}

fn faults(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.problem(), "422 validation");
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    let fault = |it: &Value| format!("{}: {}", it["field"], it["detail"]).replace('"', "");
    errors.iter().map(fault).collect()
}

#[tokio::test]
async fn a_job_for_a_handler_is_accepted_and_says_where_it_is_told_of() {
    let redis = RedisServer::start();
    let server = start(&[("REDIS_URL", &redis.url()), ("QUEUE_NAME", "jobs")]).await;
    let url = "https://hooks.example/a?b=c";
    let body = json!({"payload": {"page": 7}, "callback_url": url});
    let answer = server.ask(post("/async/pdf", body)).await;
    let id = accepted(&answer, false);
    assert_eq!(answer.header("location"), Some(&*format!("/requests/{id}")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let said = answer.json();
    assert_eq!(
        (&said["status"], &said["message"]),
        (
            &json!("pending"),
            &json!(format!(
                "Job accepted for `pdf`. We will call you back at {url}"
            ))
        )
    );
    assert!(said["expected_at"].is_string());
    let row = server
        .ask(bare("GET", &format!("/requests/{id}")))
        .await
        .json();
    assert_eq!(
        (
            &row["status"],
            &row["mode"],
            &row["handler"],
            &row["callback_url"]
        ),
        (
            &json!("PENDING"),
            &json!("async"),
            &json!("pdf"),
            &json!(url)
        )
    );
    assert_eq!(row["input_payload"], json!({"page": 7}));
    // The workers that serve it hear of it, and no others.
    let entries = |stream| {
        let range = ::redis::cmd("XRANGE").arg(&[stream, "-", "+"]).clone();
        format!("{:?}", redis.command(&range))
    };
    eventually("the notification", || entries("jobs:pdf").contains(&id)).await;
    assert!(!entries("jobs").contains(&id));

    let polled = server.ask(submission("pdf", 1)).await;
    let id = accepted(&polled, false);
    let message = format!("Job accepted for `pdf`. Poll GET /requests/{id} for the result");
    assert_eq!(polled.json()["message"], message);
}

#[tokio::test]
async fn a_payload_is_stored_and_shown_byte_for_byte() {
    let server = Server::start(&[PDF]).await;
    let large = format!("[\"{}\",  1.50, {{}}]", "é".repeat(100_000));
    let deepest = format!("{}{}", "[".repeat(128), "]".repeat(128));
    for payload in [
        "null",
        "-0.00e+5",
        "123456789012345678901234567890",
        r#"{"a": 1,  "a": 2, "\u0061" : [ ]}"#,
        r#""\u0000 \ud800 \udc00\ud800 \ud83d\ude00 \/ é""#,
        &deepest,
        &large,
    ] {
        let id = accepted(&server.ask(submission("pdf", payload)).await, false);
        let pdf = Some("pdf".to_owned());
        let row = stored(&server.database().await, &id).await;
        assert_eq!(row, (payload.to_owned(), pdf));
        let shown = server.ask(bare("GET", &format!("/requests/{id}"))).await;
        let shown = shown.text();
        assert!(
            shown.contains(&format!(r#""input_payload":{payload},"#)),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_payload_is_bounded_to_the_byte_and_its_body_by_16_kib_more() {
    let server = start(&[]).await;
    let payload = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let (most, over) = (payload(MAX_PAYLOAD), payload(MAX_PAYLOAD + 1));
    // Nothing around a payload counts as a part of it.
    let spaced = format!("  {most}\n\t ");
    for sent in [&most, &spaced] {
        accepted(&server.ask(submission("pdf", sent)).await, false);
    }
    let mut client = server.connect().await;
    client.send(submission("pdf", &over)).await;
    let answer = client.answer().await;
    assert_eq!(answer.problem(), "413 body-too-large");
    let detail = "The payload has 1025 bytes. `pdf` takes at most 1024.";
    assert_eq!(answer.json()["detail"], detail);
    assert_eq!(answer.header("connection"), None);

    let body = format!("{{\"payload\": {most}}}");
    let longest = format!("{body:<0$}", MAX_PAYLOAD + LIMIT);
    let half = longest.len() / 2;
    let longest_chunked = chunked("/async/pdf", &[&longest[..half], &longest[half..]]);
    for request in [post("/async/pdf", &longest), longest_chunked] {
        client.send(request).await;
        accepted(&client.answer().await, false);
    }
    let longer_chunked = chunked("/async/pdf", &[&longest, " "]);
    for request in [post("/async/pdf", format!("{longest} ")), longer_chunked] {
        let answer = server.ask(request).await;
        assert_eq!(answer.problem(), "413 body-too-large");
        assert_eq!(answer.json()["detail"], "Send at most 17408 bytes.");
    }
    // That of the report has a bound of its own.
    let report = format!("{{\"records\": 1, \"report_name\": \"a\"{:1$}}}", "", LIMIT);
    let answer = server.ask(submission("report", &report)).await;
    assert_eq!(answer.problem(), "413 body-too-large");
    assert!(answer.text().contains("`report` takes at most 16384"));
    assert_eq!(rows(&server.database().await).await, 4);
}

#[tokio::test]
async fn an_endless_body_is_413() {
    let server = start(&[]).await;
    let mut endless = TcpStream::connect(server.addr).await.unwrap();
    let head = chunked_head("/async/pdf");
    endless.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("1000\r\n{{\"payload\": \"{}\r\n", "x".repeat(0x1000 - 13));
    let sent = tokio::spawn({
        async move {
            // Until the connection is closed.
            while endless.write_all(chunk.as_bytes()).await.is_ok() {}
        }
    });
    eventually("the refusal is counted", || {
        let line = r#"storm_api_refused_total{endpoint="async",reason="body-too-large"} 1"#;
        server.app.metrics.render().contains(line)
    })
    .await;
    sent.await.unwrap();
    eventually("all memory is given back", || {
        server.app.memory.reserved() == 0
    })
    .await;
    assert_eq!(rows(&server.database().await).await, 0);
}

#[tokio::test]
async fn nesting_past_128_levels_is_422_however_deep_it_is() {
    let server = Server::start(&[PDF]).await;
    for levels in [129, 100_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let payload = format!("{}0{}", open.repeat(levels), close.repeat(levels));
            if payload.len() > 256 << 10 {
                continue; // its size refuses it
            }
            let answer = server.ask(submission("pdf", payload)).await;
            let fault =
                "payload: must have at most 128 levels of arrays and objects within each other";
            assert_eq!(faults(&answer), [fault]);
        }
    }
    // Nothing that is parsed recurses: not what is no payload, nor what does not end.
    let deep = "[".repeat(100_000);
    for (body, problem) in [
        (deep.clone(), "400 malformed-body"),
        (format!("{{\"payload\": {deep}}}"), "400 malformed-body"),
        (format!("{{\"payload\": {deep}"), "400 malformed-body"),
        (
            format!("{{\"x\": {deep}{}, \"payload\": 1}}", "]".repeat(100_000)),
            "422 validation",
        ),
    ] {
        let answer = server.ask(post("/async/pdf", body)).await;
        assert_eq!(answer.problem(), problem);
    }
    accepted(&server.ask(submission("pdf", 1)).await, false);
}

#[tokio::test]
async fn every_fault_of_a_submission_is_named_at_once() {
    let server = start(&[]).await;
    let body = r#"{"callback_url": "http://10.0.0.1/", "Payload": 1, "callback_url": "x:",
        "report_name": "a"}"#;
    let unknown = "is not a field of this request; its fields are `payload` and `callback_url`";
    assert_eq!(
        faults(&server.ask(post("/async/pdf", body)).await),
        [
            format!("Payload: {unknown}"),
            format!("report_name: {unknown}"),
            "callback_url: must be given once, not several times".to_owned(),
            "payload: is missing; it may be any JSON, also null".to_owned(),
            "callback_url: must begin with `http://` or `https://`".to_owned(),
        ]
    );
    let twice = r#"{"payload": 1, "payl\u006fad": 1}"#;
    assert_eq!(
        faults(&server.ask(post("/async/pdf", twice)).await),
        ["payload: must be given once, not several times"]
    );
    let refused = r#"{"payload": 1, "callback_url": "http://10.0.0.1/"}"#;
    let answer = server.ask(post("/async/pdf", refused)).await;
    assert!(faults(&answer)[0].contains("public address"));
    let scrape = server.app.metrics.render();
    assert!(scrape.contains(r#"storm_api_refused_callbacks_total{rule="private"} 1"#));
    for body in [
        "",
        "null",
        "[]",
        "{\"payload\": }",
        "{\"payload\": 01}",
        "{\"payload\": \"\t\"}",
    ] {
        let answer = server.ask(post("/async/pdf", body)).await;
        assert_eq!(answer.problem(), "400 malformed-body", "{body}");
    }
    let mut invalid = submission("pdf", "\"..\"").into_bytes();
    let end = invalid.len() - 4;
    invalid[end] = 0xff;
    let answer = server.ask(invalid).await;
    assert_eq!(answer.problem(), "400 malformed-body");
    assert!(answer.text().contains("must be UTF-8"), "{}", answer.text());
    assert_eq!(rows(&server.database().await).await, 0);
}

#[tokio::test]
async fn an_unknown_handler_is_404_before_its_body_and_names_those_that_there_are() {
    let server = start(&[("HANDLERS__A_B__URL", "http://127.0.0.1:9/")]).await;
    let longest = "x".repeat(10_000);
    for name in [
        "pdg",
        "PDF",
        "pdf%20",
        "%70df",
        "a__b",
        "pdf;",
        "\u{1F600}",
        &longest,
    ] {
        // The body is promised, and never sent.
        let request = format!(
            "POST /async/{name} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: 99999999999\r\n\r\n"
        );
        let answer = server.ask(request).await;
        assert_eq!(answer.problem(), "404 unknown-handler", "{name}");
        assert_eq!(
            answer.json()["detail"],
            "No handler has this name. The handlers are: `report`, `a_b`, `pdf`."
        );
    }
    // Nor is a body that was sent.
    let sent = post("/async/nothing", "{".repeat(900_000));
    let answer = server.ask(sent).await;
    assert_eq!(answer.problem(), "404 unknown-handler");
    assert_eq!(server.app.memory.reserved(), 0);
}

#[tokio::test]
async fn the_requests_of_a_handler_are_listed_and_another_name_is_422_with_those_there_are() {
    let server = start(&[]).await;
    let pdf = server.ask(submission("pdf", "{}")).await.json();
    let report = r#"{"records": 1, "report_name": "a"}"#;
    let report = server.ask(post("/async", report)).await.json();
    for (handler, id) in [
        ("pdf", &pdf["request_id"]),
        ("report", &report["request_id"]),
    ] {
        let path = format!("/requests?handler={handler}");
        let listed = server.ask(bare("GET", &path)).await.json();
        let requests = listed["requests"].as_array().unwrap();
        assert_eq!(requests.len(), 1, "{listed}");
        assert_eq!(
            (&requests[0]["id"], &requests[0]["handler"]),
            (id, &json!(handler))
        );
    }
    // Mistyped, or removed.
    let answer = server.ask(bare("GET", "/requests?handler=pdg")).await;
    assert_eq!(answer.problem(), "422 validation");
    assert_eq!(faults(&answer), [UNKNOWN_FILTER]);
}

const UNKNOWN_FILTER: &str = "handler: must be one of the handlers in the settings: `report`, \
     `pdf`; or a removed one while it has work to do; `storm-api requests list --handler` lists \
     those of any";

#[tokio::test]
async fn the_report_is_a_handler_whose_payload_has_the_reports_fields() {
    let server = start(&[]).await;
    let url = "https://hooks.example/";
    let body = json!({"payload": {"report_name": "Q1", "records": 10}, "callback_url": url});
    let first = server
        .ask(with_key("k", &post("/async/report", body)))
        .await;
    let id = accepted(&first, false);
    let message = format!("Report generation started. We will call you back at {url}");
    assert_eq!(first.json()["message"], message);
    // It is the same job as that of `POST /async`.
    let flat = json!({"records": 10, "report_name": "Q1", "callback_url": url});
    let again = server.ask(with_key("k", &post("/async", flat))).await;
    assert_eq!(accepted(&again, true), id);
    assert_eq!(again.text(), first.text());
    let (payload, handler) = stored(&server.database().await, &id).await;
    let payload: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(
        (payload, handler),
        (json!({"records": 10, "report_name": "Q1"}), None)
    );

    let flat = json!({"records": 10, "report_name": "Q1"});
    let unknown = "is not a field of this request; its fields are `payload` and `callback_url`";
    let answer = server.ask(post("/async/report", flat)).await;
    assert_eq!(faults(&answer).len(), 3);
    assert!(answer.text().contains(unknown));
    let payload = json!({"records": 0, "report_name": "a", "speed": 1});
    assert_eq!(
        faults(&server.ask(submission("report", payload)).await),
        [
            "payload.speed: is not a field of this request; its fields are `records` and \
             `report_name`",
            "payload.records: must be a whole number from 1 to 100000",
        ]
    );
}

#[tokio::test]
async fn a_key_belongs_to_one_handler_and_one_payload() {
    let server = start(&[("HANDLERS__OTHER__URL", "http://127.0.0.1:9/")]).await;
    let ask = async |request: String| server.ask(with_key("k", &request)).await;
    let first = ask(submission("pdf", "{\"a\": 1}")).await;
    let id = accepted(&first, false);
    let escaped = post("/async/pdf", "{\"p\\u0061yload\":  {\"a\": 1} }");
    for repeat in [submission("pdf", "{\"a\": 1}"), escaped] {
        let again = ask(repeat).await;
        assert_eq!(accepted(&again, true), id);
        assert_eq!(again.text(), first.text());
    }
    for other in [
        submission("other", "{\"a\": 1}"),
        // The payload counts as it was sent.
        submission("pdf", "{\"a\":1}"),
        post("/async", r#"{"records": 1, "report_name": "a"}"#),
    ] {
        assert_eq!(ask(other).await.problem(), "422 idempotency-key-reused");
    }
    assert_eq!(rows(&server.database().await).await, 1);
    let scrape = server.ask(bare("GET", "/metrics")).await;
    for line in [
        r#"storm_api_accepted_jobs_total{handler="pdf",kind="new"} 1"#,
        r#"storm_api_accepted_jobs_total{handler="pdf",kind="replayed"} 2"#,
        r#"storm_api_accepted_jobs_total{handler="other",kind="new"} 0"#,
        r#"storm_api_accepted_jobs_total{handler="report",kind="new"} 0"#,
    ] {
        assert!(scrape.text().contains(line), "{line}: {}", scrape.text());
    }
}

#[tokio::test]
async fn a_worker_of_the_release_before_refuses_jobs_for_handlers_until_it_is_gone() {
    // No release before this one knew PostgreSQL.
    let server = Server::on_sqlite(&LIMITED).await;
    let (store, database) = (&server.app.store, server.database().await);
    let owner = OwnerId::generate();
    store.register(owner, &[]).await.unwrap();
    // As that release registers.
    let old = "UPDATE workers SET handlers = NULL";
    database.change(1, old).await;
    let answer = server.ask(submission("pdf", 1)).await;
    assert_eq!(answer.problem(), "503 old-workers");
    assert_eq!(answer.header("retry-after"), Some("30"));
    let report = post("/async", r#"{"records": 1, "report_name": "a"}"#);
    accepted(&server.ask(report).await, false);
    database.run("DELETE FROM workers").await;
    accepted(&server.ask(submission("pdf", 1)).await, false);
    assert_eq!(rows(&database).await, 2);
}

#[tokio::test]
async fn the_rules_of_async_hold_for_its_handlers_too() {
    let (one, other) = (token(), token());
    let tokens = [entry("one", &one), entry("other", &other)].join(",");
    let server = start(&[
        ("API_TOKENS", &tokens),
        ("RATE_LIMIT", "6/h"),
        ("MAX_BACKLOG", "1"),
    ])
    .await;
    let request = submission("pdf", 1);
    assert_eq!(server.ask(&request).await.problem(), "401 unauthorized");
    assert_eq!(server.ask(bare("GET", "/handlers")).await.status, 401);
    let marked = request.replacen("\r\n", "\r\nstorm-callback: 1\r\n", 1);
    let crossed = request.replacen("\r\n", "\r\norigin: https://evil.example\r\n", 1);
    for (request, problem) in [(marked, "403 callback-loop"), (crossed, "403 cross-origin")] {
        assert_eq!(server.ask(bearing(&one, &request)).await.problem(), problem);
    }
    let typed = request.replace("application/json", "text/plain");
    let keyed = with_key("a b", &request);
    for (request, problem) in [
        (typed, "415 unsupported-media-type"),
        (keyed, "400 bad-idempotency-key"),
    ] {
        assert_eq!(server.ask(bearing(&one, &request)).await.problem(), problem);
    }
    let id = accepted(&server.ask(bearing(&one, &request)).await, false);
    let found = bare("GET", &format!("/requests/{id}"));
    assert_eq!(server.ask(bearing(&one, &found)).await.status, 200);
    assert_eq!(server.ask(bearing(&other, &found)).await.status, 404);
    let full = server.ask(bearing(&one, &request)).await;
    assert_eq!(full.problem(), "503 backlog-full");
    let listed = server.ask(bearing(&one, &bare("GET", "/handlers"))).await;
    assert_eq!(listed.status, 200);
    let limited = server.ask(bearing(&one, &request)).await;
    assert_eq!(limited.problem(), "429 rate-limited");
}

#[tokio::test]
async fn payloads_count_in_the_memory_budget() {
    let budget = ("MEMORY_BUDGET", "8MiB");
    let server = Server::start(&[PDF, budget]).await;
    let memory = &server.app.memory;
    let others = memory.reserve_up_to(memory.limit() - 100_000);
    let request = submission("pdf", format!("\"{}\"", "x".repeat(100_000)));
    let mut client = server.connect().await;
    client.send(&request).await;
    let answer = client.answer().await;
    assert_eq!(answer.problem(), "503 memory-budget-exceeded");
    drop(others);
    client.send(&request).await;
    accepted(&client.answer().await, false);
    eventually("all memory is given back", || memory.reserved() == 0).await;
}

#[tokio::test]
async fn a_large_answer_counts_in_the_memory_budget_until_its_client_has_read_it() {
    // More than the buffers of a connection take.
    const RESULT: usize = 32 << 20;
    let server = Server::start(&[PDF, ("MEMORY_BUDGET", "40MiB")]).await;
    let id = accepted(&server.ask(submission("pdf", 1)).await, false);
    let small = accepted(&server.ask(submission("pdf", 2)).await, false);
    let database = server.database().await;
    let stored = database.either("printf('\"%.*c\"', $, 'x')", "to_json(repeat('x', $))");
    let stored = stored.replace('$', &(RESULT - 2).to_string());
    let stored = format!("UPDATE requests SET result_payload = {stored} WHERE id = '{id}'");
    database.change(1, &stored).await;
    let result = format!("\"{}\"", "x".repeat(RESULT - 2));
    let get = bare("GET", &format!("/requests/{id}"));
    let mut slow = server.connect().await;
    slow.send(&get).await;
    let memory = &server.app.memory;
    eventually("the answer is reserved", || memory.reserved() > RESULT).await;
    let other = server.ask(&get).await;
    assert_eq!(other.problem(), "503 memory-budget-exceeded");
    assert_eq!(other.header("retry-after"), Some("1"));
    let small = server.ask(bare("GET", &format!("/requests/{small}"))).await;
    assert_eq!(small.status, 200);
    assert!(memory.reserved() > RESULT);
    let answer = slow.answer().await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["result_payload"], result.trim_matches('"'));
    eventually("all memory is given back", || memory.reserved() == 0).await;
    assert_eq!(server.ask(&get).await.status, 200);
}

#[tokio::test]
async fn handlers_are_listed_with_their_limits_and_without_what_is_the_operators() {
    let server = start(&[
        (
            "HANDLERS__PDF__SECRET",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ),
        ("HANDLERS__PDF__HEADERS__X_API_KEY", "confidential"),
        ("HANDLERS__PDF__CONCURRENCY", "7"),
        ("HANDLERS__THUMBS__KIND", "rust"),
        ("HANDLERS__THUMBS__TIMEOUT", "250ms"),
        ("HANDLERS__THUMBS__MAX_RESULT", "2KiB"),
    ])
    .await;
    let answer = server.ask(bare("GET", "/handlers")).await;
    assert_eq!(answer.status, 200);
    let listed = answer.json();
    let handler = |index: usize, field: &str| listed["handlers"][index][field].clone();
    for (field, values) in [
        ("name", [json!("report"), json!("pdf"), json!("thumbs")]),
        ("kind", [json!("built-in"), json!("http"), json!("rust")]),
        ("concurrency", [Value::Null, json!(7), json!(100)]),
        ("timeout_ms", [Value::Null, json!(30_000), json!(250)]),
        ("max_payload", [json!(16_384), json!(1024), json!(262_144)]),
        ("max_result", [Value::Null, json!(1_048_576), json!(2048)]),
    ] {
        assert_eq!([0, 1, 2].map(|index| handler(index, field)), values);
    }
    assert_eq!(listed["handlers"].as_array().unwrap().len(), 3);
    for hidden in ["127.0.0.1", "secret", "whsec", "api", "confidential"] {
        assert!(!answer.text().contains(hidden), "{}", answer.text());
    }
    let mut client = server.connect().await;
    client.send(bare("HEAD", "/handlers")).await;
    assert_eq!(client.head().await.status, 200);
}

#[tokio::test]
async fn what_waits_and_runs_of_a_handler_is_listed_and_measured() {
    let server = start(&[("HANDLERS__IDLE__URL", "http://127.0.0.1:9/")]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(accepted(&server.ask(submission("pdf", 1)).await, false));
    }
    let (store, owner) = (&server.app.store, OwnerId::generate());
    store
        .register(owner, &["pdf".parse().unwrap()])
        .await
        .unwrap();
    let claimed = vec![Candidate::notified(ids[0].parse().unwrap())];
    let claimed = store.claim(owner, claimed, usize::MAX).await.unwrap();
    assert_eq!(claimed.jobs.len(), 1);
    // Nobody serves it any more, and its job is left.
    let orphan = format!(
        "UPDATE requests SET handler = 'gone' WHERE id = '{}'",
        ids[1]
    );
    server.database().await.change(1, &orphan).await;

    let listed = async || {
        let listed = server.ask(bare("GET", "/handlers")).await.json();
        let handlers = listed["handlers"].as_array().unwrap().iter();
        let loads = handlers.map(|it| {
            let load = ["waiting", "running", "workers"].map(|field| it[field].as_u64());
            (it["name"].as_str().unwrap().to_owned(), load)
        });
        loads.collect::<Vec<_>>()
    };
    let expected = [
        ("report".to_owned(), [None; 3]),
        ("idle".to_owned(), [Some(0), Some(0), Some(0)]),
        ("pdf".to_owned(), [Some(1), Some(1), Some(1)]),
    ];
    let shown = async { while listed().await != expected {} };
    timeout(PATIENCE, shown)
        .await
        .expect("the jobs are counted");
    let scrape = server.ask(bare("GET", "/metrics")).await;
    for line in [
        r#"storm_api_handler_jobs{handler="pdf",state="running"} 1"#,
        r#"storm_api_handler_jobs{handler="idle",state="due"} 0"#,
        r#"storm_api_handler_workers{handler="pdf"} 1"#,
        r#"storm_api_handler_workers{handler="gone"} 0"#,
    ] {
        assert!(scrape.text().contains(line), "{line}: {}", scrape.text());
    }
}

#[tokio::test]
async fn the_breaker_of_a_handler_is_listed_with_the_workers_in_which_it_is_open() {
    let server = start(&[]).await;
    let store = server.app.store.clone();
    let pdf: HandlerName = "pdf".parse().unwrap();
    let breaker = async || {
        let listed = server.ask(bare("GET", "/handlers")).await.json();
        let handlers = listed["handlers"].as_array().unwrap().clone();
        assert_eq!(handlers[0]["breaker"], Value::Null, "the report has none");
        let of_pdf = handlers.into_iter().find(|it| it["name"] == "pdf");
        of_pdf.unwrap()["breaker"].clone()
    };
    let until = async |state: Value, counts: [u64; 3]| {
        let shown = async {
            loop {
                let breaker = breaker().await;
                let now = ["open", "half_open", "unknown"].map(|it| breaker[it].as_u64());
                if breaker["state"] == state && now == counts.map(Some) {
                    return breaker["until"].clone();
                }
            }
        };
        let shown = timeout(PATIENCE, shown).await;
        shown.unwrap_or_else(|_| panic!("never {state} with {counts:?}"))
    };
    assert_eq!(until(Value::Null, [0, 0, 0]).await, Value::Null);
    let workers = [OwnerId::generate(), OwnerId::generate()];
    for worker in workers {
        let pdf_only = std::slice::from_ref(&pdf);
        store.register(worker, pdf_only).await.unwrap();
    }
    assert_eq!(until(json!("closed"), [0, 0, 0]).await, Value::Null);
    let report = async |worker: OwnerId, breaker: OpenBreaker| {
        let open = vec![(pdf.clone(), breaker)];
        store.report_breakers(worker, open).await.unwrap();
    };
    report(workers[0], OpenBreaker::HalfOpen).await;
    assert_eq!(until(json!("half-open"), [0, 1, 0]).await, Value::Null);
    let probe_in = Duration::from_hours(1);
    report(workers[1], OpenBreaker::Open { probe_in }).await;
    let at = until(json!("open"), [1, 1, 0]).await;
    let at: Timestamp = at.as_str().unwrap().parse().unwrap();
    assert!(at > Timestamp::now(), "{at}");
    store.deregister(workers[1]).await.unwrap();
    until(json!("half-open"), [0, 1, 0]).await;
    let forget = "UPDATE workers SET breakers = NULL";
    server.database().await.run(forget).await;
    until(Value::Null, [0, 0, 1]).await;
}

#[tokio::test]
async fn sighup_adds_changes_and_removes_handlers() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("storm.toml");
    let table = |name: &str, more: &str| {
        format!("[handlers.{name}]\nurl = 'http://127.0.0.1:9/'\n{more}\n")
    };
    let write = |text: String| {
        let new = file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &file).unwrap();
    };
    write(table("pdf", "max_payload = '1KiB'"));
    let mut command = program(folder.path());
    command.env("STORM_CONFIG", &file);
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    let mut client = Client::connect(service.addr).await;
    let mut ask = async |request: String| {
        client.send(request).await;
        client.answer().await
    };
    let large = || submission("pdf", format!("\"{}\"", "x".repeat(2000)));
    assert_eq!(ask(large()).await.problem(), "413 body-too-large");
    assert_eq!(ask(submission("new", 1)).await.status, 404);

    write(table("pdf", "max_payload = '2KiB'") + &table("new", ""));
    service.signal("HUP");
    let line = service.says_nth("SIGHUP: ", 0).await;
    assert_eq!(line["changed"], "HANDLERS__NEW, HANDLERS__PDF", "{line}");
    accepted(&ask(large()).await, false);
    accepted(&ask(submission("new", 1)).await, false);

    write(table("new", ""));
    service.signal("HUP");
    let line = service.says_nth("SIGHUP: ", 1).await;
    assert_eq!(line["changed"], "HANDLERS__PDF", "{line}");
    let gone = ask(large()).await;
    assert_eq!(gone.problem(), "404 unknown-handler");
    let detail = "No handler has this name. The handlers are: `report`, `new`.";
    assert_eq!(gone.json()["detail"], detail);
    let listed = ask(bare("GET", "/handlers")).await;
    assert!(!listed.text().contains("pdf"), "{}", listed.text());
    let accepted = r#"storm_api_accepted_jobs_total{handler="pdf""#;
    let scrape = ask(bare("GET", "/metrics")).await;
    assert!(!scrape.text().contains(accepted), "{}", scrape.text());
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn payloads_are_never_logged() {
    let folder = TempDir::new().unwrap();
    let mut command = program(folder.path());
    command.env("LOG", "trace").env(PDF.0, PDF.1);
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    let deep = format!("{}\"confidential\"{}", "[".repeat(200), "]".repeat(200));
    let large = format!("\"confidential {}\"", "x".repeat(10_000));
    for (request, status) in [
        (submission("pdf", r#"{"confidential": 1}"#), 202),
        (submission("pdf", &large), 202),
        (submission("pdf", deep), 422),
        (
            submission("pdf", "\"confidential\", \"confidential\": 1"),
            422,
        ),
        (submission("pdf", "confidential"), 400),
        (submission("report", r#"{"confidential": 1}"#), 422),
    ] {
        assert_eq!(service.ask(request).await.status, status);
    }
    assert!(exited_with(service.stop().await, 0));
    let said = fs::read_to_string(folder.path().join("api.log")).unwrap();
    assert!(said.contains(r#""level":"TRACE""#), "{said}");
    assert!(!said.contains("confidential"), "{said}");
}
