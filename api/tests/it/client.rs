//! An HTTP client that sends raw bytes, so that tests can send malformed requests. It checks that
//! every answer is as the description of the API says.

use std::{fmt::Display, io, net::SocketAddr};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::{
    PATIENCE,
    contract::{self, Sent},
};

/// One connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    sent: Sent,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// A `POST` of JSON.
pub(crate) fn post(path: &str, body: impl Display) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// A request without a body.
pub(crate) fn bare(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

/// The text of `/healthz` for a check that timed out.
pub(crate) const LATE: &str = "no answer within 1 s";

/// The response of `/healthz`. Retries while a check times out, which a busy machine can cause.
pub(crate) async fn health(addr: SocketAddr) -> Answer {
    loop {
        let mut client = Client::connect(addr).await;
        client.send(bare("GET", "/healthz")).await;
        let answer = client.answer().await;
        if !answer.body.contains(LATE) {
            return answer;
        }
    }
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self {
            stream: BufReader::new(TcpStream::connect(addr).await.unwrap()),
            sent: Sent::default(),
        }
    }

    pub(crate) async fn send(&mut self, request: impl AsRef<[u8]>) {
        self.sent.add(request.as_ref());
        let stream = self.stream.get_mut();
        stream.write_all(request.as_ref()).await.unwrap();
    }

    /// Sends what a server that has closed the connection may not take.
    pub(crate) async fn send_if_open(&mut self, bytes: impl AsRef<[u8]>) {
        self.sent.add(bytes.as_ref());
        let _ = self.stream.get_mut().write_all(bytes.as_ref()).await;
    }

    /// Waits for the first bytes of a response, or the end of the connection. An error: it was
    /// reset.
    pub(crate) async fn has_answer(&mut self) -> io::Result<()> {
        self.stream.fill_buf().await.map(drop)
    }

    /// Reads the next response.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.read_head().await;
        let length = answer.header("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        timeout(PATIENCE, self.stream.read_exact(&mut body))
            .await
            .expect("a body")
            .unwrap();
        answer.body = String::from_utf8(body).unwrap();
        if let Some(request) = self.sent.next() {
            contract::check(&request, &answer);
        }
        answer
    }

    /// Reads the next response without a body, as `HEAD` returns it.
    pub(crate) async fn head(&mut self) -> Answer {
        let answer = self.read_head().await;
        match self.sent.next() {
            // A stream has no end, and nothing to compare with beside its head.
            Some(request) if request.method == "HEAD" || answer.is_stream() => {
                contract::check(&request, &answer);
            }
            // Its body follows, and the test reads it.
            _ => self.sent.lose(),
        }
        answer
    }

    async fn read_head(&mut self) -> Answer {
        let status = self.read_line().await;
        let status = status.strip_prefix("HTTP/1.1 ").expect(&status);
        let mut answer = Answer {
            status: status[..3].parse().unwrap(),
            headers: Vec::new(),
            body: String::new(),
        };
        loop {
            let line = self.read_line().await;
            let Some((name, value)) = line.split_once(": ") else {
                return answer;
            };
            answer
                .headers
                .push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    /// Waits for data or EOF; true if the server closed the connection without sending more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let rest = timeout(PATIENCE, self.stream.fill_buf())
            .await
            .expect("bytes, or their end");
        rest.is_ok_and(<[u8]>::is_empty)
    }

    /// Reads the next line of what the server sends, whatever it is.
    pub(crate) async fn line(&mut self) -> String {
        self.sent.lose();
        self.read_line().await
    }

    async fn read_line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.stream.read_line(&mut line))
            .await
            .expect("an answer")
            .unwrap();
        line.trim_end().to_owned()
    }
}

impl Answer {
    fn is_stream(&self) -> bool {
        self.header("content-type") == Some("text/event-stream")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    pub(crate) fn is_problem(&self) -> bool {
        self.header("content-type") == Some("application/problem+json")
    }

    /// The name of the problem that it is.
    pub(crate) fn problem_name(&self) -> Option<String> {
        if !self.is_problem() {
            return None;
        }
        let problem: Value = serde_json::from_str(&self.body).ok()?;
        let name = problem["type"].as_str()?.strip_prefix("urn:storm:problem:");
        name.map(str::to_owned)
    }

    pub(crate) fn text(&self) -> &str {
        &self.body
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect(&self.body)
    }

    /// What `/healthz` says, without the pool of a database on a server.
    pub(crate) fn checks(&self) -> Value {
        let mut health = self.json();
        let parts = health.as_object_mut().unwrap();
        parts.remove("database_connections");
        health
    }

    /// Status and problem name. Panics unless the body is a complete problem with that status.
    pub(crate) fn problem(&self) -> String {
        let problem = self.json();
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(problem["status"], self.status);
        assert!(
            problem["title"].is_string() && problem["detail"].is_string(),
            "{problem}"
        );
        let name = problem["type"]
            .as_str()
            .unwrap()
            .strip_prefix("urn:storm:problem:");
        format!("{} {}", self.status, name.unwrap())
    }
}
