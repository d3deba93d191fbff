//! Receivers of callbacks that can be told to misbehave, and write down everything they got.

mod heard;

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
    task::JoinSet,
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::heard::Heard;
use self::heard::Notes;
use super::orders::Orders;
use crate::{
    receiver::{MAX_CALLBACK, status},
    signatures::Signatures,
};

/// What a receiver does with a callback, once it has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Answers 200.
    Answers,
    /// Answers 200, after so long.
    Slow(Duration),
    /// Answers 500.
    Fails,
    /// Answers nothing.
    Hangs,
    /// Closes the connection without an answer.
    Cuts,
}

/// Some receivers, until they are dropped.
#[derive(Debug)]
pub(super) struct Receivers {
    each: Vec<Receiver>,
    notes: Notes,
}

#[derive(Debug)]
struct Receiver {
    addr: SocketAddr,
    manner: watch::Sender<Manner>,
    _serving: AbortOnDropHandle<Infallible>,
}

/// How long nobody is accepted after that failed: for lack of descriptors, say.
const PAUSE: Duration = Duration::from_millis(10);

impl Receivers {
    /// Receives on `count` free ports what is called back for `orders`. What `signatures` doesn't believe is
    /// not right.
    pub(super) async fn start(
        count: usize,
        orders: Orders,
        signatures: Signatures,
    ) -> Result<Self> {
        let notes = Notes::new(orders, signatures);
        let mut each = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let socket = socket.context("can't listen for callbacks")?;
            let addr = socket.local_addr()?;
            let (manner, now) = watch::channel(Manner::Answers);
            let serving = tokio::spawn(serve(socket, now, notes.clone()));
            each.push(Receiver {
                addr,
                manner,
                _serving: AbortOnDropHandle::new(serving),
            });
        }
        Ok(Self { each, notes })
    }

    /// Where each is called back.
    pub(super) fn urls(&self) -> Vec<String> {
        let url = |receiver: &Receiver| format!("http://{}/callback", receiver.addr);
        self.each.iter().map(url).collect()
    }

    /// Changes one receiver's manner, for what comes from now on.
    pub(super) fn set(&self, index: usize, manner: Manner) {
        self.each[index % self.each.len()]
            .manner
            .send_replace(manner);
    }

    /// Changes every receiver's manner that is `from`.
    pub(super) fn change(&self, from: Manner, to: Manner) {
        for receiver in &self.each {
            receiver.manner.send_if_modified(|manner| {
                let changes = *manner == from;
                if changes {
                    *manner = to;
                }
                changes
            });
        }
    }

    /// The first receiver from `index` on that is well; none where each has its trouble.
    pub(super) fn well_from(&self, index: usize) -> Option<usize> {
        let count = self.each.len();
        (0..count)
            .map(|step| (index % count + step) % count)
            .find(|index| *self.each[*index].manner.borrow() == Manner::Answers)
    }

    /// What was heard so far.
    pub(super) fn take_heard(&self) -> Vec<Heard> {
        self.notes.take()
    }

    /// Bodies that no worker of ours sends, in their own words.
    pub(super) fn take_strange(&self) -> Vec<String> {
        self.notes.take_strange()
    }
}

async fn serve(socket: TcpListener, manner: watch::Receiver<Manner>, notes: Notes) -> Infallible {
    // They end with the receiver.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(hold(stream, manner.clone(), notes.clone()));
                }
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn hold(stream: TcpStream, manner: watch::Receiver<Manner>, notes: Notes) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let (manner, notes) = (*manner.borrow(), &notes);
        answer(request, manner, notes)
    });
    // A connection that breaks is what this is about.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// An error closes the connection without an answer.
