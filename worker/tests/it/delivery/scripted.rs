//! A receiver that runs a script on each connection.
//!
//! It runs on its own threads with blocking sockets, so its socket operations have reached the
//! kernel by the time the test gets the event.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use tokio::sync::mpsc;

/// More events than any test has.
const EVENTS: usize = 1024;

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    accepted: mpsc::Receiver<SocketAddr>,
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1 and runs `script` with every connection and its number
    /// from 0. The connection is closed when `script` returns.
    pub(crate) fn start(script: impl Fn(usize, &TcpStream) + Send + Sync + 'static) -> Self {
        Self::on("127.0.0.1:0", script)
    }

    /// Like [`Receiver::start`], on `address`.
    pub(crate) fn on(
        address: &str,
        script: impl Fn(usize, &TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (accept, accepted) = mpsc::channel(EVENTS);
        let script = Arc::new(script);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().map(Result::unwrap).enumerate() {
                if accept.blocking_send(stream.peer_addr().unwrap()).is_err() {
                    return; // the test is over
                }
                let script = Arc::clone(&script);
                thread::spawn(move || script(number, &stream));
            }
        });
        Self { address, accepted }
    }

    /// Answers every request on every connection with exactly the bytes of `answer`.
    pub(crate) fn answering(answer: impl Into<String>) -> Self {
        let answer = answer.into();
        Self::start(
            move |_, stream| {
                while read_request(stream).is_some() && write(stream, &answer) {}
            },
        )
    }

    /// A URL of this receiver.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// A URL of this receiver with `host` as its host.
    pub(crate) fn url_of(&self, host: &str) -> String {
        format!("http://{host}:{}/hook", self.address.port())
    }

    /// The number of accepted connections. Every answered connection is counted.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.len()
    }

    /// Whether there was no connection yet. It opens one and checks that it is accepted first.
    pub(crate) async fn untouched(&mut self) -> bool {
        let own = TcpStream::connect(self.address).unwrap();
        self.accepted.recv().await == Some(own.local_addr().unwrap())
    }
}

/// A channel on which a script reports an event to its test.
pub(crate) fn events<T>() -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
    mpsc::channel(EVENTS)
}

/// The next request, head and body; `None` at the connection's end.
pub(crate) fn read_request(stream: impl Read) -> Option<String> {
    // The client sends no next request before its answer, so the buffer loses no bytes of one.
    let mut reader = BufReader::new(stream);
    let (mut text, mut length) = (String::new(), 0);
    loop {
        let start = text.len();
        reader.read_line(&mut text).ok().filter(|read| *read > 0)?;
        let line = text[start..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(text + &String::from_utf8_lossy(&body))
}

/// Sends `text`; false if the peer is gone.
pub(crate) fn write(mut stream: impl Write, text: &str) -> bool {
    stream
        .write_all(text.as_bytes())
        .and_then(|()| stream.flush())
        .is_ok()
}

/// Waits until the peer closes.
pub(crate) fn wait_for_end(mut stream: impl Read) {
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|read| read > 0) {}
}
