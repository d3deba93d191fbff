//! Requests that the API refuses, and the problem that it returns for each.

use serde_json::json;
use storm_api::body::LIMIT;

use crate::{
    client::{bare, post},
    server::Server,
};

#[tokio::test]
async fn malformed_json_is_400_with_line_and_column() {
    let server = Server::start(&[]).await;
    for body in ["{\"records\": 10,", "[]", "", "nonsense"] {
        let answer = server.ask(post("/async", body)).await;
        assert_eq!(answer.problem(), "400 malformed-body");
    }
    let answer = server.ask(post("/sync", "{\n  oops}")).await;
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("line 2 column 3"), "{detail}");
}

#[tokio::test]
async fn a_body_that_is_not_utf_8_is_400() {
    let server = Server::start(&[]).await;
    let mut request = post("/async", "{\"report_name\": \"..\"}").into_bytes();
    let end = request.len() - 3;
    request[end] = 0xff;
    assert_eq!(server.ask(request).await.problem(), "400 malformed-body");
}

#[tokio::test]
async fn an_unknown_path_is_404() {
    let server = Server::start(&[]).await;
    for path in [
        "//",
        "/nothing",
        "/async/more/than",
        "/handlers/x",
        "/request",
        "/requests/a/b",
        "/sync%2f",
    ] {
        assert_eq!(
            server.ask(bare("GET", path)).await.problem(),
            "404 not-found",
            "{path}"
        );
        assert_eq!(
            server.ask(post(path, "{}")).await.problem(),
            "404 not-found",
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_unsupported_method_is_405_with_the_allowed_methods() {
    let server = Server::start(&[]).await;
    for (path, allowed) in [
        ("/sync", "POST"),
        ("/async", "POST"),
        ("/async/report", "POST"),
        ("/async/nothing", "POST"),
        ("/handlers", "GET, HEAD"),
        ("/requests/x", "GET, HEAD, DELETE"),
        ("/healthz", "GET, HEAD"),
        ("/livez", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
    ] {
        for method in ["PATCH", "PUT", "OPTIONS", "BREW"] {
            let answer = server.ask(bare(method, path)).await;
            assert_eq!(
                answer.problem(),
                "405 method-not-allowed",
                "{method} {path}"
            );
            assert_eq!(answer.header("allow"), Some(allowed));
        }
    }
    assert_eq!(server.ask(bare("GET", "/async")).await.status, 405);
    assert_eq!(server.ask(post("/healthz", "{}")).await.status, 405);
}

#[tokio::test]
async fn a_body_timeout_is_408_and_closes_the_connection() {
    let server = Server::start(&[("HTTP_TIMEOUT", "1s")]).await;
    let mut client = server.connect().await;
    let request = post("/async", r#"{"records": 10}"#);
    client.send(&request[..request.len() - 1]).await;
    let answer = client.answer().await;
    assert_eq!(answer.problem(), "408 body-timeout");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_with_and_without_content_length() {
    let server = Server::start(&[]).await;
    // The whole body is sent before the answer is read, as simple clients do.
    let body = format!("{:<1$}", "{}", LIMIT + 1);
    assert_eq!(
        server.ask(post("/async", &body)).await.problem(),
        "413 body-too-large"
    );
    let chunk = format!("{:x}\r\n{body}\r\n", body.len());
    let chunked = format!(
        "POST /async HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(20)
    );
    assert_eq!(server.ask(chunked).await.problem(), "413 body-too-large");
    let at_the_limit = format!("{:<LIMIT$}", "{}");
    assert_eq!(
        server.ask(post("/async", at_the_limit)).await.problem(),
        "422 validation"
    );
}

#[tokio::test]
async fn a_content_length_over_the_limit_is_413_before_the_body_is_read() {
    let server = Server::start(&[]).await;
    let request = "POST /async HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: 99999999\r\nexpect: 100-continue\r\n\r\n";
    let answer = server.ask(request).await;
    assert_eq!(answer.problem(), "413 body-too-large");
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn an_unsupported_or_missing_content_type_is_415_and_keeps_the_connection() {
    let server = Server::start(&[]).await;
    let mut client = server.connect().await;
    let right = post("/async", r#"{"records": 10, "report_name": "a"}"#);
    for kind in [
        "content-type: text/plain\r\n",
        "content-type: application/xml\r\n",
        "",
    ] {
        client
            .send(right.replace("content-type: application/json\r\n", kind))
            .await;
        let answer = client.answer().await;
        assert_eq!(answer.problem(), "415 unsupported-media-type");
        assert!(
            answer.json()["detail"]
                .as_str()
                .unwrap()
                .contains("application/json")
        );
    }
    client.send(&right).await;
    assert_eq!(client.answer().await.status, 202);
}

#[tokio::test]
async fn a_second_content_type_and_a_foreign_charset_are_415_and_keep_the_connection() {
    let server = Server::start(&[]).await;
    let mut client = server.connect().await;
    let right = post("/async", r#"{"records": 10, "report_name": "a"}"#);
    let json = "content-type: application/json\r\n";
    for (kinds, detail) in [
        (format!("{json}content-type: text/plain\r\n"), "once"),
        (format!("content-type: text/plain\r\n{json}"), "once"),
        (json.repeat(2), "once"),
        (json.replace("json", "json; charset=utf-16"), "UTF-8"),
    ] {
        client.send(right.replace(json, &kinds)).await;
        let answer = client.answer().await;
        assert_eq!(answer.problem(), "415 unsupported-media-type", "{kinds}");
        assert!(answer.text().contains(detail), "{}", answer.text());
    }
    for charset in ["utf-8", "UTF-8", "us-ascii"] {
        let declared = json.replace("json", &format!("json; charset={charset}"));
        client.send(right.replace(json, &declared)).await;
        assert_eq!(client.answer().await.status, 202, "{charset}");
    }
}

#[tokio::test]
async fn a_coded_body_is_refused_and_says_to_send_it_uncompressed() {
    let server = Server::start(&[]).await;
    let mut client = server.connect().await;
    let right = post("/async", r#"{"records": 10, "report_name": "a"}"#);
    let gzip = right.replacen("content-type", "content-encoding: gzip\r\ncontent-type", 1);
    client.send(gzip).await;
    let answer = client.answer().await;
    assert_eq!(answer.problem(), "415 unsupported-media-type");
    assert_eq!(answer.header("accept-encoding"), Some("identity"));
    assert!(answer.text().contains("uncompressed"), "{}", answer.text());

    for path in ["/async", "/sync", "/requests/redeliver?status=FAILED"] {
        for codings in ["gzip, chunked", "gzip\r\ntransfer-encoding: chunked"] {
            let coded = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 transfer-encoding: {codings}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
            );
            client.send(coded).await;
            let answer = client.answer().await;
            assert_eq!(answer.problem(), "501 unsupported-transfer-coding");
            assert!(answer.text().contains("uncompressed"), "{}", answer.text());
        }
    }
    client.send(&right).await;
    assert_eq!(client.answer().await.status, 202, "the connection is kept");
}

#[tokio::test]
async fn one_422_lists_every_validation_error() {
    let server = Server::start(&[]).await;
    let body = json!({"records": 1.5, "report_name": 7, "callback_url": "x", "speed": "high"});
    let answer = server.ask(post("/async", body)).await;
    assert_eq!(answer.problem(), "422 validation");
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    let fields: Vec<_> = errors
        .iter()
        .map(|error| error["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["speed", "records", "report_name", "callback_url"]);
    assert!(errors.iter().all(|error| error["detail"].is_string()));
}

#[tokio::test]
async fn sync_and_async_have_different_limits_on_records() {
    let server = Server::start(&[]).await;
    for (path, records, status) in [
        ("/sync", 50, 422),
        ("/async", 50, 202),
        ("/async", 100_000, 202),
        ("/async", 100_001, 422),
    ] {
        let body = json!({"records": records, "report_name": "a"});
        assert_eq!(
            server.ask(post(path, body)).await.status,
            status,
            "{path} {records}"
        );
    }
}

#[tokio::test]
async fn the_ssrf_policy_refuses_internal_addresses_in_every_notation() {
    let server = Server::start(&[]).await;
    for url in [
        "http://localhost:8001/webhook",
        "http://LocalHost./",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://%31%32%37.0.0.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::]/",
        "http://0/",
        "http://10.1.2.3/",
        "http:\\\\192.168.0.1\\",
    ] {
        let body = json!({"records": 1, "report_name": "a", "callback_url": url});
        let answer = server.ask(post("/async", body)).await;
        assert_eq!(answer.problem(), "422 validation", "{url}");
        assert_eq!(answer.json()["errors"][0]["field"], "callback_url");
    }
}
