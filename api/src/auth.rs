//! Authentication and rate limiting. [`AuthLayer`] runs before the routes, and
//! [`request_check`] before it.
//!
//! A bearer token authenticates a tenant. The tenant's scope restricts the requests that the routes
//! can read or redeliver, and each tenant has a rate limit of its own.

mod route_label;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Method, Request,
    body::{Body as _, Incoming},
    service::{Service, service_fn},
};
use storm_shared::{
    config::{AccessSettings, Settings},
    live::Live,
    models::{ClientName, Destination, Origin},
    services::{
        access::{RateLimit, TokenHash, Tokens, bearer},
        host_check::HostNames,
        scrape,
        store::Scope,
    },
};
use warp::{
    Reply as _,
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    reply::Response,
};

use self::route_label::RouteLabel;
use crate::{
    assets::Asset,
    body,
    limiter::{Limiter, Quota},
    metrics::Metrics,
    reply::{self, Kind, Problem, ProblemName, Waited},
    request_check::{self, Refusal},
};

/// The path of the metrics.
const METRICS: &str = "/metrics";

/// The paths of operators begin with this segment.
const ADMIN: &str = "/admin";

/// The authenticated tenant. Only [`AuthLayer`] attaches it to a request, so a route that extracts
/// it cannot be reached without authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: Option<ClientName>,
}

impl Caller {
    /// The tenant's name in `API_TOKENS`. `None` if `API_TOKENS` is empty.
    pub fn name(&self) -> Option<&ClientName> {
        self.name.as_ref()
    }

    /// The tenant's scope: its own requests, or all requests if `API_TOKENS` is empty.
    pub fn scope(&self) -> Scope {
        self.name.clone().map_or(Scope::All, Scope::Of)
    }

    /// The tenant's receiver at `origin`.
    pub fn destination(&self, origin: &Origin) -> Destination {
        Destination {
            tenant: self.name.clone(),
            origin: origin.clone(),
        }
    }
}

/// The authenticated operator. Attached by [`AuthLayer`], so a route that extracts it needs a token
/// of `ADMIN_TOKENS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The operator's name in `ADMIN_TOKENS`.
    pub name: ClientName,
}

/// Marks a request that may read the metrics. Attached by [`AuthLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Scraper;

/// The authentication layer of one listener. Clones share its rate limits.
///
/// * [Checks](request_check): a refused request costs no rate limit. The host matters only where no
///   token is required.
/// * Authentication: a request without a valid token gets `401`, the same answer for every path,
///   before its body is read. A bearer token that is presented costs one hash; without one, nothing
///   is hashed. Tokens are stored as SHA-256 hashes and compared in constant time, so that timing
///   reveals nothing about them.
/// * Tenant and scope: an authenticated request carries its [`Caller`], from which the controllers
///   take the [`Scope`] of every query.
/// * Rate limiting: a request over its tenant's rate limit gets `429`.
///
/// With `ADMIN_TOKENS`, the paths under `/admin` need one of these, and carry their [`Operator`]
/// instead. They are not limited. A token of the other list is valid, and not allowed: `403`.
///
/// `/healthz`, `/livez`, `/readyz` and the [files of pages](crate::assets) are exempt from the last
/// three. `/metrics` is exempt from rate limiting, and takes `METRICS_TOKEN` instead if that is
/// set.
#[derive(Clone)]
pub struct AuthLayer {
    shared: Arc<Shared>,
}

struct Shared {
    access: Live<Access>,
    /// The hosts that requests without a token may name.
    hosts: HostNames,
    /// Whether this listener serves `/metrics`.
    has_metrics: bool,
    /// Whether it serves the files of pages.
    has_assets: bool,
    metrics: Metrics,
    body_timeout: Duration,
}

/// Who has access. Replaced as a whole when the settings are reread.
struct Access {
    tokens: Tokens,
    /// In the order of [`Tokens::clients`]. Without tokens, one client stands for all callers.
    clients: Vec<Client>,
    /// Those of operators. Without any, there is no `/admin`.
    admins: Tokens,
    rate_limit: Option<RateLimit>,
    metrics_token: Option<TokenHash>,
    /// Whether this listener requires tokens.
    is_closed: bool,
}

#[derive(Clone)]
struct Client {
    caller: Caller,
    limiter: Option<Arc<Limiter>>,
}

/// Why a request does not reach the routes.
enum AuthError {
    /// Refused whoever sent it: `400`, `403` or `421`.
    Refused(Refusal),
    /// No valid token: `401`.
    Unauthorized,
    /// The token is a client's, and the path an operator's (`is_admin`), or the other way round:
    /// `403`.
    Forbidden { is_admin: bool },
    /// Over the rate limit: `429`.
    RateLimited(Quota),
}

