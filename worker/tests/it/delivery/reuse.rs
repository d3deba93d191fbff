//! Keep-alive: reuse of pooled connections.

use std::{
    future::ready,
    io::{self, Read as _},
    net::SocketAddr,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use storm_shared::{models::CallbackUrl, services::ssrf::Policy};
use storm_worker::delivery::{
    AttemptError, CallbackClient, Connect, Network, Resends, Shortage, SystemSockets,
};
use tokio::net::TcpStream;

use super::{
    PATIENT, attempt, class, loopback_client, message,
    names::Names,
    scripted::{Receiver, events, read_request, wait_for_end, write},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn sequential_attempts_share_one_keep_alive_connection() {
    let receiver = Receiver::answering(OK);
    let client = loopback_client(PATIENT);
    for _ in 0..100 {
        assert_eq!(class(&client, &receiver.url()).await, Ok(200));
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_non_2xx_response_keeps_the_connection_alive() {
    let receiver = Receiver::answering("HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno");
    let client = loopback_client(PATIENT);
    for _ in 0..3 {
        assert_eq!(class(&client, &receiver.url()).await, Err("status"));
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_pooled_connection_is_never_used_for_another_origin() {
    let (one, other) = (Receiver::answering(OK), Receiver::answering(OK));
    let client = loopback_client(PATIENT);
    for receiver in [&one, &other, &one, &other] {
        assert_eq!(class(&client, &receiver.url()).await, Ok(200));
    }
    assert_eq!((one.connections(), other.connections()), (1, 1));
}

#[tokio::test]
async fn a_reused_connection_that_the_receiver_closed_is_replaced_within_the_attempt() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        write(stream, OK);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        let _ = report.blocking_send(());
    });
    let client = loopback_client(PATIENT);
    for connections in 1..=20 {
        assert_eq!(class(&client, &receiver.url()).await, Ok(200));
        reported.recv().await.unwrap();
        tokio::task::yield_now().await; // the client's connection task reads the close
        assert_eq!(receiver.connections(), connections);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        write(stream, OK);
        wait_for_end(stream);
        let _ = report.blocking_send(());
    });
    let client = loopback_client(PATIENT);
    assert_eq!(class(&client, &receiver.url()).await, Ok(200));

    assert!(
        reported.try_recv().is_err(),
        "the connection is closed too early"
    );
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(5)).await;
    tokio::time::resume();
    reported.recv().await.unwrap();
}

#[tokio::test]
async fn a_dropped_client_closes_its_idle_connections() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        write(stream, OK);
        wait_for_end(stream);
        let _ = report.blocking_send(());
    });
    let client = loopback_client(PATIENT);
    assert_eq!(class(&client, &receiver.url()).await, Ok(200));
    drop(client);
    reported.recv().await.unwrap();
}

/// Counts the repeats, and allows them or not.
struct Counted {
    times: AtomicUsize,
    allowed: bool,
}

impl Resends for Counted {
    fn record(&self) -> BoxFuture<'_, bool> {
        self.times.fetch_add(1, Ordering::SeqCst);
        Box::pin(ready(self.allowed))
    }
}

/// A receiver that closes a connection at its second request, in the middle of it or after it: with
/// a reset or not. It answers the first requests of `warm` connections only when all have come.
fn closing_at_the_second_request(warm: usize, mid_request: bool) -> Receiver {
    let barrier = Barrier::new(warm);
    Receiver::start(move |number, stream| {
        read_request(stream);
        if number < warm {
            barrier.wait();
        }
        write(stream, OK);
        if mid_request {
            let mut stream = stream;
            let _ = stream.read(&mut [0]); // the rest is unread, so the close is a reset
        } else {
            read_request(stream);
        }
    })
}

/// A client with this many idle connections to `receiver`.
async fn warmed_up(receiver: &Receiver, connections: usize) -> CallbackClient {
    let (client, url) = (loopback_client(PATIENT), receiver.url());
    let attempts = (0..connections).map(|_| class(&client, &url));
    assert_eq!(join_all(attempts).await, vec![Ok(200); connections]);
    assert_eq!(receiver.connections(), connections);
    client
}

