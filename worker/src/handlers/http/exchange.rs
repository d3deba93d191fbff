//! The exchange of one attempt: over a connection that is kept alive, or a new one.

use std::time::Duration;

use storm_shared::models::Origin;
use tokio::time::Instant;

use super::{endpoint::HttpEndpoint, failures, request::request};
use crate::{
    delivery::{
        AttemptError, Shortage, TenantPermits,
        connection::{Answer, Connection, ExchangeError},
        dialer::Dialer,
        pool::Pool,
        request::Clock,
    },
    handler::{Context, Failure, Job},
};

/// The most time for the look-up, the connection and the TLS handshake. A handler's deadline can be
/// much later, and a host that is down should not hold an attempt until then.
const MAX_DIAL_TIME: Duration = Duration::from_secs(10);

/// The most attempts of a handler that dial a second address beside the first one.
pub(super) const MAX_SECOND_DIALS: usize = 256;

/// The exchange of one attempt.
///
/// Unlike a callback, a payload is never sent twice in one attempt, not even if a connection that
/// was kept alive has closed: the work can be expensive, and its operator may allow no repeat.
pub(super) struct Exchange<'a> {
    pub(super) dialer: &'a Dialer,
    pub(super) pool: &'a Pool<Connection>,
    pub(super) second_dials: &'a TenantPermits,
    pub(super) clock: &'a Clock,
    pub(super) endpoint: &'a HttpEndpoint,
    pub(super) job: &'a Job,
    pub(super) context: &'a Context,
}

impl Exchange<'_> {
    /// The answer, and the connection that it came over.
    pub(super) async fn run(&self) -> Result<(Connection, Answer), Failure> {
        let origin = Origin::of(&self.endpoint.url);
        // The endpoint may have closed a pooled connection in the meantime.
        while let Some(pooled) = self.pool.take(&origin) {
            match self.exchange_over(pooled).await {
                Err(ExchangeFailure::Exchange(ExchangeError::Closed { sent: false, .. })) => {}
                exchanged => return exchanged.map_err(|error| self.failure(error)),
            }
        }
        let connection = self.dial(&origin).await?;
        let exchanged = self.exchange_over(connection).await;
        exchanged.map_err(|error| self.failure(error))
    }

    async fn dial(&self, origin: &Origin) -> Result<Connection, Failure> {
        let deadline = self.context.deadline;
        let until = deadline.min(Instant::now() + MAX_DIAL_TIME);
        let dial = self.dialer.dial(origin, Some(self.second_dials), until);
        dial.await.map_err(|error| match error {
            AttemptError::Timeout { stage } if until < deadline => {
                failures::unreachable(stage, MAX_DIAL_TIME)
            }
            AttemptError::Shortage(shortage) => self.shortage(shortage),
            error => failures::of(&error),
        })
    }

    async fn exchange_over(
        &self,
        mut connection: Connection,
    ) -> Result<(Connection, Answer), ExchangeFailure> {
        // Built only now, because its signature covers the time.
        let now = (self.clock)();
        let request = request(self.endpoint, self.job, self.context, now)?;
        let answer = connection.exchange(request, self.context.deadline).await?;
        Ok((connection, answer))
    }

    fn failure(&self, error: ExchangeFailure) -> Failure {
        match error {
            ExchangeFailure::Request(error) => failures::url(&error),
            ExchangeFailure::Exchange(ExchangeError::Shortage {
                sent: false,
                shortage,
                ..
            }) => self.shortage(shortage),
            // Once a part of the request has gone out, the work may have begun: the attempt counts.
            ExchangeFailure::Exchange(
                ExchangeError::Failed(error)
                | ExchangeError::Closed { error, .. }
                | ExchangeError::Shortage { error, .. },
            ) => failures::of(&error),
        }
    }

    fn shortage(&self, shortage: Shortage) -> Failure {
        // Idle connections hold both.
        if matches!(shortage, Shortage::Descriptors | Shortage::Memory) {
            self.pool.clear();
        }
        Failure::shortage(shortage)
    }
}

/// Why there is no answer.
enum ExchangeFailure {
    Request(hyper::http::Error),
    Exchange(ExchangeError),
}

impl From<hyper::http::Error> for ExchangeFailure {
    fn from(error: hyper::http::Error) -> Self {
        Self::Request(error)
    }
}

impl From<ExchangeError> for ExchangeFailure {
    fn from(error: ExchangeError) -> Self {
        Self::Exchange(error)
    }
}
