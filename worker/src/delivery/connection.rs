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
    error::{AttemptError, ErrorDetail, Stage},
    pool::Poolable,
};

/// The buffer size in bytes: the limit of a response head, and of the body held at a time. (hyper
/// limits the number of header fields to 100.)
const MAX_BUFFER: usize = 16 * 1024;

/// The sending side of a connection. A separate task drives it and ends when this is dropped or
/// the peer closes.
pub(super) struct Connection {
    origin: Arc<str>,
    sender: SendRequest<Full<Bytes>>,
}

/// Why there is no response.
pub(super) enum ExchangeError {
    /// The connection closed before any of the request was sent. Another one can be tried without
    /// a risk of duplicate delivery.
    Unsent,
    /// At least part of the request was sent.
    Failed(AttemptError),
}

/// If the timeout fires this late, our own process was suspended.
const SUSPENDED: Duration = Duration::from_millis(500);

/// Extra time after a suspension to read a response that has already arrived.
const CATCH_UP_TIME: Duration = Duration::from_millis(200);

impl Connection {
    /// Speaks HTTP/1.1 over `io`, which is connected to `origin`.
    pub(super) async fn open<T>(origin: &str, io: T) -> hyper::Result<Self>
    where
        T: Read + Write + Send + Unpin + 'static,
    {
        // HTTP/1.1 has one exchange at a time on a connection, so one permit
        // (`CALLBACK_PER_ORIGIN`) is one attempt and one connection.
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake(io)
            .await?;
        // The error is dropped: hyper also reports it to the exchange in progress, if there is one.
        tokio::spawn(async move { drop(driver.await) });
        Ok(Self {
            origin: origin.into(),
            sender,
        })
    }

    /// Sends `request` and waits for the response head until `deadline`. A failed exchange closes
    /// the connection.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Response<Incoming>, ExchangeError> {
        // Dropping an exchange midway, as the deadline does, makes hyper close the connection.
        let mut exchange = pin!(self.exchange_unbounded(request));
        let mut answer = timeout_at(deadline, &mut exchange).await;
        if answer.is_err() && deadline.elapsed() > SUSPENDED {
            // The response may have arrived in time while the process was suspended.
            answer = timeout(CATCH_UP_TIME, &mut exchange).await;
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
        // A reused connection may still have to notice the end of its last response, or that the
        // peer has closed it.
        if self.sender.ready().await.is_err() {
            return Err(ExchangeError::Unsent);
        }
        let mut error = match self.sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        // hyper returns the request only if none of it was written. Then another try cannot deliver
        // it twice.
        Err(match error.take_message() {
            Some(_) => ExchangeError::Unsent,
            None => {
                ExchangeError::Failed(AttemptError::Interrupted(ErrorDetail::of(error.error())))
            }
        })
    }
}

impl From<ExchangeError> for AttemptError {
    /// The final error, when no other connection can be tried.
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Failed(error) => error,
            ExchangeError::Unsent => {
                Self::Interrupted(ErrorDetail::new("the connection was closed at once"))
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