impl AuthLayer {
    /// For the API's listener.
    pub fn for_api(settings: &Settings, metrics: Metrics) -> Self {
        let has_metrics = settings.access.metrics_addr.is_none();
        Self::start(settings, metrics, has_metrics, true, Access::of_api)
    }

    /// For a listener that serves `/metrics` only: `METRICS_TOKEN` applies, `API_TOKENS` do not.
    pub fn for_metrics(settings: &Settings, metrics: Metrics) -> Self {
        Self::start(settings, metrics, true, false, |settings, _| {
            Access::of_metrics(settings)
        })
    }

    /// `access` makes the access from the settings and the access so far.
    fn start(
        settings: &Settings,
        metrics: Metrics,
        has_metrics: bool,
        has_assets: bool,
        access: fn(&AccessSettings, Option<&Access>) -> Access,
    ) -> Self {
        let live = Live::new(access(&settings.access, None));
        let reread = live.clone();
        settings.updates.pass_to(move |settings| {
            let before = reread.get();
            reread.set(access(&settings.access, Some(&before)));
        });
        Self {
            shared: Arc::new(Shared {
                access: live,
                hosts: settings.access.hosts.clone(),
                has_metrics,
                has_assets,
                metrics,
                body_timeout: settings.http.timeout,
            }),
        }
    }

    /// Wraps `inner` in this layer, and counts every answer. Each connection keeps the room of a
    /// future of `inner`.
    pub fn before<S>(
        self,
        inner: S,
    ) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone
    where
        S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone,
        S::Future: Send,
    {
        service_fn(move |mut request: Request<Incoming>| {
            let begun = Instant::now();
            let route_label = RouteLabel::of(request.uri().path());
            let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
            let shared = Arc::clone(&self.shared);
            let entry = match shared.admit(&mut request) {
                Ok(quota) => Ok((inner.call(request), quota)),
                Err(refusal) => Err(shared.refuse(refusal, request)),
            };
            async move {
                let mut response = match entry {
                    Ok((answer, quota)) => answered(answer, quota).await,
                    Err(refused) => refused,
                };
                if is_read {
                    // Some caches keep an answer that says nothing, and a client that polls would
                    // get the same state again and again. Other methods are not cached.
                    let no_store = HeaderValue::from_static("no-store");
                    // A page's file says how it is cached.
                    let cached = response.headers_mut().entry(CACHE_CONTROL);
                    cached.or_insert(no_store);
                }
                // Counted here and not in the routes, which never see a refused request.
                shared.count(route_label, &response, begun);
                Ok(response)
            }
        })
    }
}

async fn answered(
    answer: impl Future<Output = Result<Response, Infallible>>,
    quota: Option<Quota>,
) -> Response {
    let Ok(mut response) = answer.await;
    if let Some(quota) = quota {
        quota.write_to(response.headers_mut());
    }
    response
}

impl Access {
    /// For the API's listener. A client of `before` keeps its rate limit's state, unless the limit
    /// has changed: then it starts anew, as at the start of the API.
    fn of_api(settings: &AccessSettings, before: Option<&Self>) -> Self {
        let before = before.filter(|before| before.rate_limit == settings.rate_limit);
        let client = |name| {
            let caller = Caller { name };
            let known = before.and_then(|before| before.known(&caller));
            known.cloned().unwrap_or_else(|| Client {
                caller,
                limiter: settings.rate_limit.map(Limiter::new).map(Arc::new),
            })
        };
        let clients = if settings.tokens.is_empty() {
            vec![client(None)]
        } else {
            let names = settings.tokens.clients().iter().cloned();
            // One limiter for each name: a second token does not double its client's rate limit.
            names.map(Some).map(client).collect()
        };
        Self {
            tokens: settings.tokens.clone(),
            clients,
            admins: settings.admin_tokens.clone(),
            rate_limit: settings.rate_limit,
            metrics_token: settings.metrics_token,
            is_closed: !settings.tokens.is_empty(),
        }
    }

    fn of_metrics(settings: &AccessSettings) -> Self {
        Self {
            tokens: Tokens::default(),
            clients: vec![Client {
                caller: Caller { name: None },
                limiter: None,
            }],
            admins: Tokens::default(),
            rate_limit: None,
            metrics_token: settings.metrics_token,
            is_closed: settings.metrics_token.is_some(),
        }
    }

    fn known(&self, caller: &Caller) -> Option<&Client> {
        self.clients.iter().find(|known| known.caller == *caller)
    }

