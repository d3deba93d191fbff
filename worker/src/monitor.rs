//! The worker's own listener: `/healthz`, `/livez`, `/readyz` and `/metrics`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{
    Request,
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use storm_shared::{
    live::Live,
    server,
    services::{
        access::TokenHash,
        health::{Alive, CheckResult, Health},
        host_check::{HostNames, authority_of},
        problem,
        queue::Queue,
        readiness::Readiness,
        scrape,
        store::Store,
    },
};
use tokio::{
    net::TcpListener,
    sync::SetOnce,
    time::{Instant, timeout_at},
};
use warp::{
    Filter, Rejection, Reply,
    http::{HeaderMap, StatusCode},
    reply::Response,
};

use crate::{
    metrics::Metrics,
    workers::{Lease, Watchdogs},
};

/// A loop that has not ticked for this long has stopped. While Redis is down, a loop ticks more
/// often.
const LOOP_DEADLINE: Duration = Duration::from_secs(20);

/// A database that opens within this time fails no health check: `/healthz` waits for it.
const GRACE: Duration = Duration::from_secs(1);

/// Health checks of the worker itself, which work while it is idle.
#[derive(Clone)]
pub struct Vitals {
    lease: Arc<Lease>,
    watchdogs: Watchdogs,
}

impl Vitals {
    /// Checks this lease's heartbeat, and the loops of these watchdogs.
    pub fn new(lease: &Arc<Lease>, watchdogs: &Watchdogs) -> Self {
        Self {
            lease: Arc::clone(lease),
            watchdogs: watchdogs.clone(),
        }
    }

    fn claims(&self) -> CheckResult {
        silent_for(self.watchdogs.longest_silence(), LOOP_DEADLINE)
    }

    fn heartbeat(&self) -> CheckResult {
        silent_for(self.lease.age(), self.lease.length())
    }
}

fn silent_for(time: Duration, limit: Duration) -> CheckResult {
    if time < limit {
        CheckResult::Ok
    } else {
        CheckResult::Failing(format!("silent for {} s", time.as_secs()).into())
    }
}

/// What the listener reports on. Clones share it.
#[derive(Clone)]
pub struct Monitor {
    readiness: Readiness,
    /// The body of `/metrics`.
    metrics: Metrics,
    /// The token that `/metrics` requires, if any.
    metrics_token: Live<Option<TokenHash>>,
    /// The host names to answer to while no token is required.
    hosts: HostNames,
    started: Arc<SetOnce<Started>>,
    /// Until when `/healthz` waits for the start.
    patience: Instant,
}

/// What is checked once the database is open.
struct Started {
    store: Store,
    queue: Option<Queue>,
    vitals: Vitals,
}

impl Monitor {
    /// A worker that starts: its database is not open yet.
    pub fn new(
        readiness: Readiness,
        metrics: Metrics,
        metrics_token: Live<Option<TokenHash>>,
        hosts: HostNames,
    ) -> Self {
        Self {
            readiness,
            metrics,
            metrics_token,
            hosts,
            started: Arc::default(),
            patience: Instant::now() + GRACE,
        }
    }

    /// The worker runs. From now on `store` and `queue` are checked, and the worker itself.
    pub fn started(&self, store: &Store, queue: Option<&Queue>, vitals: Vitals) {
        // First: once `/healthz` passes, `/readyz` must not answer `starting` any more.
        self.readiness.opened(store, queue);
        let started = Started {
            store: store.clone(),
            queue: queue.cloned(),
            vitals,
        };
        // A second call changes nothing.
        let _ = self.started.set(started);
    }

    /// Serves on `listener` until `shutdown` completes.
    pub async fn serve(
        self,
        listener: TcpListener,
        limits: server::Limits,
        shutdown: impl Future<Output = ()>,
    ) {
        let connections = self.metrics.connections.clone();
        let (token, hosts) = (self.metrics_token.clone(), self.hosts.clone());
        let routes = TowerToHyperService::new(warp::service(self.routes()));
        let service = service_fn(move |request: Request<Incoming>| {
            let served = Some(&hosts).filter(|_| token.get().is_none());
            let entry = authority_of(&request, served).map(|_| ());
            // Boxed, because the combined type of the routes is large.
            let entry = entry.map(|()| Box::pin(routes.call(request)));
            async move {
                match entry {
                    Ok(answer) => answer.await,
                    Err(refusal) => Ok(refusal.response().into_response()),
                }
            }
        });
        server::serve(listener, service, limits, connections, shutdown).await;
    }

