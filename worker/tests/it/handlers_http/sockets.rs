//! The limit on open sockets, which handlers and callbacks share.

use std::time::Duration;

use storm_shared::{models::CallbackUrl, services::ssrf::Policy};
use storm_worker::{
    delivery::{CallbackClient, Message, Network, Shortage, SocketLimit},
    handler::Next,
    handlers::http::HttpHandler,
};

use super::{HASTY, ID, PATIENT, TRACEPARENT, answering, attempt, endpoint, handler_with};
use crate::delivery::{
    names::Names,
    scripted::{Receiver, events, read_request, wait_for_end, write},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn handler_within(limit: &SocketLimit, receiver: &Receiver) -> HttpHandler {
    let network = Network::with_resolver(Names::none()).within(limit);
    handler_with(network, endpoint(&receiver.url()))
}

#[tokio::test]
async fn a_callback_and_a_handler_close_each_others_idle_connections_to_make_room() {
    let limit = SocketLimit::new(1);
    let (report, mut reported) = events();
    let receiver_of = |name: &'static str| {
        let report = report.clone();
        Receiver::start(move |_, stream| {
            read_request(stream);
            write(stream, OK);
            wait_for_end(stream);
            let _ = report.blocking_send(name);
        })
    };
    let (worked, called) = (receiver_of("handler"), receiver_of("callback"));
    let handler = handler_within(&limit, &worked);
    let policy = Policy::parse("127.0.0.0/8").unwrap();
    let network = Network::with_resolver(Names::none()).within(&limit);
    let client = CallbackClient::new(policy, network, PATIENT, None).unwrap();
    let url = CallbackUrl::parse(&called.url()).unwrap();
    let message = Message {
        id: ID.parse().unwrap(),
        body: "{}".into(),
        traceparent: TRACEPARENT.parse().unwrap(),
    };
    attempt(&handler, PATIENT).await.unwrap();
    for _ in 0..3 {
        client.attempt(&url, &message).await.unwrap();
        assert_eq!(reported.recv().await, Some("handler"));
        attempt(&handler, PATIENT).await.unwrap();
        assert_eq!(reported.recv().await, Some("callback"));
    }
}

#[tokio::test]
async fn an_attempt_that_gets_no_socket_in_its_time_is_a_shortage_and_the_next_one_runs() {
    let limit = SocketLimit::new(1);
    let (report, mut reported) = events();
    let slow = Receiver::start(move |_, stream| {
        read_request(stream);
        let _ = report.blocking_send(());
        wait_for_end(stream);
    });
    let quick = answering("200 OK", "");
    let (slow, quick) = (
        handler_within(&limit, &slow),
        handler_within(&limit, &quick),
    );
    let running = tokio::spawn(async move { attempt(&slow, Duration::from_hours(1)).await });
    reported.recv().await.unwrap();
    let failure = attempt(&quick, HASTY).await.unwrap_err();
    assert_eq!(failure.next, Next::Shortage(Shortage::Descriptors));
    running.abort();
    attempt(&quick, PATIENT).await.unwrap();
}
