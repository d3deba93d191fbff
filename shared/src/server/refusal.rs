//! The answer to a connection over the limit.

use std::{
    collections::VecDeque,
    io::{self, Read as _},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::oneshot, time::timeout};

/// How long the answer waits for the first bytes of the request, which may be a liveness probe.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a refused connection stays open for the client to read the answer and close its side.
const LINGER: Duration = Duration::from_secs(1);

/// How often a connection that has to end at once is read, so that a client that sends without end
/// does not keep it.
const HURRIED_READS: usize = 8;

/// The problem type of the response to a connection over the limit.
pub(crate) const TOO_MANY_CONNECTIONS: &str = "urn:storm:problem:too-many-connections";

/// The response to a connection over the limit.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\n\
    content-length: 154\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\r\n\
    {\"type\":\"urn:storm:problem:too-many-connections\",\
    \"title\":\"Too many connections\",\"status\":503,\
    \"detail\":\"Close idle connections, or try again in a second.\"}";

/// The response to a liveness probe over the limit. A busy process lives: an orchestrator that
/// restarted it would close the connections of all its clients.
const ALIVE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    content-type: application/json\r\n\
    content-length: 18\r\n\
    connection: close\r\n\r\n\
    {\"status\":\"alive\"}";

/// The length of its body, which the answer to a HEAD omits.
const ALIVE_BODY: usize = 18;

/// The refused connections that are still open, oldest first.
pub(super) struct Refusals {
    most: usize,
    /// Dropping one ends its connection, once it has been answered.
    open: VecDeque<oneshot::Sender<()>>,
}

impl Refusals {
    /// Keeps at most `most` refused connections open.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            open: VecDeque::new(),
        }
    }

    /// Answers `503`, and keeps the connection open until the client has read that.
    pub(super) fn refuse(&mut self, stream: TcpStream) {
        if self.open.len() >= self.most {
            self.open.retain(|refusal| !refusal.is_closed());
        }
        if self.open.len() >= self.most {
            // The oldest has had the most time to read its answer.
            self.open.pop_front();
        }
        let (keep, hurry) = oneshot::channel();
        tokio::spawn(answer(stream, hurry));
        self.open.push_back(keep);
    }
}

/// Answers the connection and waits until the client closes it, or until `hurry` completes.
async fn answer(mut stream: TcpStream, mut hurry: oneshot::Receiver<()>) {
    let mut first = [0; 12];
    let hurried = tokio::select! {
        _ = timeout(PATIENCE, stream.peek(&mut first)) => false,
        _ = &mut hurry => true,
    };
    let answered = async {
        stream.write_all(answer_to(&first)).await?;
        stream.shutdown().await?;
        // Closing a socket with unread input resets the connection, and the client may then lose
        // the answer. So read until the client closes, or at least what has come.
        if hurried {
            return read_what_came(stream.into_std()?);
        }
        let mut sink = tokio::io::sink();
        tokio::select! {
            rest = tokio::io::copy(&mut stream, &mut sink) => rest.map(drop),
            _ = hurry => Ok(()),
        }
    };
    // An error means that the client has gone.
    let _: Result<io::Result<()>, _> = timeout(LINGER, answered).await;
}

/// Reads what is in the socket's buffer, up to [`HURRIED_READS`] pieces. Not tokio's `try_read`,
/// which knows of no bytes before epoll has reported them.
fn read_what_came(mut stream: std::net::TcpStream) -> io::Result<()> {
    let mut piece = [0; 4096];
    for _ in 0..HURRIED_READS {
        if stream.read(&mut piece)? == 0 {
            break;
        }
    }
    Ok(())
}

/// The answer to a request that begins with `first`.
fn answer_to(first: &[u8]) -> &'static [u8] {
    if first.starts_with(b"GET /livez ") {
        ALIVE
    } else if first.starts_with(b"HEAD /livez ") {
        &ALIVE[..ALIVE.len() - ALIVE_BODY]
    } else {
        REFUSAL
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIVE_BODY, REFUSAL, TOO_MANY_CONNECTIONS, answer_to};

    #[test]
    fn a_probe_is_answered_with_the_length_of_its_body_and_a_head_without_it() {
        let text = |first| std::str::from_utf8(answer_to(first)).unwrap();
        let (head, body) = text(b"GET /livez H").split_once("\r\n\r\n").unwrap();
        assert_eq!(body.len(), ALIVE_BODY);
        assert_eq!(text(b"HEAD /livez "), format!("{head}\r\n\r\n"));
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
        let alive: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(alive["status"], "alive");
    }

    #[test]
    fn the_refusal_states_the_length_of_its_body() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{}",
            body.len()
        );
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["type"], TOO_MANY_CONNECTIONS);
    }
}
