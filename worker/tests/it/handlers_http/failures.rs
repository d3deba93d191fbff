//! The classes of failure, and what follows each.

use std::{
    future::pending,
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::BoxFuture;
use storm_shared::{memory::MemoryBudget, models::AttemptClass};
use storm_worker::{
    delivery::{Connect, Network, Shortage},
    handler::{Failure, Next, Output},
    handlers::http::HttpClient,
};
use tokio::{net::TcpStream, time::Instant};

use super::{
    HASTY, PATIENT, answering, attempt, attempt_at, endpoint, handler, handler_in, handler_with,
};
use crate::delivery::{
    names::{Names, SilentNames},
    reuse::LimitedSockets,
    scripted::{Receiver, read_request, write},
    tls,
};

const RETRY: Next = Next::Retry { after: None };

#[tokio::test]
async fn time_outs_and_errors_of_servers_are_retried_and_any_other_status_is_final() {
    for status in [408, 425, 429, 500, 502, 503, 504, 599] {
        let failure = attempt_at(&answering(&format!("{status} No"), "")).await;
        let failure = failure.unwrap_err();
        assert_eq!(failure.next, RETRY, "{status}");
        assert_eq!(failure.class, AttemptClass::Status);
        assert_eq!(failure.status, Some(status));
        assert_eq!(failure.detail, format!("the handler answered {status}"));
    }
    for status in [
        101, 300, 301, 304, 400, 401, 404, 409, 410, 413, 422, 451, 600, 999,
    ] {
        let failure = attempt_at(&answering(&format!("{status} No"), "")).await;
        let failure = failure.unwrap_err();
        assert_eq!(failure.next, Next::End, "{status}");
        assert_eq!(failure.class, AttemptClass::Status);
        assert_eq!(failure.status, Some(status));
    }
}

#[tokio::test]
async fn retry_after_is_honoured_with_each_status_that_is_retried() {
    let after = |seconds| Next::Retry {
        after: Some(Duration::from_secs(seconds)),
    };
    for (head, next) in [
        ("429 No\r\nretry-after: 7", after(7)),
        ("503 No\r\nretry-after: 0", after(0)),
        ("408 No\r\nretry-after: 7", after(7)),
        ("500 No\r\nretry-after: 7", after(7)),
        (
            "503 No\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT",
            after(0),
        ),
        ("503 No\r\nretry-after: soon", RETRY),
        ("404 No\r\nretry-after: 7", Next::End),
    ] {
        let failure = attempt_at(&answering(head, "")).await.unwrap_err();
        assert_eq!(failure.next, next, "{head}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut target = answering("200 OK", "");
    for status in [301, 302, 303, 307, 308] {
        let head = format!("{status} There\r\nlocation: {}", target.url());
        let failure = attempt_at(&answering(&head, "")).await.unwrap_err();
        assert_eq!((failure.next, failure.status), (Next::End, Some(status)));
    }
    assert!(target.untouched().await);
}

#[tokio::test]
async fn only_operators_see_the_beginning_of_an_errors_text() {
    let internal = |head: &'static str, body: String| async move {
        let failure = attempt_at(&answering(head, body)).await.unwrap_err();
        assert_eq!(failure.detail, "the handler answered 500");
        failure.internal_detail
    };
    let json = "500 No\r\ncontent-type: application/problem+json";
    let told = internal(json, "{\"a\":\n\"b\"}".to_owned()).await;
    assert_eq!(told.as_deref(), Some("HTTP status 500: {\"a\": \"b\"}"));
    let text = "500 No\r\ncontent-type: text/html";
    let told = internal(text, "x".repeat(10_000)).await.unwrap();
    assert_eq!(told, format!("HTTP status 500: {}", "x".repeat(512)));
    for head in ["500 No", "500 No\r\ncontent-type: image/png"] {
        assert_eq!(internal(head, "x".to_owned()).await, None);
    }
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_retried_and_its_address_not_told() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nowhere = handler(endpoint(&format!("http://{free}/hook")));
    let failure = attempt(&nowhere, PATIENT).await.unwrap_err();
    assert_eq!(
        (failure.next, failure.class),
        (RETRY, AttemptClass::Connect)
    );
    assert_eq!(failure.detail, "the handler could not be reached");
    let internal = failure.internal_detail.unwrap();
    let told = format!("could not connect: {free}: Connection refused");
    assert!(internal.starts_with(&told), "{internal}");

    let unknown = handler(endpoint("http://hook.test/"));
    let failure = attempt(&unknown, PATIENT).await.unwrap_err();
    assert_eq!(
        (failure.next, failure.class),
        (RETRY, AttemptClass::Resolve)
    );
    assert_eq!(failure.detail, "the handler could not be reached");
    let internal = failure.internal_detail.unwrap();
    assert_eq!(internal, "name look-up failed: no such name");
}

/// Connections that are never made.
struct SilentSockets;

impl Connect for SilentSockets {
    fn connect(&self, _: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        Box::pin(pending())
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_silent_when_dialled_holds_no_attempt_until_its_deadline() {
    let no_name_server = Network::with_resolver(Arc::new(SilentNames));
    let no_host = Network {
        sockets: Arc::new(SilentSockets),
        ..Network::with_resolver(Names::always(&["127.0.0.1"]))
    };
    for (network, class, stage) in [
        (no_name_server, AttemptClass::Resolve, "lookup"),
        (no_host, AttemptClass::Connect, "connect"),
    ] {
        let handler = handler_with(network, endpoint("http://hook.test/"));
        let began = Instant::now();
        let failure = attempt(&handler, PATIENT).await.unwrap_err();
        assert_eq!((failure.next, failure.class), (RETRY, class));
        assert_eq!(failure.detail, "the handler could not be reached");
        let internal = failure.internal_detail.unwrap();
        assert_eq!(
            internal,
            format!("no connection within 10s (stage: {stage})")
        );
        assert!(began.elapsed() < PATIENT / 2);
        // A deadline that comes before is a time-out.
        let failure = attempt(&handler, HASTY).await.unwrap_err();
        assert_eq!(failure.class, AttemptClass::Timeout);
    }
}

#[tokio::test]
async fn addresses_that_no_callback_may_reach_are_dialled() {
    // `Names` are asked, so the SSRF policy would judge the answer.
    let receiver = answering("200 OK", "");
    let network = Network::with_resolver(Names::always(&["127.0.0.1"]));
    let internal = handler_with(network, endpoint(&receiver.url_of("internal.test")));
    assert_eq!(attempt(&internal, PATIENT).await.unwrap().as_str(), "null");
}

async fn over_tls(ca_file: Option<&Path>, receiver: &Receiver) -> Result<Output, Failure> {
    let network = Network::with_resolver(Names::always(&["127.0.0.1"]));
    let client = HttpClient::new(network, ca_file).unwrap();
    let endpoint = endpoint(&tls::https(receiver, "receiver.test"));
    let handler = handler_in(client, endpoint, MemoryBudget::new(1 << 20));
    attempt(&handler, PATIENT).await
}

#[tokio::test]
async fn tls_trusts_the_ca_file_and_a_failure_of_it_is_retried() {
    let (receiver, ca_file) = tls::receiver();
    over_tls(Some(ca_file.path()), &receiver).await.unwrap();
    let failure = over_tls(None, &receiver).await.unwrap_err();
    assert_eq!((failure.next, failure.class), (RETRY, AttemptClass::Tls));
    assert_eq!(failure.detail, "the TLS connection to the handler failed");
    let internal = failure.internal_detail.unwrap();
    assert!(internal.contains("UnknownIssuer"), "{internal}");
}

#[tokio::test]
async fn a_connection_that_breaks_before_or_in_the_answer_is_retried() {
    for answer in [
        "",
        "HTTP/1.1 2",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n[1",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n[1",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n",
    ] {
        let receiver = Receiver::start(move |_, stream| {
            read_request(stream);
            write(stream, answer);
        });
        let failure = attempt_at(&receiver).await.unwrap_err();
        assert_eq!(failure.next, RETRY, "{answer}");
        assert_eq!(failure.class, AttemptClass::Interrupted, "{answer}");
        let told = "the connection to the handler closed before its answer was complete";
        assert_eq!(failure.detail, told, "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_retried() {
    for (answer, told) in [
        (
            "SSH-2.0-OpenSSH\r\n",
            "the handler's answer is not valid HTTP/1.1",
        ),
        (
            &"HTTP/1.1 102 Processing\r\n\r\n".repeat(20),
            "the handler sent too many interim (1xx) answers",
        ),
    ] {
        let receiver = Receiver::answering(answer);
        let failure = attempt_at(&receiver).await.unwrap_err();
        assert_eq!(
            (failure.next, failure.class),
            (RETRY, AttemptClass::Interrupted)
        );
        assert_eq!(failure.detail, told);
    }
}

#[tokio::test]
async fn what_this_worker_lacks_is_told_apart() {
    let sockets = Arc::<LimitedSockets>::default();
    let network = Network {
        sockets: sockets.clone(),
        ..Network::with_resolver(Names::none())
    };
    let receiver = answering("200 OK", "");
    let handler = handler_with(network, endpoint(&receiver.url()));
    sockets.exhausted.store(true, Ordering::SeqCst);
    let failure = attempt(&handler, PATIENT).await.unwrap_err();
    assert_eq!(failure.next, Next::Shortage(Shortage::Descriptors));
    sockets.exhausted.store(false, Ordering::SeqCst);
    attempt(&handler, PATIENT).await.unwrap();
}