#[tokio::test]
async fn a_stale_connection_costs_no_attempt_however_many_there_are() {
    for mid_request in [true, false] {
        let receiver = closing_at_the_second_request(12, mid_request);
        let client = warmed_up(&receiver, 12).await;
        let repeats = Counted {
            times: AtomicUsize::new(0),
            allowed: true,
        };
        let url = CallbackUrl::parse(&receiver.url()).unwrap();
        let answered = client.attempt_with(None, &url, &message(), &repeats).await;
        assert_eq!(answered.unwrap().as_u16(), 200);
        assert_eq!(repeats.times.load(Ordering::SeqCst), 1, "it is recorded");
        assert_eq!(receiver.connections(), 13, "the second try dials anew");
    }
}

#[tokio::test]
async fn a_reused_connection_that_ends_after_empty_lines_costs_no_attempt() {
    for lines in ["\r\n", "\n", "\r\n\r\n\n", "\r"] {
        let receiver = Receiver::start(move |number, stream| {
            read_request(stream);
            write(stream, OK);
            if number == 0 {
                read_request(stream);
                write(stream, lines);
            }
        });
        let client = warmed_up(&receiver, 1).await;
        assert_eq!(class(&client, &receiver.url()).await, Ok(200), "{lines:?}");
        assert_eq!(receiver.connections(), 2, "the second try dials anew");
    }
}

#[tokio::test]
async fn a_repeat_that_cannot_be_recorded_is_not_sent() {
    let receiver = closing_at_the_second_request(1, false);
    let client = warmed_up(&receiver, 1).await;
    let repeats = Counted {
        times: AtomicUsize::new(0),
        allowed: false,
    };
    let url = CallbackUrl::parse(&receiver.url()).unwrap();
    let answered = client.attempt_with(None, &url, &message(), &repeats).await;
    assert_eq!(answered.unwrap_err().class().as_str(), "interrupted");
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_new_connection_that_ends_without_an_answer_is_a_failed_attempt() {
    let receiver = Receiver::start(|_, stream| drop(read_request(stream)));
    let client = loopback_client(PATIENT);
    for attempts in 1..=3 {
        assert_eq!(class(&client, &receiver.url()).await, Err("interrupted"));
        assert_eq!(receiver.connections(), attempts);
    }
}

#[tokio::test]
async fn a_reused_connection_that_answers_in_part_is_not_dialled_anew() {
    let receiver = Receiver::start(|_, stream| {
        read_request(stream);
        write(stream, OK);
        read_request(stream);
        write(stream, "HTTP/1.1 2");
    });
    let client = warmed_up(&receiver, 1).await;
    assert_eq!(class(&client, &receiver.url()).await, Err("interrupted"));
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_a_request_are_never_taken_for_an_answer() {
    let receiver = Receiver::answering(format!("{OK}HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"));
    let client = loopback_client(PATIENT);
    for connections in 1..=100 {
        assert_eq!(class(&client, &receiver.url()).await, Ok(200));
        assert_eq!(receiver.connections(), connections);
    }
}

/// The system's sockets, until there are no more.
#[derive(Default)]
pub(crate) struct LimitedSockets {
    pub(crate) exhausted: AtomicBool,
}

impl Connect for LimitedSockets {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        if self.exhausted.load(Ordering::SeqCst) {
            let code = rustix::io::Errno::MFILE.raw_os_error();
            return Box::pin(ready(Err(io::Error::from_raw_os_error(code))));
        }
        SystemSockets.connect(address)
    }
}

#[tokio::test]
async fn a_shortage_of_descriptors_closes_idle_connections() {
    let (report, mut reported) = events();
    let idle = Receiver::start(move |_, stream| {
        read_request(stream);
        write(stream, OK);
        wait_for_end(stream);
        let _ = report.blocking_send(());
    });
    let sockets = Arc::<LimitedSockets>::default();
    let network = Network {
        sockets: sockets.clone(),
        ..Network::with_resolver(Names::none())
    };
    let policy = Policy::parse("127.0.0.0/8").unwrap();
    let client = CallbackClient::new(policy, network, PATIENT, None).unwrap();
    assert_eq!(class(&client, &idle.url()).await, Ok(200));

    sockets.exhausted.store(true, Ordering::SeqCst);
    let other = Receiver::answering(OK);
    let error = attempt(&client, &other.url()).await.unwrap_err();
    assert!(
        matches!(error, AttemptError::Shortage(Shortage::Descriptors)),
        "{error}"
    );
    reported.recv().await.unwrap();
}