async fn answer(
    request: Request<Incoming>,
    manner: Manner,
    notes: &Notes,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_CALLBACK).collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    let hearing = notes.hear(&head.headers, &body);
    let code = match manner {
        Manner::Answers => StatusCode::OK,
        Manner::Slow(time) => {
            sleep(time).await;
            StatusCode::OK
        }
        Manner::Fails => StatusCode::INTERNAL_SERVER_ERROR,
        Manner::Hangs => {
            drop(hearing);
            return std::future::pending().await;
        }
        Manner::Cuts => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    hearing.answered(code);
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

    use super::{Heard, Manner, Receivers};
    use crate::{chaos::orders::Orders, signatures::Signatures};

    const ORDERS: fn() -> Orders = || Orders::new(9);

    fn callback(number: u64) -> Value {
        let order = ORDERS().order(number);
        let report = order.expected();
        json!({"request_id": RequestId::generate(), "report_id": report.report_id,
            "status": "completed", "checksum": report.checksum,
            "report_name": order.spec.report_name, "records": order.spec.records})
    }

    /// Sends a callback and gives what comes back until the receiver closes.
    async fn call(receivers: &Receivers, body: &Value) -> String {
        let mut stream = TcpStream::connect(receivers.each[0].addr).await.unwrap();
        let body = body.to_string();
        let request = format!(
            "POST /callback HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    async fn heard(receivers: &Receivers) -> Heard {
        loop {
            if let Some(heard) = receivers.take_heard().pop() {
                return heard;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn each_manner_is_answered_and_written_down_as_it_is() {
        let receivers = Receivers::start(1, ORDERS(), Signatures::default())
            .await
            .unwrap();
        for (manner, line, answered) in [
            (Manner::Answers, "HTTP/1.1 200", Some(200)),
            (
                Manner::Slow(Duration::from_millis(1)),
                "HTTP/1.1 200",
                Some(200),
            ),
            (Manner::Fails, "HTTP/1.1 500", Some(500)),
            (Manner::Cuts, "", None),
        ] {
            receivers.set(0, manner);
            let body = callback(4);
            let answer = call(&receivers, &body).await;
            assert!(
                answer.starts_with(line) && answer.is_empty() == line.is_empty(),
                "{answer}"
            );
            let heard = heard(&receivers).await;
            assert!(heard.content_right);
            assert_eq!(heard.received.answered, answered);
            assert_eq!(json!(heard.received.id), body["request_id"]);
        }
    }

    #[tokio::test]
    async fn one_that_hangs_keeps_the_connection_and_answers_nothing() {
        let receivers = Receivers::start(1, ORDERS(), Signatures::default())
            .await
            .unwrap();
        receivers.set(0, Manner::Hangs);
        let body = callback(1);
        tokio::select! {
            answer = call(&receivers, &body) => panic!("it closed: {answer}"),
            heard = heard(&receivers) => assert_eq!(heard.received.answered, None),
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_waited_for_was_not_given() {
        let receivers = Receivers::start(1, ORDERS(), Signatures::default())
            .await
            .unwrap();
        receivers.set(0, Manner::Slow(Duration::from_hours(1)));
        let body = callback(1);
        let impatient = tokio::time::timeout(Duration::from_millis(50), call(&receivers, &body));
        assert!(impatient.await.is_err());
        assert_eq!(heard(&receivers).await.received.answered, None);
    }

    #[tokio::test]
    async fn what_was_not_ordered_is_not_right() {
        let receivers = Receivers::start(1, ORDERS(), Signatures::default())
            .await
            .unwrap();
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
            assert!(!heard(&receivers).await.content_right, "{field}");
        }
        call(&receivers, &json!({"request_id": 1})).await;
        assert_eq!(receivers.take_strange(), [r#"{"request_id":1}"#]);
    }

    #[tokio::test]
    async fn trouble_goes_to_a_receiver_that_is_well() {
        let receivers = Receivers::start(2, ORDERS(), Signatures::default())
            .await
            .unwrap();
        assert_eq!(receivers.well_from(usize::MAX), Some(1));
        receivers.set(1, Manner::Hangs);
        assert_eq!(receivers.well_from(3), Some(0));
        receivers.set(0, Manner::Cuts);
        assert_eq!(receivers.well_from(0), None);
    }
}
