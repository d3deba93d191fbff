//! One HTTP/1.1 connection.

#[cfg(test)]
mod tests;

use std::{mem, pin::pin, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING},
};
use hyper_util::rt::TokioIo;
use storm_shared::models::Origin;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    detail::ErrorDetail,
    error::{AttemptError, Interruption, Stage},
    pool::Poolable,
    shortage::Shortage,
    tap::{ExchangeState, TappedStream},
    tls_failure::TlsFailure,
};

/// The buffer size in bytes: the limit of a response head, and of the body held at a time. (hyper
/// limits the number of header fields to 100.)
const MAX_BUFFER: usize = 16 * 1024;

/// The sending side of a connection. A separate task drives it and ends when this is dropped or
/// the peer closes. Dropping it before its answer was read cuts the answer off.
pub(crate) struct Connection {
    origin: Origin,
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
    state: ExchangeState,
    /// Whether an exchange has begun on it.
    is_used: bool,
}

/// The answer to a request.
pub(crate) enum Answer {
    /// Its head. The body follows.
    Head(Response<Incoming>),
    /// Its status. The rest of the head is invalid, too large or did not come in time, so the
    /// connection cannot be used again.
    StatusOnly(StatusCode),
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// The connection ended before any byte of an answer, or before the request went out.
    Closed {
        /// Whether part of the request had gone out. If not, another try cannot deliver it twice.
        sent: bool,
        error: AttemptError,
    },
    /// Part of an answer came to a request, or nothing until the deadline.
    Failed(AttemptError),
    /// This worker lacks something.
    Shortage {
        /// Whether part of the request had gone out.
        sent: bool,
        shortage: Shortage,
        /// What it comes to if the attempt counts.
        error: AttemptError,
    },
}

/// If the timeout fires this late, our own process was suspended.
const SUSPENDED: Duration = Duration::from_millis(500);

/// The most time for a closed connection's task to tell why it closed.
const CLOSING_TIME: Duration = Duration::from_millis(200);

/// Extra time after a suspension to read a response that has already arrived.
const CATCH_UP_TIME: Duration = Duration::from_millis(200);

impl Connection {
    /// Speaks HTTP/1.1 over `io`, which is connected to `origin`.
    pub(super) async fn open<T>(origin: &Origin, io: T) -> hyper::Result<Self>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let state = ExchangeState::default();
        let io = TokioIo::new(TappedStream::new(io, state.clone()));
        // HTTP/1.1 has one exchange at a time on a connection, so one permit
        // (`CALLBACK_PER_ORIGIN`) is one attempt and one connection.
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            // With these, a `Retry-After` beside an odd header is still read. The connection is
            // not used again: `is_reusable_after`.
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .handshake(io)
            .await?;
        Ok(Self {
            origin: origin.clone(),
            sender,
            driver: tokio::spawn(driver),
            state,
            is_used: false,
        })
    }

    /// Sends `request` and waits for the response head until `deadline`. A failed exchange closes
    /// the connection.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Answer, ExchangeError> {
        let state = self.state.clone();
        let is_new = !mem::replace(&mut self.is_used, true);
        if !is_new {
            state.begin();
        }
        // An exchange that is dropped midway, as by the deadline, makes hyper close the connection.
        let mut exchange = pin!(self.exchange_unbounded(request));
        let mut answer = timeout_at(deadline, &mut exchange).await;
        if answer.is_err() && deadline.elapsed() > SUSPENDED {
            // The response may have arrived in time while the process was suspended.
            answer = timeout(CATCH_UP_TIME, &mut exchange).await;
        }
        let error = match answer {
            Ok(Ok(response)) => return Ok(Answer::Head(response)),
            Ok(Err(error)) => error,
            Err(_) => ExchangeError::Failed(AttemptError::Timeout {
                stage: Stage::Answer,
            }),
        };
        // The status line decides the attempt, whatever is wrong with the rest of the head. But a
        // 2xx without a request delivers nothing, and on a used connection the status of a timeout
        // can precede a request; on a new one it is that of a receiver that takes no more.
        match state.status() {
            Some(status) if state.sent() || (is_new && !status.is_success()) => {
                Ok(Answer::StatusOnly(status))
            }
            _ => Err(error),
        }
    }

    /// Whether another request may follow the answer with these headers, once its body was read.
    /// Not if parsers may disagree on where it ends: some of it could be taken for the next answer.
    pub(crate) fn is_reusable_after(&self, headers: &HeaderMap) -> bool {
        let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
        let codings = headers.get_all(TRANSFER_ENCODING).iter().count();
        lengths + codings <= 1 && !self.state.is_ambiguous()
    }

    async fn exchange_unbounded(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        // A reused connection may still have to notice the end of its last response, or that the
        // peer has closed it.
        if let Err(closed) = self.sender.ready().await {
            let cause = self.why_closed().await.unwrap_or(closed);
            return Err(self.failed(&cause));
        }
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|error| self.failed(error.error()))
    }

    /// The error that closed the connection while it was idle.
    async fn why_closed(&mut self) -> Option<hyper::Error> {
        let ended = timeout(CLOSING_TIME, &mut self.driver).await.ok()?;
        ended.ok()?.err()
    }

    fn failed(&self, cause: &hyper::Error) -> ExchangeError {
        let detail = ErrorDetail::of(cause);
        let error = match TlsFailure::behind(cause) {
            Some(kind) => AttemptError::Tls {
                established: true,
                kind,
                detail,
            },
            None => AttemptError::Interrupted {
                kind: self.interruption(cause),
                detail,
            },
        };
        let sent = self.state.sent();
        if let Some(shortage) = Shortage::of(cause) {
            ExchangeError::Shortage {
                sent,
                shortage,
                error,
            }
        } else if sent && self.state.received() {
            ExchangeError::Failed(error)
        } else {
            ExchangeError::Closed { sent, error }
        }
    }

    fn interruption(&self, error: &hyper::Error) -> Interruption {
        let speaks_first = self.state.received() && !self.state.sent();
        if self.state.is_endless() {
            Interruption::Endless
        } else if error.is_parse() || speaks_first {
            Interruption::NotHttp
        } else {
            Interruption::Closed
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // If it waits for a request, the task closes it in order: TLS ends with an alert. If not,
        // there may be something to send, and hyper would wait for a peer that reads nothing.
        if !self.sender.is_ready() {
            self.driver.abort();
        }
    }
}

impl Poolable for Connection {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}
