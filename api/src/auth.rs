//! The door: who is let in, and how often. It stands before the routes, so that who is kept out costs a look at
//! the request's head and nothing more: its body is not waited for, and it learns nothing of what is behind.

mod route_label;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Request,
    body::{Body as _, Incoming},
    service::{Service, service_fn},
};
use storm_shared::{
    config::Settings,
    models::ClientName,
    services::{
        access::{TokenHash, Tokens, bearer},
        scrape,
        store::Scope,
    },
};
use warp::{Reply as _, reply::Response};

use self::route_label::RouteLabel;
use crate::{
    body,
    limiter::{Limiter, Standing},
    metrics::Metrics,
    reply::{self, Problem},
};

/// Who asks. It comes with every request that was let in, and with no other: a route that asks for it can't be
/// reached past the door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: Option<ClientName>,
}

impl Caller {
    /// The name of its token, where tokens are asked for.
    pub fn name(&self) -> Option<&ClientName> {
        self.name.as_ref()
    }

    /// Whose requests it may see: its own; everybody's, where tokens are not asked for.
    pub fn scope(&self) -> Scope {
        self.name.clone().map_or(Scope::All, Scope::Of)
    }
}

/// What comes with a request that may see the metrics.
#[derive(Clone, Copy, Debug)]
pub struct Scraper;

/// The door of one listener. Clones share its limits.
#[derive(Clone)]
pub struct AuthLayer {
    shared: Arc<Shared>,
}

struct Shared {
    tokens: Tokens,
    /// In the order of the tokens' names; without tokens the one that all callers are.
    clients: Vec<Client>,
    /// Whether `/metrics` is behind this door.
    has_metrics: bool,
    metrics_token: Option<TokenHash>,
    metrics: Metrics,
    body_timeout: Duration,
}

struct Client {
    caller: Caller,
    limiter: Option<Limiter>,
}

/// Why a request is not let in.
enum AuthError {
    Unauthorized,
    RateLimited(Standing),
}

impl AuthLayer {
    /// The door of the API.
    pub fn for_api(settings: &Settings, metrics: Metrics) -> Self {
        let access = &settings.access;
        let client = |name| Client {
            caller: Caller { name },
            limiter: access.rate_limit.map(Limiter::new),
        };
        let clients = if access.tokens.is_empty() {
            vec![client(None)]
        } else {
            let names = access.tokens.clients().iter().cloned();
            names.map(Some).map(client).collect()
        };
        Self::new(Shared {
            tokens: access.tokens.clone(),
            clients,
            has_metrics: access.metrics_addr.is_none(),
            metrics_token: access.metrics_token,
            metrics,
            body_timeout: settings.http.timeout,
        })
    }

    /// The door of a listener that has `/metrics` and nothing else: no name is asked for.
    pub fn for_metrics(settings: &Settings, metrics: Metrics) -> Self {
        let nobody = Client {
            caller: Caller { name: None },
            limiter: None,
        };
        Self::new(Shared {
            tokens: Tokens::default(),
            clients: vec![nobody],
            has_metrics: true,
            metrics_token: settings.access.metrics_token,
            metrics,
            body_timeout: settings.http.timeout,
        })
    }

    fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// `inner` behind this door. Each answer is counted.
    pub fn before<S>(
        self,
        inner: S,
    ) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone
    where
        S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone,
        S::Future: Send,
    {
        service_fn(move |mut request: Request<Incoming>| {
            let route_label = RouteLabel::of(request.uri().path());
            let shared = Arc::clone(&self.shared);
            let entry = match shared.admit(&mut request) {
                Ok(standing) => Ok((inner.call(request), standing)),
                Err(refusal) => Err(shared.refuse(refusal, request)),
            };
            async move {
                let response = match entry {
                    Ok((answer, standing)) => answered(answer, standing).await,
                    Err(refused) => refused,
                };
                shared
                    .metrics
                    .answered(route_label.name(), response.status());
                Ok(response)
            }
        })
    }
}

async fn answered(
    answer: impl Future<Output = Result<Response, Infallible>>,
    standing: Option<Standing>,
) -> Response {
    let Ok(mut response) = answer.await;
    if let Some(standing) = standing {
        standing.tell(response.headers_mut());
    }
    response
}

impl Shared {
    /// Lets a request in, as its caller; and tells how its limit stands, where it has one.
    fn admit(&self, request: &mut Request<Incoming>) -> Result<Option<Standing>, AuthError> {
        let (path, headers) = (request.uri().path(), request.headers());
        // Exactly these: what else the routes may take for them comes as any caller.
        match path {
            "/healthz" => Ok(None),
            "/metrics" if self.has_metrics => {
                if !self.may_scrape(headers) {
                    return Err(AuthError::Unauthorized);
                }
                request.extensions_mut().insert(Scraper);
                Ok(None)
            }
            _ => {
                let client = self.client(headers).ok_or(AuthError::Unauthorized)?;
                let limiter = client.limiter.as_ref();
                let standing = limiter
                    .map(Limiter::admit)
                    .transpose()
                    .map_err(AuthError::RateLimited)?;
                request.extensions_mut().insert(client.caller.clone());
                Ok(standing)
            }
        }
    }

    fn client(&self, headers: &HeaderMap) -> Option<&Client> {
        if self.tokens.is_empty() {
            return self.clients.first();
        }
        let client = self.tokens.client_of(bearer(headers)?)?;
        self.clients.get(client)
    }

    fn may_scrape(&self, headers: &HeaderMap) -> bool {
        match &self.metrics_token {
            Some(token) => scrape::is_authenticated(token, headers),
            None => self.client(headers).is_some(),
        }
    }

    fn refuse(&self, refusal: AuthError, request: Request<Incoming>) -> Response {
        let body = request.into_body();
        if !body.is_end_stream() {
            body::discard(body.into_data_stream(), self.body_timeout);
        }
        match refusal {
            AuthError::Unauthorized => {
                self.metrics.unauthorized();
                Problem::unauthorized().into_response()
            }
            AuthError::RateLimited(standing) => {
                self.metrics.rate_limited();
                reply::rate_limited(&standing)
            }
        }
    }
}