    fn routes(self) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone {
        let monitor = || {
            let monitor = self.clone();
            warp::any().map(move || monitor.clone())
        };
        let live = get_or_head().map(|| answer(true, &Alive::new()));
        let ready = get_or_head()
            .and(monitor())
            .then(async |monitor: Self| monitor.ready().await);
        let health = get_or_head()
            .and(monitor())
            .then(async |monitor: Self| monitor.health().await);
        let scrape = get_or_head()
            .and(warp::header::headers_cloned())
            .and(monitor())
            .map(|headers: HeaderMap, monitor: Self| {
                let token = monitor.metrics_token.get();
                scrape::answer(&headers, token.as_ref().as_ref(), || {
                    monitor.metrics.render()
                })
            });
        let other_method = || warp::any().map(|| problem::method_not_allowed("GET, HEAD"));
        let other_path = warp::any().map(|| {
            problem::no_such_path("GET /healthz, GET /livez, GET /readyz and GET /metrics")
        });
        warp::path!("livez")
            .and(live.or(other_method()))
            .or(warp::path!("readyz").and(ready.or(other_method())))
            .or(warp::path!("healthz").and(health.or(other_method())))
            .or(warp::path!("metrics").and(scrape.or(other_method())))
            .or(other_path)
    }

    async fn health(&self) -> Response {
        let Ok(started) = timeout_at(self.patience, self.started.wait()).await else {
            return answer(false, &Health::starting());
        };
        let health = Health::check(&started.store, started.queue.as_ref()).await;
        let health = health.showing(&started.vitals.lease.pauses());
        let health = health.with("claims", started.vitals.claims());
        let health = health.with("heartbeat", started.vitals.heartbeat());
        let health = health.of_owner(started.vitals.lease.term().owner);
        answer(health.is_ok(), &health)
    }

    async fn ready(&self) -> Response {
        let mut ready = self.readiness.check().await;
        // A worker that claims nothing runs no jobs.
        if let Some(started) = self.started.get() {
            ready = ready.and("claims", started.vitals.claims());
            ready = ready.and("heartbeat", started.vitals.heartbeat());
        }
        answer(ready.is_ready(), &ready)
    }
}

/// HEAD is answered like GET; hyper omits the body.
fn get_or_head() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::get().or(warp::head()).unify()
}

/// `200` if the checks have passed, and else `503`.
fn answer(passed: bool, body: &impl Serialize) -> Response {
    let body = warp::reply::json(body);
    if passed {
        return body.into_response();
    }
    let unavailable = warp::reply::with_status(body, StatusCode::SERVICE_UNAVAILABLE);
    warp::reply::with_header(unavailable, "retry-after", "1").into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storm_shared::{
        config::Settings,
        services::{health::CheckResult, store::Store},
    };

    use super::Vitals;
    use crate::{
        delivery::Network,
        handlers::{Handlers, http::HttpClient},
        metrics::Metrics,
        workers::{InHand, KnownPauses, Lease, Watchdogs},
    };

    #[tokio::test(start_paused = true)]
    async fn a_stopped_loop_and_a_missing_heartbeat_fail_the_check_of_an_idle_worker() {
        let folder = tempfile::TempDir::new().unwrap();
        let url = format!("sqlite:{}", folder.path().join("storm.db").display());
        let settings = Settings::with([("DB_URL", url.as_str())]).unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        let client = HttpClient::new(Network::system(), None).unwrap();
        let lease = Lease::new(
            store,
            Duration::from_secs(15),
            5,
            InHand::default(),
            Handlers::without_code(&settings, client).unwrap(),
            KnownPauses::default(),
            Metrics::new(),
        );
        let watchdogs = Watchdogs::default();
        let [running, stopped] = [(); 2].map(|()| watchdogs.start());
        let vitals = Vitals::new(&lease, &watchdogs);
        assert_eq!(vitals.claims(), CheckResult::Ok);
        assert_eq!(vitals.heartbeat(), CheckResult::Ok);

        tokio::time::sleep(Duration::from_mins(1)).await;
        running.tick();
        assert_ne!(vitals.claims(), CheckResult::Ok, "one of two has stopped");
        assert_ne!(vitals.heartbeat(), CheckResult::Ok, "no heartbeat");
        stopped.tick();
        assert_eq!(vitals.claims(), CheckResult::Ok);
    }
}
