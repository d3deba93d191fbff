//! One HTTP/1.1 connection.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    rt::{Read, Write},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    error::{AttemptError, Detail, Stage},
    pool::Poolable,
};

/// The most bytes of an answer's head, and of its body that are held at a time. (The number of
/// header fields is bounded by hyper, at 100.)
const MAX_BUFFER: usize = 16 * 1024;

/// The sending side of a connection. A task of its own drives it, and ends when this is dropped or
/// the peer closes.
pub(super) struct Connection {
    origin: Arc<str>,
    sender: SendRequest<Full<Bytes>>,
}

/// Why there is no answer.
pub(super) enum ExchangeError {
    /// The connection was closed before anything of the request was sent: another one can be tried.
    Unsent,
    /// The request, or a part of it, was sent.
    Failed(AttemptError),
}

/// Who hears of a deadline so late was frozen, and not the receiver.
const FROZEN: Duration = Duration::from_millis(500);

/// How long what arrived meanwhile may take to be read.
const TO_CATCH_UP: Duration = Duration::from_millis(200);

impl Connection {
    /// Speaks HTTP/1.1 over `io`, which is connected to `origin`.
    pub(super) async fn open<T>(origin: &str, io: T) -> hyper::Result<Self>
    where
        T: Read + Write + Send + Unpin + 'static,
    {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake(io)
            .await?;
        // What ends a connection is told to the exchange on it, if there is one.
        tokio::spawn(async move { drop(driver.await) });
        Ok(Self {
            origin: origin.into(),
            sender,
        })
    }

    /// Sends `request` and waits for the answer's head until `deadline`. A connection whose
    /// exchange failed is closed.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Response<Incoming>, ExchangeError> {
        // Dropping an exchange midway, as the deadline does, makes hyper close the connection.
        let mut exchange = pin!(self.exchange_unbounded(request));
        let mut answer = timeout_at(deadline, &mut exchange).await;
        if answer.is_err() && deadline.elapsed() > FROZEN {
            // The answer may have come in time, and only we were not there to read it.
            answer = timeout(TO_CATCH_UP, &mut exchange).await;
        }
        answer.unwrap_or_else(|_| {
            Err(ExchangeError::Failed(AttemptError::Timeout {
                stage: Stage::Answer,
            }))
        })
    }

    async fn exchange_unbounded(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        // A reused connection may not have noticed yet that its last answer is over, or that the
        // peer has closed.
        if self.sender.ready().await.is_err() {
            return Err(ExchangeError::Unsent);
        }
        let mut error = match self.sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        Err(match error.take_message() {
            Some(_) => ExchangeError::Unsent,
            None => ExchangeError::Failed(AttemptError::Interrupted(Detail::of(error.error()))),
        })
    }
}

impl From<ExchangeError> for AttemptError {
    /// What an exchange's failure is once there is no other connection to try.
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Failed(error) => error,
            ExchangeError::Unsent => {
                Self::Interrupted(Detail::new("the connection was closed at once"))
            }
        }
    }
}

impl Poolable for Connection {
    fn origin(&self) -> &Arc<str> {
        &self.origin
    }

    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}
