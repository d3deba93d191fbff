//! The HTTP handler: the work of a job is a POST to the operator's endpoint.
//!
//! * [`HttpEndpoint`]: the endpoint, as the operator has set it up.
//! * `request`: the POST. `exchange`: how it is sent, over a connection that is kept alive or a new
//!   one. `keep_alive`: how it is noticed that an endpoint's host is gone.
//! * `body`: the bounded read of an answer. `content`: the result that it is.
//! * `failures`: why there is no result, for clients and for operators.
//!
//! The operator has chosen the URL, and nothing that a client sends can change it. So the SSRF
//! policy does not judge it.

mod body;
mod content;
mod endpoint;
mod exchange;
mod failures;
mod keep_alive;
mod request;

use std::{path::Path, sync::Arc, time::SystemTime};

use hyper::{Response, body::Incoming};
use jiff::Timestamp;
use storm_shared::{
    live::Live,
    memory::{MemoryBudget, Reservation},
    services::ssrf::Policy,
};
use tokio::time::Instant;

pub use self::endpoint::HttpEndpoint;
use self::{
    content::ContentType,
    exchange::{Exchange, MAX_SECOND_DIALS},
    keep_alive::KeepAlive,
};
use crate::{
    delivery::{
        ClientError, Network, Permits, SsrfFilter, TenantPermits,
        connection::{Answer, Connection},
        dialer::Dialer,
        pool::Pool,
        request::Clock,
        retry_after, tls,
    },
    handler::{Context, Failure, Handler, Job, Output},
};

/// What all HTTP handlers of a worker share: its network and its trusted roots. Cheap to clone.
#[derive(Clone)]
pub struct HttpClient {
    dialer: Arc<Dialer>,
}

impl HttpClient {
    /// A client that dials any address, through `network`. Trusts Mozilla's roots and those in
    /// `ca_file` (PEM).
    ///
    /// # Errors
    /// `ca_file` cannot be read or holds no usable certificate.
    pub fn new(network: Network, ca_file: Option<&Path>) -> Result<Self, ClientError> {
        let dialer = Dialer {
            filter: SsrfFilter {
                policy: Policy::unrestricted(),
                resolver: network.resolver,
            },
            sockets: Arc::new(KeepAlive(network.sockets)),
            limit: network.limit,
            tls: tls::config(ca_file)?,
        };
        Ok(Self {
            dialer: Arc::new(dialer),
        })
    }
}

/// One handler. Each attempt ends at its deadline by itself, which is later by the time for which
/// the answer has waited for memory.
///
/// It has its own connections: at most as many as attempts run at a time, and 256 more
/// while names with several addresses are dialled.
pub struct HttpHandler {
    endpoint: Live<HttpEndpoint>,
    client: HttpClient,
    pool: Pool<Connection>,
    second_dials: TenantPermits,
    memory: MemoryBudget,
    clock: Clock,
}

impl HttpHandler {
    /// A handler whose caller runs at most `concurrency` attempts at a time. Each attempt uses the
    /// endpoint of the moment in which it begins. Bodies wait for room in `memory`, and their
    /// [`Output`]s hold it.
    ///
    /// # Panics
    /// Outside of a tokio runtime, which runs the task that closes idle connections.
    pub fn new(
        client: HttpClient,
        endpoint: Live<HttpEndpoint>,
        concurrency: usize,
        memory: MemoryBudget,
    ) -> Self {
        Self {
            endpoint,
            // A connection is dialled only if none is idle, so this bounds them all. After a change
            // of the URL, the idle ones to the endpoint of before come on top, for 4 s.
            pool: Pool::of_one_origin(concurrency, &client.dialer.limit),
            client,
            second_dials: Permits::new(MAX_SECOND_DIALS).of(None),
            memory,
            clock: Arc::new(Timestamp::now),
        }
    }

    /// Keeps at most `most` connections alive from now on: the new limit of attempts at a time.
    pub fn keep_at_most(&self, most: usize) {
        self.pool.keep_at_most(most);
    }

    /// Takes the time of each attempt from `clock`.
    pub fn by_clock(mut self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// What an answer means. Its connection is kept for other attempts if it can be.
    async fn outcome(
        &self,
        endpoint: &HttpEndpoint,
        deadline: Instant,
        connection: Connection,
        answer: Answer,
    ) -> Result<Output, Failure> {
        let response = match answer {
            Answer::Head(response) => response,
            Answer::StatusOnly(status) if !status.is_success() => {
                return Err(failures::status(status, None, None));
            }
            Answer::StatusOnly(status) => {
                let failure = if Instant::now() >= deadline {
                    failures::timed_out("the head of the answer did not end")
                } else {
                    failures::head()
                };
                return Err(failure.with_status(status));
            }
        };
        // One that is not used again stays here until its answer was read.
        let mut connection = Some(connection);
        let kept = connection.take_if(|it| it.is_reusable_after(response.headers()));
        let status = response.status();
        if status.is_success() {
            let result = self.result(endpoint, deadline, kept, response);
            result.await.map_err(|failure| failure.with_status(status))
        } else {
            Err(self.refusal(deadline, kept, response).await)
        }
    }

    /// The result in the body of `response`.
    async fn result(
        &self,
        endpoint: &HttpEndpoint,
        deadline: Instant,
        connection: Option<Connection>,
        response: Response<Incoming>,
    ) -> Result<Output, Failure> {
        let (head, body) = response.into_parts();
        content::check_encoding(&head.headers)?;
        let mut reservation = self.memory.reservation();
        let bytes = body::read(body, endpoint.max_result, deadline, &mut reservation).await?;
        self.recycle(connection);
        let content_type = ContentType::of(&head.headers);
        // The result can be larger than the body: room for it comes first, too.
        body::reserve(&mut reservation, content_type.output_size(&bytes)).await;
        let output = content_type.output(bytes)?;
        fit(&mut reservation, output.as_str().len());
        Ok(output.holding(reservation).with_status(head.status))
    }

    /// The failure that an answer other than 2xx is.
    async fn refusal(
        &self,
        deadline: Instant,
        connection: Option<Connection>,
        response: Response<Incoming>,
    ) -> Failure {
        let (head, body) = response.into_parts();
        let retry_after = retry_after::in_headers(&head.headers, SystemTime::now());
        let sample = body::sample(body, deadline).await;
        if sample.is_whole {
            self.recycle(connection);
        }
        let text = ContentType::of(&head.headers).text_of(&sample.bytes);
        failures::status(head.status, retry_after, text.as_deref())
    }

    fn recycle(&self, connection: Option<Connection>) {
        if let Some(connection) = connection {
            self.pool.put(connection);
        }
    }
}

impl Handler for HttpHandler {
    async fn run(&self, job: &Job, context: &Context) -> Result<Output, Failure> {
        let endpoint = self.endpoint.get();
        let exchange = Exchange {
            dialer: &self.client.dialer,
            pool: &self.pool,
            second_dials: &self.second_dials,
            clock: &self.clock,
            endpoint: &endpoint,
            job,
            context,
        };
        let (connection, answer) = exchange.run().await?;
        self.outcome(&endpoint, context.deadline, connection, answer)
            .await
    }
}

/// Makes `reservation` one of at most `bytes`.
fn fit(reservation: &mut Reservation, bytes: usize) {
    drop(reservation.split(reservation.bytes().saturating_sub(bytes)));
}
