//! What an answer with a status of success is.

use storm_shared::models::AttemptClass;
use storm_worker::handler::Next;

use super::{MAX_RESULT, answering, attempt_at, result_of};
use crate::delivery::scripted::{Receiver, read_request, write};

const JSON: &str = "200 OK\r\ncontent-type: application/json";

#[tokio::test]
async fn json_is_kept_byte_for_byte() {
    for body in [
        r#"{"b" : 1,"a":[1.0, 1e400, 12345678901234567890], "b":2}"#,
        r#""\u0000 \/ \ud83d\ude00 é""#,
        "false",
    ] {
        for content_type in [
            "application/json; charset=utf-8",
            "application/problem+json",
        ] {
            let head = format!("201 Created\r\ncontent-type: {content_type}");
            let output = attempt_at(&answering(&head, body)).await.unwrap();
            assert_eq!((output.as_str(), output.status()), (body, Some(201)));
        }
    }
    let marked = answering(JSON, "\u{feff}[1]");
    assert_eq!(result_of(&marked).await, "[1]");
}

#[tokio::test]
async fn a_text_in_utf_8_is_a_string() {
    for content_type in [
        "text/plain",
        "text/html; charset=\"UTF-8\"",
        "text/csv;charset=us-ascii",
    ] {
        let head = format!("200 OK\r\ncontent-type: {content_type}");
        let receiver = answering(&head, "\"é\"\r\n\0😀");
        assert_eq!(result_of(&receiver).await, r#""\"é\"\r\n\u0000😀""#);
    }
}

#[tokio::test]
async fn anything_else_is_base64_with_its_content_type() {
    for (header, content_type, body, base64) in [
        (
            "content-type: image/png",
            "image/png",
            &b"\0\xff"[..],
            "AP8=",
        ),
        ("content-type: text/plain", "text/plain", b"\xe9", "6Q=="),
        (
            "content-type: text/plain; charset=latin1",
            "text/plain; charset=latin1",
            b"a",
            "YQ==",
        ),
        ("x: y", "application/octet-stream", b"{}", "e30="),
        ("content-type: ", "application/octet-stream", b"{}", "e30="),
    ] {
        let receiver = answering(&format!("200 OK\r\n{header}"), body);
        let expected = format!(r#"{{"content_type":"{content_type}","base64":"{base64}"}}"#);
        assert_eq!(result_of(&receiver).await, expected);
    }
}

#[tokio::test]
async fn an_empty_body_is_null() {
    for head in [JSON, "202 Accepted", "200 OK\r\ncontent-type: text/plain"] {
        assert_eq!(result_of(&answering(head, "")).await, "null");
    }
    let no_content = Receiver::answering("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(result_of(&no_content).await, "null");
}

#[tokio::test]
async fn a_body_may_be_chunked_or_end_with_the_connection_and_follow_interim_answers() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n\
         1\r\n[\r\n2;x=y\r\n1]\r\n0\r\nx: trailer\r\n\r\n",
        "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n[1]",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n[1]",
    ] {
        let receiver = Receiver::start(move |_, stream| {
            read_request(stream);
            write(stream, answer);
        });
        assert_eq!(result_of(&receiver).await, "[1]", "{answer}");
    }
}

#[tokio::test]
async fn a_result_has_at_most_max_result_bytes_and_a_larger_one_is_final() {
    let body = |length| format!("\"{}\"", "x".repeat(length - 2));
    let chunked = |body: &str| {
        Receiver::answering(format!(
            "HTTP/1.1 {JSON}\r\ntransfer-encoding: chunked\r\n\r\n1\r\n\"\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            body.len() - 1,
            &body[1..]
        ))
    };
    let most = body(MAX_RESULT);
    assert_eq!(result_of(&answering(JSON, &most)).await, most);
    assert_eq!(result_of(&chunked(&most)).await, most);
    let more = body(MAX_RESULT + 1);
    for receiver in [answering(JSON, &more), chunked(&more)] {
        let failure = attempt_at(&receiver).await.unwrap_err();
        assert_eq!(failure.next, Next::End);
        assert_eq!(failure.class, AttemptClass::Invalid);
        assert_eq!(failure.status, Some(200));
        let told = "the handler's result is larger than max_result, 1000 bytes";
        assert_eq!(failure.detail, told);
    }
}

#[tokio::test]
async fn json_that_cannot_be_used_is_a_failed_attempt_that_says_so_and_is_retried() {
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let deeper = "[".repeat(MAX_RESULT);
    for (body, told) in [
        (&b"{\"a\":1"[..], "not valid JSON: EOF while parsing"),
        (
            b"<html>",
            "not valid JSON: expected value at line 1 column 1",
        ),
        (b"\"\0\"", "not valid JSON: control character"),
        (b"[1] [2]", "not valid JSON: trailing characters"),
        (b"\"\xff\"", "JSON is not UTF-8"),
        (b"\"\xed\xa0\x80\"", "JSON is not UTF-8"),
        (b"\xff\xfe[\0]\0", "JSON is not UTF-8"),
        (br#"["\ud800"]"#, "half a surrogate pair"),
        (deep.as_bytes(), "nested deeper than 128 levels"),
        (deeper.as_bytes(), "not valid JSON: EOF while parsing"),
    ] {
        let failure = attempt_at(&answering(JSON, body)).await.unwrap_err();
        assert_eq!(failure.next, Next::Retry { after: None });
        assert_eq!(failure.class, AttemptClass::Invalid);
        assert_eq!(failure.status, Some(200));
        assert!(failure.detail.contains(told), "{}", failure.detail);
    }
}

#[tokio::test]
async fn a_coding_that_was_not_asked_for_is_a_failed_attempt() {
    for encoding in ["gzip", "br", "identity, gzip", "x"] {
        let head = format!("{JSON}\r\ncontent-encoding: {encoding}");
        let failure = attempt_at(&answering(&head, "[]")).await.unwrap_err();
        assert_eq!(failure.class, AttemptClass::Invalid);
        assert!(
            failure.detail.contains("content-encoding"),
            "{}",
            failure.detail
        );
    }
    let plain = answering(&format!("{JSON}\r\ncontent-encoding: Identity"), "[]");
    assert_eq!(result_of(&plain).await, "[]");
}
