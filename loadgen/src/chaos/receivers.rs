//! Callback receivers with switchable faults. They record every delivery.

mod log;

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use self::log::CallbackLog;
pub(super) use self::log::ReceivedCallback;
use super::{orders::ChaosOrders, serve::serve, wall_clock::WallClock};
use crate::{
    receiver::{MAX_CALLBACK, status},
    signatures::Signatures,
};

/// How a receiver responds to a callback that it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiverMode {
    /// Responds with 200, or with 500 if the order says so.
    Healthy,
    /// As `Healthy`, but after this delay if it is a 200.
    Slow(Duration),
    /// Responds with 500.
    Error,
    /// Keeps the connection open without a response.
    Hang,
    /// Closes the connection without a response.
    Disconnect,
}

/// The receivers of a run. Dropping it stops them.
#[derive(Debug)]
pub(super) struct Receivers {
    each: Vec<Receiver>,
    log: CallbackLog,
}

#[derive(Debug)]
struct Receiver {
    addr: SocketAddr,
    mode: watch::Sender<ReceiverMode>,
    _serving: AbortOnDropHandle<Infallible>,
}

impl Receivers {
    /// Starts `count` receivers on free ports for the callbacks of `orders`. A callback with an
    /// invalid signature counts as incorrect; their clock is the services'.
    pub(super) async fn start(
        count: usize,
        orders: ChaosOrders,
        signatures: Signatures,
        wall_clock: WallClock,
    ) -> Result<Self> {
        let log = CallbackLog::new(orders, signatures, wall_clock);
        let mut each = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let socket = socket.context("can't listen for callbacks")?;
            let addr = socket.local_addr()?;
            let (mode, now) = watch::channel(ReceiverMode::Healthy);
            let log = log.of_receiver(origin(addr));
            let serving = tokio::spawn(serve(socket, move |stream| {
                serve_connection(stream, now.clone(), log.clone())
            }));
            each.push(Receiver {
                addr,
                mode,
                _serving: AbortOnDropHandle::new(serving),
            });
        }
        Ok(Self { each, log })
    }

    /// The callback URL of each receiver.
    pub(super) fn urls(&self) -> Vec<String> {
        let url = |receiver: &Receiver| format!("{}/callback", origin(receiver.addr));
        self.each.iter().map(url).collect()
    }

    /// The origin of each receiver.
    pub(super) fn origins(&self) -> Vec<String> {
        let origins = self.each.iter().map(|receiver| origin(receiver.addr));
        origins.collect()
    }

    /// Sets the mode of one receiver for later requests.
    pub(super) fn set(&self, index: usize, mode: ReceiverMode) {
        self.each[index % self.each.len()].mode.send_replace(mode);
    }

    /// Sets the mode of every receiver in mode `from`.
    pub(super) fn change(&self, from: ReceiverMode, to: ReceiverMode) {
        for receiver in &self.each {
            receiver.mode.send_if_modified(|mode| {
                let changes = *mode == from;
                if changes {
                    *mode = to;
                }
                changes
            });
        }
    }

    /// The first healthy receiver from `index` on; none if all are broken.
    pub(super) fn healthy_from(&self, index: usize) -> Option<usize> {
        let count = self.each.len();
        (0..count)
            .map(|step| (index % count + step) % count)
            .find(|index| *self.each[*index].mode.borrow() == ReceiverMode::Healthy)
    }

    /// Takes the recorded deliveries.
    pub(super) fn take_callbacks(&self) -> Vec<ReceivedCallback> {
        self.log.take()
    }

    /// Takes the bodies that name no job, as text.
    pub(super) fn take_unexpected(&self) -> Vec<String> {
        self.log.take_unexpected()
    }
}

fn origin(addr: SocketAddr) -> String {
    format!("http://{addr}")
}

async fn serve_connection(
    stream: TcpStream,
    mode: watch::Receiver<ReceiverMode>,
    log: CallbackLog,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let (mode, log) = (*mode.borrow(), &log);
        answer(request, mode, log)
    });
    // Broken connections are expected: they are an injected fault.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// An error makes hyper close the connection without a response.
