//! The callback client: one attempt under one deadline.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, future::BoxFuture};
use hyper::{StatusCode, body::Incoming};
use jiff::Timestamp;
use storm_shared::{
    live::Live,
    models::CallbackUrl,
    services::{signature::Signer, ssrf::Policy},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{
    answer::AnswerBody,
    connection::{Answer, Connection},
    dialer::Dialer,
    error::AttemptError,
    exchange::CallbackExchange,
    message::Message,
    network::Network,
    permits::ConnectionPermit,
    pool::Pool,
    request::Post,
    retry_after,
    ssrf::SsrfFilter,
    tls::{self, ClientError},
    transport::{Resends, Transport, Unrecorded},
};

/// The most time for reading a response body after its head.
const MAX_BODY_TIME: Duration = Duration::from_secs(1);
/// Concurrency limit of body reads. Over it, the connection is closed instead.
const MAX_BODIES: usize = 256;

/// Delivers callbacks. Cheap to clone; clones share the connection pool.
#[derive(Clone)]
pub struct CallbackClient {
    shared: Arc<Shared>,
    post: Post,
}

struct Shared {
    dialer: Dialer,
    timeout: Duration,
    pool: Arc<Pool<Connection>>,
    bodies: Arc<Semaphore>,
}

impl CallbackClient {
    /// A client that dials only what `policy` allows, through `network`. Every attempt has
    /// `timeout`. Trusts Mozilla's roots and those in `ca_file` (PEM).
    ///
    /// # Errors
    /// `ca_file` cannot be read or holds no usable certificate.
    ///
    /// # Panics
    /// Outside of a tokio runtime, which runs the task that closes idle connections.
    pub fn new(
        policy: Policy,
        network: Network,
        timeout: Duration,
        ca_file: Option<&Path>,
    ) -> Result<Self, ClientError> {
        let tls = tls::config(ca_file)?;
        let shared = Shared {
            dialer: Dialer {
                filter: SsrfFilter {
                    policy,
                    resolver: network.resolver,
                },
                sockets: network.sockets,
                limit: network.limit.clone(),
                tls,
            },
            timeout,
            pool: Arc::new(Pool::new(&network.limit)),
            bodies: Arc::new(Semaphore::new(MAX_BODIES)),
        };
        Ok(Self {
            shared: Arc::new(shared),
            post: Post::unsigned(),
        })
    }

    /// Signs every attempt with `signer`.
    pub fn signing_with(self, signer: Signer) -> Self {
        self.signing_with_live(Live::new(signer))
    }

    /// Signs every attempt with the signer of the moment in which it begins.
    pub fn signing_with_live(mut self, signer: Live<Signer>) -> Self {
        self.post.signer = signer;
        self
    }

    /// Takes the time of each attempt from `clock`.
    pub fn by_clock(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.post.clock = Arc::new(clock);
        self
    }

    /// [`CallbackClient::attempt_with`] without a connection permit or a record of resends.
    ///
    /// # Errors
    /// As there.
    pub async fn attempt(
        &self,
        url: &CallbackUrl,
        message: &Message,
    ) -> Result<StatusCode, AttemptError> {
        self.attempt_with(None, url, message, &Unrecorded).await
    }

    /// Posts `message` to `url`, and returns the status if it is 2xx. `permit` is held until the
    /// exchange, the body read included, has ended.
    ///
    /// The timeout covers look-up, connect, TLS, request and status line. Dropping the future ends
    /// the attempt and closes its connection.
    ///
    /// If a kept-alive connection ends without an answer, the message is sent once more over a new
    /// one, after `resends` has recorded it.
    ///
    /// # Errors
    /// The class of the failure. Any status but 2xx is one.
    pub async fn attempt_with(
        &self,
        permit: Option<ConnectionPermit>,
        url: &CallbackUrl,
        message: &Message,
        resends: &dyn Resends,
    ) -> Result<StatusCode, AttemptError> {
        // One deadline for every connection that is tried: a stale one in the pool does not extend
        // it.
        let deadline = Instant::now() + self.shared.timeout;
        let exchange = CallbackExchange {
            dialer: &self.shared.dialer,
            pool: &self.shared.pool,
            permits: permit.as_ref().map(ConnectionPermit::siblings),
            post: &self.post,
            url,
            message,
            resends,
            deadline,
        };
        let (connection, answer) = exchange.run().await?;
        self.outcome(permit, connection, answer, deadline)
    }

    /// What an answer means. Its connection is kept for other requests if it can be.
    fn outcome(
        &self,
        permit: Option<ConnectionPermit>,
        connection: Connection,
        answer: Answer,
        deadline: Instant,
    ) -> Result<StatusCode, AttemptError> {
        let (status, retry_after) = match answer {
            Answer::StatusOnly(status) => (status, None),
            Answer::Head(response) => {
                let (status, headers) = (response.status(), response.headers());
                let retry_after = retry_after::asked_for(status, headers, SystemTime::now());
                if connection.is_reusable_after(headers) {
                    self.recycle(permit, connection, response.into_body(), deadline);
                }
                (status, retry_after)
            }
        };
        if status.is_success() {
            Ok(status)
        } else {
            Err(AttemptError::Status {
                status,
                retry_after,
            })
        }
    }

    /// Reads the rest of the response within tight limits and returns the connection to the pool;
    /// otherwise closes it. The attempt does not wait for this, as its status decides the result.
    fn recycle(
        &self,
        permit: Option<ConnectionPermit>,
        connection: Connection,
        body: Incoming,
        deadline: Instant,
    ) {
        let mut body = AnswerBody::new(body);
        // Most bodies are empty or arrive with the head: these need no task.
        match body.drain().now_or_never() {
            Some(true) => self.shared.pool.put(connection),
            Some(false) => {}
            None => {
                let Ok(body_slot) = Arc::clone(&self.shared.bodies).try_acquire_owned() else {
                    return;
                };
                let pool = Arc::clone(&self.shared.pool);
                let until = deadline.min(Instant::now() + MAX_BODY_TIME);
                tokio::spawn(async move {
                    if let Ok(true) = timeout_at(until, body.drain()).await {
                        pool.put(connection);
                    }
                    // Held until here: while its body is read, the connection counts against the
                    // origin's limit.
                    drop((body_slot, permit));
                });
            }
        }
    }
}

impl Transport for CallbackClient {
    fn attempt<'a>(
        &'a self,
        permit: ConnectionPermit,
        url: &'a CallbackUrl,
        message: &'a Message,
        resends: &'a dyn Resends,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>> {
        Box::pin(self.attempt_with(Some(permit), url, message, resends))
    }
}
