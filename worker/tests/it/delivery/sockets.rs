//! The limit on open sockets: idle connections make room, and connections in use do not.

use std::{
    io::Read as _,
    path::Path,
    sync::{Mutex, mpsc},
    time::Duration,
};

use bytes::Bytes;
use storm_shared::{models::CallbackUrl, services::ssrf::Policy};
use storm_worker::delivery::{
    AttemptError, CallbackClient, Message, Network, Shortage, SocketLimit,
};

use super::{
    HASTY, PATIENT, attempt, class, message,
    names::Names,
    scripted::{Receiver, events, read_request, wait_for_end, write},
    tls,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn client_within(limit: &SocketLimit, timeout: Duration) -> CallbackClient {
    client_trusting(None, limit, timeout)
}

fn client_trusting(
    ca_file: Option<&Path>,
    limit: &SocketLimit,
    timeout: Duration,
) -> CallbackClient {
    let policy = Policy::parse("127.0.0.0/8").unwrap();
    let network = Network::with_resolver(Names::always(&["127.0.0.1"])).within(limit);
    CallbackClient::new(policy, network, timeout, ca_file).unwrap()
}

/// A receiver that answers each request once it may, and reports each that comes and each
/// connection that is closed.
struct Slow {
    receiver: Receiver,
    reported: tokio::sync::mpsc::Receiver<&'static str>,
    answer: mpsc::Sender<()>,
}

impl Slow {
    fn start() -> Self {
        let (report, reported) = events();
        let (answer, may_answer) = mpsc::channel();
        let may_answer = Mutex::new(may_answer);
        let receiver = Receiver::start(move |_, stream| {
            while read_request(stream).is_some() {
                let _ = report.blocking_send("request");
                if may_answer.lock().unwrap().recv().is_err() {
                    break;
                }
                write(stream, OK);
            }
            wait_for_end(stream);
            let _ = report.blocking_send("closed");
        });
        Self {
            receiver,
            reported,
            answer,
        }
    }

    async fn next(&mut self) -> &'static str {
        self.reported.recv().await.unwrap()
    }
}

fn is_shortage(error: &AttemptError) -> bool {
    matches!(error, AttemptError::Shortage(Shortage::Descriptors))
}

#[tokio::test]
async fn when_the_sockets_are_used_up_the_longest_idle_connection_of_another_origin_is_closed() {
    let limit = SocketLimit::new(2);
    let client = client_within(&limit, PATIENT);
    let (mut oldest, mut older) = (Slow::start(), Slow::start());
    for slow in [&mut oldest, &mut older] {
        slow.answer.send(()).unwrap();
        assert_eq!(class(&client, &slow.receiver.url()).await, Ok(200));
        assert_eq!(slow.next().await, "request");
    }
    let other = Receiver::answering(OK);
    assert_eq!(class(&client, &other.url()).await, Ok(200));
    assert_eq!(oldest.next().await, "closed");
    // The one that was idle for less is used again.
    older.answer.send(()).unwrap();
    assert_eq!(class(&client, &older.receiver.url()).await, Ok(200));
    assert_eq!(older.next().await, "request");
    assert_eq!(older.receiver.connections(), 1);
}

#[tokio::test]
async fn an_attempt_waits_for_a_connection_in_use_and_goes_on_when_that_ends() {
    let limit = SocketLimit::new(1);
    let client = client_within(&limit, PATIENT);
    let mut slow = Slow::start();
    let other = Receiver::answering(OK);
    let (url, of_running) = (slow.receiver.url(), client.clone());
    let running = tokio::spawn(async move { class(&of_running, &url).await });
    assert_eq!(slow.next().await, "request");
    // Given up: it takes no turn.
    let hasty = client_within(&limit, HASTY);
    let error = attempt(&hasty, &other.url()).await.unwrap_err();
    assert!(is_shortage(&error), "{error}");
    let url = other.url();
    let waiting = tokio::spawn(async move { class(&client, &url).await });
    slow.answer.send(()).unwrap();
    // It was not closed before it had its answer.
    assert_eq!(running.await.unwrap(), Ok(200));
    assert_eq!(waiting.await.unwrap(), Ok(200));
    assert_eq!(other.connections(), 1);
}

