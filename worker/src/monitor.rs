//! The worker's own listener: `/healthz` and `/metrics`.

use std::{sync::Arc, time::Duration};

use hyper::{
    Request,
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::service::TowerToHyperService;
use storm_shared::{
    server,
    services::{
        access::TokenHash,
        health::{CheckResult, Health},
        host_check::{HostNames, authority_of},
        queue::Queue,
        scrape,
        store::Store,
    },
};
use tokio::net::TcpListener;
use warp::{
    Filter, Reply,
    http::{HeaderMap, StatusCode},
};

use crate::{
    metrics::Metrics,
    workers::{Lease, Watchdog},
};

/// A loop that has not ticked for this long has stopped. While Redis is down, a loop ticks more
/// often.
const LOOP_DEADLINE: Duration = Duration::from_secs(20);

/// Health checks of the worker itself, which work while it is idle.
#[derive(Clone)]
pub struct Vitals {
    lease: Arc<Lease>,
    watchdogs: Vec<Watchdog>,
}

impl Vitals {
    /// Checks this lease's heartbeat, and the loops of these watchdogs.
    pub fn new(lease: &Arc<Lease>, watchdogs: &[Watchdog]) -> Self {
        Self {
            lease: Arc::clone(lease),
            watchdogs: watchdogs.to_vec(),
        }
    }

    fn claims(&self) -> CheckResult {
        // The longest silence: a loop that has stopped must not hide behind those that tick.
        let silence = self.watchdogs.iter().map(Watchdog::silence).max();
        silent_for(silence.unwrap_or_default(), LOOP_DEADLINE)
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

/// What the listener reports on.
pub struct Monitor {
    /// Checked by a read and a write.
    pub store: Store,
    /// Checked for the commands that workers send, if there is one.
    pub queue: Option<Queue>,
    /// The body of `/metrics`.
    pub metrics: Metrics,
    /// The checks `claims` and `heartbeat`.
    pub vitals: Vitals,
    /// The token that `/metrics` requires, if any.
    pub metrics_token: Option<TokenHash>,
    /// The host names to answer to while no token is required.
    pub hosts: HostNames,
}

impl Monitor {
    /// Serves on `listener` until `shutdown` completes.
    pub async fn serve(
        self,
        listener: TcpListener,
        limits: server::Limits,
        shutdown: impl Future<Output = ()>,
    ) {
        let Self {
            store,
            queue,
            metrics,
            vitals,
            metrics_token,
            hosts,
        } = self;
        let served = metrics_token.is_none().then_some(hosts);
        let health = warp::path!("healthz").and(warp::get()).then(move || {
            let (store, queue, vitals) = (store.clone(), queue.clone(), vitals.clone());
            async move {
                let health = Health::check(&store, queue.as_ref()).await;
                let health = health.with("claims", vitals.claims());
                answer_health(&health.with("heartbeat", vitals.heartbeat()))
            }
        });
        let scrape = warp::path!("metrics")
            .and(warp::get())
            .and(warp::header::headers_cloned())
            .map(move |headers: HeaderMap| {
                scrape::answer(&headers, metrics_token.as_ref(), || metrics.render())
            });
        let routes = TowerToHyperService::new(warp::service(health.or(scrape)));
        let service = service_fn(move |request: Request<Incoming>| {
            let entry = authority_of(&request, served.as_ref()).map(|_| ());
            let entry = entry.map(|()| routes.call(request));
            async move {
                match entry {
                    Ok(answer) => answer.await,
                    Err(refusal) => Ok(refusal.response().into_response()),
                }
            }
        });
        server::serve(listener, service, limits, shutdown).await;
    }
}

fn answer_health(health: &Health) -> impl Reply + use<> {
    let status = if health.is_ok() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    warp::reply::with_status(warp::reply::json(health), status)
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
        metrics::Metrics,
        workers::{Lease, Watchdog},
    };

    #[tokio::test(start_paused = true)]
    async fn a_stopped_loop_and_a_missing_heartbeat_fail_the_check_of_an_idle_worker() {
        let folder = tempfile::TempDir::new().unwrap();
        let url = format!("sqlite:{}", folder.path().join("storm.db").display());
        let settings = Settings::with([("DB_URL", url.as_str())]).unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        let lease = Lease::new(store, Duration::from_secs(15), 5, Metrics::new());
        let watchdogs @ [running, stopped] = &[(); 2].map(|()| Watchdog::start());
        let vitals = Vitals::new(&lease, watchdogs);
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
