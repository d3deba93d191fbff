//! The exchange of one attempt: over a pooled connection if one is still open, or a new one.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use storm_shared::models::CallbackUrl;
use tokio::time::{Instant, timeout_at};

use super::{
    connection::{Answer, Connection, ExchangeError},
    detail::ErrorDetail,
    dialer::Dialer,
    error::AttemptError,
    message::Message,
    permits::TenantPermits,
    pool::Pool,
    request::Post,
    shortage::Shortage,
    transport::Resends,
};

/// The exchange of one attempt.
pub(super) struct CallbackExchange<'a> {
    pub(super) dialer: &'a Dialer,
    pub(super) pool: &'a Pool<Connection>,
    /// The permits of the origin; `None`: not limited.
    pub(super) permits: Option<&'a TenantPermits>,
    pub(super) post: &'a Post,
    pub(super) url: &'a CallbackUrl,
    pub(super) message: &'a Message,
    pub(super) resends: &'a dyn Resends,
    pub(super) deadline: Instant,
}

impl CallbackExchange<'_> {
    /// The answer, and the connection that it came over.
    pub(super) async fn run(&self) -> Result<(Connection, Answer), AttemptError> {
        let exchanged = self.exchange_over_any().await;
        // Idle connections hold both. A shortage of look-ups closes none: any tenant can bring it
        // about, by a name server that hangs.
        if let Err(AttemptError::Shortage(Shortage::Descriptors | Shortage::Memory)) = exchanged {
            self.pool.clear();
        }
        exchanged
    }

    async fn exchange_over_any(&self) -> Result<(Connection, Answer), AttemptError> {
        // The receiver may have closed a pooled connection in the meantime.
        while let Some(pooled) = self.pool.take(self.url.origin()) {
            match self.exchange_over(pooled).await {
                Ok(answered) => return Ok(answered),
                // Nothing was sent, so the next one can be tried.
                Err(ExchangeError::Closed { sent: false, .. }) => {}
                // It closed while the request was on its way; the receiver may have got it or not.
                // A new connection is dialled, because another pooled one may be as stale.
                Err(ExchangeError::Closed { error, .. }) => {
                    self.record_resend(error).await?;
                    break;
                }
                Err(error) => return Err(self.error_of(error).await),
            }
        }
        let dial = self
            .dialer
            .dial(self.url.origin(), self.permits, self.deadline);
        // Boxed: most attempts find a connection in the pool, and need no room for this one.
        let new = Box::pin(dial).await?;
        match self.exchange_over(new).await {
            Ok(answered) => Ok(answered),
            Err(error) => Err(self.error_of(error).await),
        }
    }

    async fn exchange_over(
        &self,
        mut connection: Connection,
    ) -> Result<(Connection, Answer), ExchangeError> {
        // Built only now, because its signature covers the time.
        let request = self.post.request(self.url, self.message);
        let request: Request<Full<Bytes>> = request.map_err(|error| {
            ExchangeError::Failed(AttemptError::Connect(ErrorDetail::of(&error)))
        })?;
        let answer = connection.exchange(request, self.deadline).await?;
        Ok((connection, answer))
    }

    /// The error of the attempt, where no other connection is tried.
    async fn error_of(&self, error: ExchangeError) -> AttemptError {
        match error {
            ExchangeError::Failed(error) | ExchangeError::Closed { error, .. } => error,
            ExchangeError::Shortage {
                sent: true,
                shortage,
                error,
            } => match self.record_resend(error).await {
                Ok(()) => AttemptError::Shortage(shortage),
                Err(error) => error,
            },
            ExchangeError::Shortage { shortage, .. } => AttemptError::Shortage(shortage),
        }
    }

    /// Records the resend before it is made: a worker that is killed after it could not record it
    /// any more. If it is not recorded, the attempt ends with `error`.
    async fn record_resend(&self, error: AttemptError) -> Result<(), AttemptError> {
        match timeout_at(self.deadline, self.resends.record()).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(error),
        }
    }
}
