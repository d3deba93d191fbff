//! A collector of traces: what it got by OTLP over HTTP, decoded here from the wire format.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use storm_shared::server;
use tokio::{net::TcpListener, sync::mpsc};

/// A collector and the spans that it got.
pub(crate) struct Collector {
    addr: SocketAddr,
    received: mpsc::Receiver<Span>,
    spans: Vec<Span>,
}

/// A span as it was exported.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// The attributes of its resource.
    pub(crate) resource: BTreeMap<String, String>,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty if it has none.
    pub(crate) parent: String,
    pub(crate) kind: u64,
    /// In nanoseconds.
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) has_failed: bool,
}

impl Span {
    /// An attribute as text; empty if there is none.
    pub(crate) fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

impl Collector {
    /// Takes all.
    pub(crate) async fn new() -> Self {
        Self::answering(|| std::future::ready((200, ""))).await
    }

    /// Answers each export with the status and the body that `answer` gives. Spans are recorded
    /// before.
    pub(crate) async fn answering<F>(answer: impl Fn() -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = (u16, &'static str)> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (record, received) = mpsc::channel(10_000);
        let service = service_fn(move |request: Request<Incoming>| {
            let (answer, record) = (answer.clone(), record.clone());
            async move {
                assert_eq!(request.uri().path(), "/v1/traces");
                assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                assert_eq!(request.headers()["x-token"], "secret");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                for span in spans(&body) {
                    let _ = record.send(span).await; // the test may be over
                }
                let (status, body) = answer().await;
                let answer = Response::builder().status(status);
                Ok::<_, Infallible>(answer.body(Full::<Bytes>::from(body)).unwrap())
            }
        });
        tokio::spawn(server::serve(
            listener,
            service,
            server::Limits::default(),
            server::ConnectionMetrics::default(),
            std::future::pending(),
        ));
        Self {
            addr,
            received,
            spans: Vec::new(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The spans so far, once there are as many that match.
    pub(crate) async fn until(
        &mut self,
        count: usize,
        wanted: impl Fn(&Span) -> bool,
    ) -> Vec<Span> {
        while self.spans.iter().filter(|span| wanted(span)).count() < count {
            self.spans.push(self.received.recv().await.unwrap());
        }
        self.so_far()
    }

    /// The spans so far.
    pub(crate) fn so_far(&mut self) -> Vec<Span> {
        self.spans
            .extend(std::iter::from_fn(|| self.received.try_recv().ok()));
        self.spans.clone()
    }
}

/// The spans of an `ExportTraceServiceRequest`.
fn spans(request: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource_spans in Message::of(request).messages(1) {
        let resource = resource_spans.messages(1).next().unwrap().attributes(1);
        for scope_spans in resource_spans.messages(2) {
            for span in scope_spans.messages(2) {
                spans.push(Span {
                    resource: resource.clone(),
                    name: span.text(5),
                    trace: hex(span.bytes(1)),
                    id: hex(span.bytes(2)),
                    parent: hex(span.bytes(4)),
                    kind: span.number(6),
                    began: span.number(7),
                    ended: span.number(8),
                    attributes: span.attributes(9),
                    has_failed: span.messages(15).any(|status| status.number(3) == 2),
                });
            }
        }
    }
    spans
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// A message of Protocol Buffers: its fields by their numbers.
struct Message<'a>(Vec<(u64, Field<'a>)>);

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Message<'a> {
    fn of(mut bytes: &'a [u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let field = match tag & 7 {
                0 => Field::Number(varint(&mut bytes)),
                1 => Field::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
                2 => {
                    let length = varint(&mut bytes).try_into().unwrap();
                    Field::Bytes(take(&mut bytes, length))
                }
                5 => {
                    let number = take(&mut bytes, 4).try_into().unwrap();
                    Field::Number(u32::from_le_bytes(number).into())
                }
                wire_type => panic!("wire type {wire_type}"),
            };
            fields.push((tag >> 3, field));
        }
        Self(fields)
    }

    fn all(&self, number: u64) -> impl Iterator<Item = &Field<'a>> {
        self.0
            .iter()
            .filter(move |(it, _)| *it == number)
            .map(|(_, field)| field)
    }

    fn number(&self, number: u64) -> u64 {
        match self.all(number).next() {
            None => 0,
            Some(Field::Number(value)) => *value,
            Some(Field::Bytes(_)) => panic!("field {number} is no number"),
        }
    }

    fn bytes(&self, number: u64) -> &'a [u8] {
        match self.all(number).next() {
            None => &[],
            Some(Field::Bytes(bytes)) => bytes,
            Some(Field::Number(_)) => panic!("field {number} is a number"),
        }
    }

    fn text(&self, number: u64) -> String {
        String::from_utf8(self.bytes(number).to_vec()).unwrap()
    }

    fn messages(&self, number: u64) -> impl Iterator<Item = Message<'a>> {
        self.all(number).map(|field| match field {
            Field::Bytes(bytes) => Message::of(bytes),
            Field::Number(_) => panic!("no message"),
        })
    }

    /// Repeated `KeyValue`, each value as text.
    fn attributes(&self, number: u64) -> BTreeMap<String, String> {
        let attribute = |pair: Message<'_>| {
            let value = pair.messages(2).next().unwrap();
            let text = match value.0.first() {
                Some((1, _)) => value.text(1),
                Some((3, Field::Number(number))) => number.to_string(),
                _ => panic!("an attribute that is neither text nor an integer"),
            };
            (pair.text(1), text)
        };
        self.messages(number).map(attribute).collect()
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    taken
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = take(bytes, 1)[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}