    /// Whether this is a path for operators. Without any, it is a path like others.
    fn is_admin(&self, path: &str) -> bool {
        let rest = path.strip_prefix(ADMIN);
        !self.admins.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn operator(&self, headers: &HeaderMap) -> Result<ClientName, AuthError> {
        let index = bearer(headers).and_then(|token| self.admins.client_of(token));
        let name = index.and_then(|index| self.admins.clients().get(index));
        name.cloned()
            .ok_or_else(|| refusal(headers, &self.tokens, true))
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
            // On the listener of `METRICS_ADDR` there are no tokens, so every request has a client.
            None => self.client(headers).is_some(),
        }
    }
}

impl Shared {
    /// Checks and authenticates the request, takes it from the rate limit, and attaches its caller.
    /// Returns the state of the rate limit, if there is one.
    fn admit(&self, request: &mut Request<Incoming>) -> Result<Option<Quota>, AuthError> {
        let access = self.access.get();
        let served = self.served(&access, request);
        request_check::check(request, served).map_err(AuthError::Refused)?;
        if let Some(asset) = self.asset(request.uri().path()) {
            request.extensions_mut().insert(asset);
            return Ok(None);
        }
        let (path, headers) = (request.uri().path(), request.headers());
        // Exact paths only. A route may match other spellings of a path; those need a token.
        match path {
            "/healthz" | "/livez" | "/readyz" => Ok(None),
            METRICS if self.has_metrics => {
                if !access.may_scrape(headers) {
                    return Err(AuthError::Unauthorized);
                }
                request.extensions_mut().insert(Scraper);
                Ok(None)
            }
            _ if access.is_admin(path) => {
                let name = access.operator(headers)?;
                request.extensions_mut().insert(Operator { name });
                Ok(None)
            }
            _ => {
                // Authentication comes first, so that a guess uses up nobody's rate limit.
                let client = access.client(headers);
                let client = client.ok_or_else(|| refusal(headers, &access.admins, false))?;
                let quota = client
                    .limiter
                    .as_ref()
                    .map(|limiter| limiter.admit())
                    .transpose()
                    .map_err(AuthError::RateLimited)?;
                request.extensions_mut().insert(client.caller.clone());
                Ok(quota)
            }
        }
    }

    /// The file of a page at this path.
    fn asset(&self, path: &str) -> Option<Asset> {
        Asset::at(path).filter(|_| self.has_assets)
    }

    /// The hosts that this request may name. `None` if it has to carry a token.
    fn served(&self, access: &Access, request: &Request<Incoming>) -> Option<&HostNames> {
        let path = request.uri().path();
        let is_scrape = self.has_metrics && access.metrics_token.is_some() && path == METRICS;
        let needs_token = is_scrape || access.is_admin(path);
        Some(&self.hosts).filter(|_| !access.is_closed && !needs_token)
    }

    fn count(&self, route_label: RouteLabel, response: &Response, begun: Instant) {
        let (endpoint, status) = (route_label.name(), response.status());
        self.metrics.answered(endpoint, status);
        let reason = response.extensions().get();
        let reason = reason.map(|ProblemName(reason)| *reason);
        if let Some(reason) = reason {
            self.metrics.refused(endpoint, reason);
        }
        if route_label == RouteLabel::Async
            && status == StatusCode::ACCEPTED
            && response.extensions().get::<Waited>().is_none()
        {
            self.metrics.acknowledged(begun.elapsed());
        }
        let is_overload = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
        match route_label {
            RouteLabel::Async if is_overload => self.metrics.job_refused(),
            RouteLabel::Sync if is_overload => {
                let is_late = reason == Some(Kind::SyncTimeout.name());
                self.metrics.sync_refused(is_late.then(|| begun.elapsed()));
            }
            RouteLabel::Sync if status == StatusCode::OK => {
                self.metrics.sync_answered(begun.elapsed());
            }
            _ => {}
        }
    }

    fn refuse(&self, refusal: AuthError, request: Request<Incoming>) -> Response {
        // The client may still be sending: a reset connection could cost it the answer.
        let body = request.into_body();
        if !body.is_end_stream() {
            body::discard(body.into_data_stream(), self.body_timeout);
        }
        match refusal {
            AuthError::Refused(refusal) => Problem::refused(refusal).into_response(),
            AuthError::Unauthorized => Problem::unauthorized().into_response(),
            AuthError::Forbidden { is_admin } => Problem::forbidden(is_admin).into_response(),
            AuthError::RateLimited(quota) => reply::rate_limited(&quota),
        }
    }
}

/// Why a token is refused that is not in the list of its path: it is in the `other`, or in none.
fn refusal(headers: &HeaderMap, other: &Tokens, is_admin: bool) -> AuthError {
    let is_known = bearer(headers).is_some_and(|token| other.client_of(token).is_some());
    if is_known {
        AuthError::Forbidden { is_admin }
    } else {
        AuthError::Unauthorized
    }
}