#[tokio::test]
async fn an_attempt_that_is_dropped_while_it_waits_takes_no_socket() {
    let limit = SocketLimit::new(1);
    let client = client_within(&limit, PATIENT);
    let mut slow = Slow::start();
    let mut other = Receiver::answering(OK);
    let (url, of_running) = (slow.receiver.url(), client.clone());
    let running = tokio::spawn(async move { class(&of_running, &url).await });
    assert_eq!(slow.next().await, "request");
    let url = other.url();
    {
        let mut dropped = std::pin::pin!(attempt(&client, &url));
        assert!(futures_util::poll!(dropped.as_mut()).is_pending());
    }
    slow.answer.send(()).unwrap();
    assert_eq!(running.await.unwrap(), Ok(200));
    // Nobody waits, so its connection is kept.
    slow.answer.send(()).unwrap();
    assert_eq!(class(&client, &slow.receiver.url()).await, Ok(200));
    assert_eq!(slow.receiver.connections(), 1);
    assert!(other.untouched().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_at_more_receivers_than_there_are_sockets_all_go_out() {
    const RECEIVERS: usize = 24;
    let limit = SocketLimit::new(RECEIVERS / 8);
    let client = client_within(&limit, PATIENT);
    let receivers: Vec<_> = (0..RECEIVERS).map(|_| Receiver::answering(OK)).collect();
    // Each has several under way, so some wait, and find sockets that are idle, or in use.
    let attempts = (0..20 * RECEIVERS).map(|number| {
        let (client, url) = (client.clone(), receivers[number % RECEIVERS].url());
        tokio::spawn(async move { class(&client, &url).await })
    });
    for attempt in attempts.collect::<Vec<_>>() {
        assert_eq!(attempt.await.unwrap(), Ok(200));
    }
}

#[tokio::test]
async fn each_socket_is_free_again_however_its_attempt_ends() {
    let limit = SocketLimit::new(1);
    let (patient, hasty) = (client_within(&limit, PATIENT), client_within(&limit, HASTY));
    let closes = Receiver::start(|_, _| {});
    let closes_after_request = Receiver::start(|_, stream| drop(read_request(stream)));
    let refuses = "http://127.0.0.1:9/hook";
    let no_http = Receiver::answering("SSH-2.0\r\n");
    let cut = Receiver::start(|_, stream| {
        read_request(stream);
        write(stream, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx");
    });
    let silent = Receiver::start(|_, stream| wait_for_end(stream));
    let answers = Receiver::answering(OK);
    for _ in 0..20 {
        for url in [
            &closes.url(),
            &closes_after_request.url(),
            refuses,
            &no_http.url(),
            &cut.url(),
        ] {
            let result = attempt(&patient, url).await;
            assert!(!result.is_err_and(|error| is_shortage(&error)), "{url}");
        }
        assert_eq!(class(&patient, &answers.url()).await, Ok(200));
    }
    assert_eq!(class(&hasty, &silent.url()).await, Err("timeout"));
    assert_eq!(class(&patient, &answers.url()).await, Ok(200));
}

#[tokio::test]
async fn a_receiver_that_reads_nothing_holds_no_socket_once_its_attempt_is_over() {
    let (tls, file, _until) = tls::receiver_that_reads_nothing();
    let (_until, over) = mpsc::channel::<()>();
    let over = Mutex::new(over);
    let plain = Receiver::start(move |_, _| {
        let _ = over.lock().unwrap().recv();
    });
    for url in [tls::https(&tls, "receiver.test"), plain.url()] {
        let limit = SocketLimit::new(1);
        let hasty = client_trusting(Some(file.path()), &limit, HASTY);
        let url = CallbackUrl::parse(&url).unwrap();
        let error = hasty.attempt(&url, &large_message()).await.unwrap_err();
        assert!(matches!(error, AttemptError::Timeout { .. }), "{error}");
        let patient = client_within(&limit, PATIENT);
        let other = Receiver::answering(OK);
        assert_eq!(class(&patient, &other.url()).await, Ok(200));
    }
}

#[tokio::test]
async fn an_idle_connection_whose_request_was_not_read_makes_room() {
    let (_until, over) = mpsc::channel::<()>();
    let over = Mutex::new(over);
    let answers_early = Receiver::start(move |_, mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        write(stream, OK);
        let _ = over.lock().unwrap().recv();
    });
    let limit = SocketLimit::new(1);
    let client = client_within(&limit, PATIENT);
    let url = CallbackUrl::parse(&answers_early.url()).unwrap();
    let answered = client.attempt(&url, &large_message()).await;
    assert!(answered.is_ok(), "{answered:?}");
    let other = Receiver::answering(OK);
    assert_eq!(class(&client, &other.url()).await, Ok(200));
}

/// More than the kernel's buffers take.
fn large_message() -> Message {
    Message {
        body: Bytes::from(vec![b' '; 32 << 20]),
        ..message()
    }
}