async fn answer(
    request: Request<Incoming>,
    mode: ReceiverMode,
    log: &CallbackLog,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_CALLBACK).collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    let delivery = log.begin(head.uri.query(), &head.headers, &body);
    let code = match mode {
        ReceiverMode::Healthy | ReceiverMode::Slow(_) if delivery.is_refused() => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        ReceiverMode::Healthy => StatusCode::OK,
        ReceiverMode::Slow(time) => {
            sleep(time).await;
            StatusCode::OK
        }
        ReceiverMode::Error => StatusCode::INTERNAL_SERVER_ERROR,
        ReceiverMode::Hang => {
            // Recorded now. The connection may stay open until the end of the run.
            drop(delivery);
            return std::future::pending().await;
        }
        ReceiverMode::Disconnect => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    delivery.answered(code);
    Ok(status(code))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use storm_shared::models::RequestId;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::{ReceivedCallback, ReceiverMode, Receivers};
    use crate::{
        chaos::{orders::ChaosOrders, wall_clock::WallClock},
        signatures::Signatures,
    };

    const ORDERS: fn() -> ChaosOrders = || ChaosOrders::new(9);

    async fn start(count: usize) -> Receivers {
        let (signatures, clock) = (Signatures::default(), WallClock::default());
        Receivers::start(count, ORDERS(), signatures, clock)
            .await
            .unwrap()
    }

    fn callback(number: u64) -> Value {
        let order = ORDERS().order(number);
        assert!(order.work.is_none());
        let report = order.expected();
        json!({"request_id": RequestId::generate(), "report_id": report.report_id,
            "status": "completed", "checksum": report.checksum,
            "report_name": order.spec.report_name, "records": order.spec.records})
    }

    /// Sends a callback and returns the response until the receiver closes.
    async fn call(receivers: &Receivers, body: &Value) -> String {
        call_at(receivers, "/callback", body).await
    }

    async fn call_at(receivers: &Receivers, path: &str, body: &Value) -> String {
        let mut stream = TcpStream::connect(receivers.each[0].addr).await.unwrap();
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    async fn delivered(receivers: &Receivers) -> ReceivedCallback {
        loop {
            if let Some(delivered) = receivers.take_callbacks().pop() {
                return delivered;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn each_mode_responds_and_is_recorded_as_configured() {
        let receivers = start(1).await;
        for (mode, line, answered) in [
            (ReceiverMode::Healthy, "HTTP/1.1 200", Some(200)),
            (
                ReceiverMode::Slow(Duration::from_millis(1)),
                "HTTP/1.1 200",
                Some(200),
            ),
            (ReceiverMode::Error, "HTTP/1.1 500", Some(500)),
            (ReceiverMode::Disconnect, "", None),
        ] {
            receivers.set(0, mode);
            let body = callback(4);
            let answer = call(&receivers, &body).await;
            assert!(
                answer.starts_with(line) && answer.is_empty() == line.is_empty(),
                "{answer}"
            );
            let delivered = delivered(&receivers).await;
            assert!(delivered.content_correct);
            assert_eq!(delivered.received.answered, answered);
            assert_eq!(json!(delivered.received.id), body["request_id"]);
        }
    }

    #[tokio::test]
    async fn a_healthy_receiver_refuses_as_many_callbacks_as_the_order_says() {
        let receivers = start(1).await;
        let stubborn = (0..1000).find(|number| ORDERS().order(*number).refusals.include(0));
        let body = callback(stubborn.unwrap());
        let refusals = ORDERS().order(stubborn.unwrap()).refusals;
        for _ in (0..).take_while(|callback| refusals.include(*callback)) {
            assert!(call(&receivers, &body).await.starts_with("HTTP/1.1 500"));
        }
        assert!(call(&receivers, &body).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_hanging_receiver_keeps_the_connection_open_without_a_response() {
        let receivers = start(1).await;
        receivers.set(0, ReceiverMode::Hang);
        let body = callback(1);
        tokio::select! {
            answer = call(&receivers, &body) => panic!("it closed: {answer}"),
            delivered = delivered(&receivers) => assert_eq!(delivered.received.answered, None),
        }
    }

    #[tokio::test]
    async fn a_response_after_the_client_disconnected_is_not_recorded() {
        let receivers = start(1).await;
        receivers.set(0, ReceiverMode::Slow(Duration::from_hours(1)));
        let body = callback(1);
        let impatient = tokio::time::timeout(Duration::from_millis(50), call(&receivers, &body));
        assert!(impatient.await.is_err());
        assert_eq!(delivered(&receivers).await.received.answered, None);
    }

    #[tokio::test]
    async fn an_incorrect_body_is_recorded_as_incorrect() {
        let receivers = start(1).await;
        for (field, value) in [
            ("checksum", json!("a6")),
            ("records", json!(101)),
            ("report_name", json!("chaos-9-000005")),
            ("status", json!("failed")),
            ("another", json!(1)),
        ] {
            let mut body = callback(4);
            body[field] = value;
            call(&receivers, &body).await;
            assert!(!delivered(&receivers).await.content_correct, "{field}");
        }
        call(&receivers, &json!({"request_id": 1})).await;
        assert_eq!(receivers.take_unexpected(), [r#"{"request_id":1}"#]);
    }

    #[tokio::test]
    async fn a_callback_that_says_that_work_failed_is_told_by_the_name_in_its_url() {
        let receivers = start(1).await;
        let mut orders = (0..1000).map(|number| ORDERS().order(number));
        let order = orders.find(|order| order.work.is_some()).unwrap();
        let body = json!({"request_id": RequestId::generate(), "handler": "chaos",
            "status": "failed", "failure": {"reason": "work_timed_out", "detail": "…"}});
        let path = format!("/callback?job={}", order.name());
        assert!(
            call_at(&receivers, &path, &body)
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(delivered(&receivers).await.content_correct);
        // Of nobody's job, and of a report.
        for path in ["/callback?job=chaos-9-1", "/callback?job=chaos-9-000004"] {
            call_at(&receivers, path, &body).await;
            assert!(!delivered(&receivers).await.content_correct, "{path}");
        }
        call(&receivers, &body).await;
        assert_eq!(receivers.take_unexpected().len(), 1);
    }

    #[tokio::test]
    async fn a_healthy_receiver_is_chosen_for_a_fault() {
        let receivers = start(2).await;
        assert_eq!(receivers.healthy_from(usize::MAX), Some(1));
        receivers.set(1, ReceiverMode::Hang);
        assert_eq!(receivers.healthy_from(3), Some(0));
        receivers.set(0, ReceiverMode::Disconnect);
        assert_eq!(receivers.healthy_from(0), None);
    }
}
