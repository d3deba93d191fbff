//! Heads of answers that HTTP parsers dislike: the status line decides.

use std::{io::Read as _, time::Duration};

use bytes::Bytes;
use storm_shared::models::CallbackUrl;
use storm_worker::delivery::{AttemptError, ErrorDetail, Interruption, Message};

use super::{
    HASTY, PATIENT, attempt, class, loopback_client, message,
    scripted::{Receiver, events, read_request, wait_for_end, write},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Odd ends of an answer, after its status line.
fn odd_ends() -> Vec<(&'static str, String)> {
    let end = "\r\ncontent-length: 0\r\n\r\n";
    let line = |line: &str| format!("\r\n{line}{end}");
    vec![
        (
            "101 headers",
            format!("\r\n{}{end}", "x: y\r\n".repeat(101)),
        ),
        (
            "a large cookie",
            line(&format!("set-cookie: {}", "x".repeat(20_000))),
        ),
        ("NUL in a value", line("x: a\0b")),
        ("NUL in a name", line("a\0b: x")),
        ("DEL in a value", line("x: \x7f")),
        ("a space before a colon", line("x-powered-by : PHP")),
        ("a space in a name", line("x powered by: PHP")),
        ("a line without a colon", line("<br>Warning")),
        ("a folded line", line("x: a\r\n  b")),
        ("an empty name", line(": x")),
        ("a name that is not ASCII", line("x-\u{e9}: y")),
        ("a bare CR", line("x: y\rz")),
        (
            "a length beside chunks",
            "\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        ("a repeated length", line("content-length: 0")),
        ("different lengths", line("content-length: 5")),
        ("a length that is no number", line("content-length: five")),
        ("a negative length", line("content-length: -1")),
        (
            "a length over 64 bits",
            line("content-length: 99999999999999999999999"),
        ),
        ("a folded length", line("content-length:\r\n 5")),
        (
            "unknown codings",
            line("transfer-encoding: gzip, chunked, gzip"),
        ),
        ("a reason with a control character", format!(" O\x01K{end}")),
        (
            "a very long reason",
            format!(" {}{end}", "x".repeat(20_000)),
        ),
        ("no reason", end.to_owned()),
        (
            "bare line feeds",
            "\nx: y\ncontent-length: 0\n\n".to_owned(),
        ),
        ("a cut head", "\r\ncontent-le".to_owned()),
        ("an endless head", format!("\r\nx: {}", "x".repeat(100_000))),
    ]
}

#[tokio::test]
async fn a_2xx_with_an_odd_head_is_delivered() {
    for (what, end) in odd_ends() {
        let receiver = Receiver::start(move |_, stream| {
            read_request(stream);
            write(stream, &format!("HTTP/1.1 201{end}"));
        });
        let status = class(&loopback_client(PATIENT), &receiver.url()).await;
        assert_eq!(status, Ok(201), "{what}");
    }
}

#[tokio::test]
async fn any_other_status_with_an_odd_head_is_that_status() {
    for (what, end) in odd_ends() {
        let receiver = Receiver::start(move |_, stream| {
            read_request(stream);
            write(stream, &format!("HTTP/1.0 404{end}"));
        });
        let answered = attempt(&loopback_client(PATIENT), &receiver.url()).await;
        let error = answered.unwrap_err();
        assert_eq!(error.public_detail(), "HTTP status 404", "{what}");
        assert_eq!(error.retry_after(), None, "{what}");
    }
}

#[tokio::test]
async fn a_status_line_that_parsers_dislike_decides_the_attempt() {
    for line in [
        "HTTP/1.1  200 OK",
        "HTTP/1.7 200 OK",
        "\r\n\r\nHTTP/1.1 200 OK",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1  200 OK",
    ] {
        let receiver = Receiver::answering(format!("{line}\r\ncontent-length: 0\r\n\r\n"));
        let status = class(&loopback_client(PATIENT), &receiver.url()).await;
        assert_eq!(status, Ok(200), "{line:?}");
    }
}

#[tokio::test]
async fn a_connection_with_an_odd_head_is_not_used_again() {
    for (what, end) in odd_ends() {
        if what == "no reason" || what == "bare line feeds" {
            continue; // not odd to any parser
        }
        let answer = format!("HTTP/1.1 200{end}");
        let receiver = Receiver::start(move |_, stream| {
            while read_request(stream).is_some() {
                write(stream, &answer);
            }
        });
        // A timeout that a head without an end may use up.
        let client = loopback_client(HASTY);
        for connections in 1..=2 {
            assert_eq!(class(&client, &receiver.url()).await, Ok(200), "{what}");
            assert_eq!(receiver.connections(), connections, "{what}");
        }
    }
}

#[tokio::test]
async fn a_retry_after_beside_odd_headers_is_honoured() {
    for odd in ["x : y", "x: a\r\n b", "a\x01b: x", "a: \x7f", "no colon"] {
        let receiver = Receiver::answering(format!(
            "HTTP/1.1 503 No\r\n{odd}\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"
        ));
        let answered = attempt(&loopback_client(PATIENT), &receiver.url()).await;
        let wait = answered.unwrap_err().retry_after();
        assert_eq!(wait, Some(Duration::from_secs(7)), "{odd:?}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_in_time_counts_by_its_status_line() {
    for (status, expected) in [(204, Ok(204)), (500, Err("status"))] {
        let (report, mut reported) = events();
        let receiver = Receiver::start(move |_, stream| {
            read_request(stream);
            write(stream, &format!("HTTP/1.1 {status} Here\r\nx: "));
            wait_for_end(stream);
            let _ = report.blocking_send(());
        });
        let answered = class(&loopback_client(HASTY), &receiver.url()).await;
        assert_eq!(answered, expected);
        reported.recv().await.unwrap(); // the connection is closed
    }
}

#[tokio::test]
async fn a_connection_without_a_whole_status_line_is_interrupted() {
    let interim = "HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n";
    for (answer, kind) in [
        ("", Interruption::Closed),
        ("HTTP/1.1 2", Interruption::Closed),
        ("HTTP/1.1 200", Interruption::Closed),
        (interim, Interruption::Closed),
        ("HTTP/1.1 20 OK\r\n\r\n", Interruption::NotHttp),
        ("HTTP/1.1 2000 OK\r\n\r\n", Interruption::NotHttp),
        ("HTTP/1.1 OK\r\n\r\n", Interruption::NotHttp),
        ("HTTP/2 200\r\n\r\n", Interruption::NotHttp),
        ("http/1.1 200 OK\r\n\r\n", Interruption::NotHttp),
        ("SSH-2.0-x\r\n\r\n", Interruption::NotHttp),
        ("<html>ok</html>\n", Interruption::NotHttp),
        ("{\"status\": 200}", Interruption::NotHttp),
    ] {
        let receiver = Receiver::start(move |_, stream| {
            read_request(stream);
            write(stream, answer);
        });
        let answered = attempt(&loopback_client(PATIENT), &receiver.url()).await;
        let error = answered.unwrap_err();
        assert_eq!(error.class().as_str(), "interrupted", "{answer:?}");
        assert!(
            matches!(error, AttemptError::Interrupted { kind: got, .. } if got == kind),
            "{answer:?}: {error:?}"
        );
        assert!(error.to_string().len() < 2 * ErrorDetail::MAX_CHARS);
    }
}

#[tokio::test]
async fn endless_interim_answers_end_the_attempt_and_its_connection() {
    let field = format!("HTTP/1.1 103 Hints\r\nlink: {}\r\n\r\n", "x".repeat(10_000));
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", &field] {
        let (report, mut reported) = events();
        let interim = interim.to_owned();
        let receiver = Receiver::start(move |_, stream| {
            read_request(stream);
            let mut written = 0;
            while write(stream, &interim) {
                written += interim.len();
            }
            let _ = report.blocking_send(written);
        });
        let answered = attempt(&loopback_client(PATIENT), &receiver.url()).await;
        let error = answered.unwrap_err();
        assert_eq!(error.class().as_str(), "interrupted");
        assert_eq!(error.public_detail(), "too many interim (1xx) responses");
        reported.recv().await.unwrap(); // the connection is closed
    }
}

#[tokio::test]
async fn a_few_interim_answers_are_skipped_and_the_connection_is_kept() {
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n";
    let receiver = Receiver::answering(interim.repeat(16) + OK);
    let client = loopback_client(PATIENT);
    for _ in 0..3 {
        assert_eq!(class(&client, &receiver.url()).await, Ok(200));
    }
    assert_eq!(receiver.connections(), 1);
}

/// Interim heads that HTTP parsers dislike, or disagree on.
fn odd_interim_heads() -> Vec<(&'static str, String)> {
    let with_line = |line: &str| format!("HTTP/1.1 103 Early Hints\r\n{line}\r\n\r\n");
    let with_status_line = |line: &str| format!("{line}\r\nlink: x\r\n\r\n");
    vec![
        ("NUL in a value", with_line("link: a\0b")),
        ("NUL in a name", with_line("li\0nk: a")),
        ("a line without a colon", with_line("<br>Warning")),
        ("a folded line", with_line("link: a\r\n  b")),
        ("a space before a colon", with_line("link : a")),
        ("a bare CR", with_line("link: a\rb")),
        (
            "a reason with a control character",
            with_status_line("HTTP/1.1 103 Early\x01Hints"),
        ),
        ("a later version", with_status_line("HTTP/1.7 103 x")),
        ("two spaces", with_status_line("HTTP/1.1  103 x")),
        ("a tab", with_status_line("HTTP/1.1 103\tx")),
    ]
}

/// What may come before a final head and is over a parser's limits of one. All parsers agree on
/// where it ends.
fn large_interim_heads() -> Vec<(&'static str, String)> {
    let head = |rest: &str| format!("HTTP/1.1 103 {rest}\r\n\r\n");
    let large = "x".repeat(20_000);
    vec![
        (
            "120 headers",
            head(&format!("x{}", "\r\nlink: x".repeat(120))),
        ),
        ("a large header", head(&format!("x\r\nlink: {large}"))),
        ("a large reason", head(&large)),
        ("60 KB", head(&format!("x\r\nlink: {large}")).repeat(3)),
        ("empty lines", "\r\n".repeat(10_000)),
    ]
}

#[tokio::test]
async fn a_2xx_after_interim_heads_that_parsers_dislike_is_delivered() {
    let odd = odd_interim_heads().into_iter().map(|case| (case, 2));
    let large = large_interim_heads().into_iter().map(|case| (case, 1));
    for ((what, interim), connections) in odd.chain(large) {
        let receiver = Receiver::answering(interim + OK);
        let client = loopback_client(PATIENT);
        for _ in 0..2 {
            assert_eq!(class(&client, &receiver.url()).await, Ok(200), "{what}");
        }
        // A connection is not used again if parsers may disagree on where an answer ends.
        assert_eq!(receiver.connections(), connections, "{what}");
    }
}

#[tokio::test]
async fn interim_heads_that_parsers_dislike_hide_nothing_of_the_final_head() {
    let heads = odd_interim_heads().into_iter().chain(large_interim_heads());
    for (what, interim) in heads {
        let receiver = Receiver::answering(format!(
            "{interim}HTTP/1.1 503 No\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"
        ));
        let answered = attempt(&loopback_client(PATIENT), &receiver.url()).await;
        let wait = answered.unwrap_err().retry_after();
        assert_eq!(wait, Some(Duration::from_secs(7)), "{what}");
    }
}

#[tokio::test]
async fn switching_protocols_is_no_interim_head() {
    let receiver = Receiver::answering(format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n{OK}"
    ));
    let answered = attempt(&loopback_client(PATIENT), &receiver.url()).await;
    assert_eq!(answered.unwrap_err().public_detail(), "HTTP status 101");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_was_read_counts() {
    // The receiver closes with unread bytes, which resets the connection in the middle of the
    // request.
    let receiver = Receiver::start(|_, mut stream| {
        let _ = stream.read(&mut [0]);
        write(stream, "HTTP/1.1 202 Accepted\r\nconnection: close\r\n\r\n");
    });
    let large = Message {
        body: Bytes::from(vec![b' '; 32 << 20]),
        ..message()
    };
    let url = CallbackUrl::parse(&receiver.url()).unwrap();
    let answered = loopback_client(PATIENT).attempt(&url, &large).await;
    assert_eq!(answered.unwrap().as_u16(), 202);
}

#[tokio::test]
async fn a_receiver_that_speaks_first_is_told_as_what_it_is() {
    for (banner, told) in [
        ("220 mail.test ESMTP\r\n", "not a valid HTTP/1.1 response"),
        ("SSH-2.0-x\r\n", "not a valid HTTP/1.1 response"),
        (
            "HTTP/1.1 503 Busy\r\nconnection: close\r\n\r\n",
            "HTTP status 503",
        ),
    ] {
        let receiver = Receiver::start(move |_, stream| {
            write(stream, banner);
            wait_for_end(stream);
        });
        // Whether it comes before the request or after it.
        for _ in 0..20 {
            let answered = attempt(&loopback_client(PATIENT), &receiver.url()).await;
            assert_eq!(answered.unwrap_err().public_detail(), told, "{banner}");
        }
    }
}
