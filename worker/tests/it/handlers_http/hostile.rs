//! Hostile endpoints: what is endless, huge or slow.

use std::{thread, time::Duration};

use storm_shared::{memory::MemoryBudget, models::AttemptClass};
use storm_worker::{
    delivery::Network,
    handler::{Failure, Next},
    handlers::http::HttpClient,
};

use super::{HASTY, PATIENT, attempt, endpoint, handler_in};
use crate::delivery::{
    names::Names,
    scripted::{Receiver, events, read_request, wait_for_end, write},
};

const RETRY: Next = Next::Retry { after: None };

/// The failure of an attempt at an endpoint that runs `script` after each request. The endpoint
/// sees the end of its connection, and no body is held any longer.
async fn failure(
    time: Duration,
    script: impl Fn(&std::net::TcpStream) + Send + Sync + 'static,
) -> Failure {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        script(stream);
        wait_for_end(stream);
        let _ = report.blocking_send(());
    });
    let memory = MemoryBudget::new(1 << 20);
    let client = HttpClient::new(Network::with_resolver(Names::none()), None).unwrap();
    let handler = handler_in(client, endpoint(&receiver.url()), memory.clone());
    let failure = attempt(&handler, time).await.unwrap_err();
    // On a busy machine, a hasty attempt may end before it has connected.
    if receiver.connections() > 0 {
        reported.recv().await.unwrap();
    }
    assert_eq!(memory.reserved(), 0);
    failure
}

/// Writes `piece` again and again, until the peer is gone.
fn trickle(stream: &std::net::TcpStream, piece: &str) {
    while write(stream, piece) {
        thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn an_endless_body_is_cut_at_the_limit() {
    for head in ["transfer-encoding: chunked", "x: y"] {
        let failure = failure(PATIENT, move |stream| {
            write(stream, &format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n"));
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            while write(stream, &chunk) {}
        });
        let failure = failure.await;
        assert_eq!(
            (failure.next, failure.class),
            (Next::End, AttemptClass::Invalid),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_body_that_says_it_is_huge_is_refused_before_it_comes() {
    let failure = failure(PATIENT, |stream| {
        write(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775807\r\n\r\n",
        );
    });
    let failure = failure.await;
    assert_eq!(
        (failure.next, failure.class),
        (Next::End, AttemptClass::Invalid)
    );
}

#[tokio::test]
async fn a_body_that_trickles_ends_at_the_deadline() {
    let mut time = HASTY;
    let failure = loop {
        let failure = failure(time, |stream| {
            write(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
            for _ in 0..999 {
                if !write(stream, " ") {
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        let failure = failure.await;
        assert_eq!(
            (failure.next, failure.class),
            (RETRY, AttemptClass::Timeout)
        );
        assert_eq!(failure.detail, "the handler did not answer in time");
        // On a busy machine, not even the head may come in time.
        if failure.status == Some(200) {
            break failure;
        }
        time *= 2;
        assert!(time < PATIENT, "no head came");
    };
    let internal = failure.internal_detail.unwrap();
    assert!(
        internal.starts_with("the body of the answer did not end"),
        "{internal}"
    );
}

#[tokio::test]
async fn a_head_that_does_not_come_or_does_not_end_ends_at_the_deadline() {
    for begin in [
        "",
        "HTTP/1.1 ",
        "HTTP/1.1 200 OK\r\nx: ",
        "HTTP/1.1 100 Continue\r\nx: ",
    ] {
        let failure = failure(HASTY, move |stream| {
            write(stream, begin);
            if begin.ends_with("x: ") {
                trickle(stream, "x");
            }
        });
        let failure = failure.await;
        assert_eq!(
            (failure.next, failure.class),
            (RETRY, AttemptClass::Timeout),
            "{begin}"
        );
        assert_eq!(failure.detail, "the handler did not answer in time");
    }
}

#[tokio::test]
async fn a_huge_or_invalid_head_is_refused() {
    for rest in [
        format!("x: {}\r\n\r\n", "x".repeat(100_000)),
        format!("{}\r\n", "x: y\r\n".repeat(101)),
        "content-length: five\r\n\r\n".to_owned(),
        "content-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(),
    ] {
        let failure = failure(PATIENT, move |stream| {
            write(stream, &format!("HTTP/1.1 200 OK\r\n{rest}"));
        });
        let failure = failure.await;
        assert_eq!(
            (failure.next, failure.class),
            (RETRY, AttemptClass::Invalid)
        );
        assert_eq!(failure.status, Some(200));
        let told = "the head of the handler's answer is invalid or over 16 KiB";
        assert_eq!(failure.detail, told);
    }
}

#[tokio::test]
async fn an_endless_error_is_the_error_that_its_status_tells() {
    for is_slow in [false, true] {
        let failure = failure(PATIENT, move |stream| {
            let head = "HTTP/1.1 422 No\r\ncontent-type: text/plain\r\n\r\n";
            write(stream, head);
            if is_slow {
                trickle(stream, "x");
            } else {
                while write(stream, &"x".repeat(0x1000)) {}
            }
        });
        let failure = failure.await;
        assert_eq!((failure.next, failure.status), (Next::End, Some(422)));
        let internal = failure.internal_detail.unwrap();
        assert!(internal.starts_with("HTTP status 422: x"), "{internal}");
        assert!(internal.len() <= "HTTP status 422: ".len() + 512);
    }
}
