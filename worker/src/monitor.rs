//! The worker's own listener: `/healthz` and `/metrics`.

use std::{sync::Arc, time::Duration};

use hyper_util::service::TowerToHyperService;
use storm_shared::{
    server,
    services::{
        access::TokenHash,
        health::{CheckResult, Health},
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
    workers::{Lease, Pulse},
};

/// A loop that has not come round for so long has stopped. One that waits for a Redis that is down
/// comes round more often.
const STOPPED: Duration = Duration::from_secs(20);

/// By what a worker is seen to be alive, idle or not.
#[derive(Clone)]
pub struct Vitals {
    lease: Arc<Lease>,
    pulses: Vec<Pulse>,
}

impl Vitals {
    /// Those of the worker that has this lease.
    pub fn of(lease: Arc<Lease>) -> Self {
        Self {
            lease,
            pulses: Vec::new(),
        }
    }

    /// The pulse of one more loop that takes jobs on.
    pub fn new_pulse(&mut self) -> Pulse {
        let pulse = Pulse::begin();
        self.pulses.push(pulse.clone());
        pulse
    }

    fn claims(&self) -> CheckResult {
        let silence = self.pulses.iter().map(Pulse::silence).max();
        silent_for(silence.unwrap_or_default(), STOPPED)
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

/// Answers on `listener` until `shutdown`; who sees the metrics needs that token, where there is one.
pub async fn serve(
    listener: TcpListener,
    (store, queue, metrics, vitals): (Store, Option<Queue>, Metrics, Vitals),
    metrics_token: Option<TokenHash>,
    limits: server::Limits,
    shutdown: impl Future<Output = ()>,
) {
    let health = warp::path!("healthz").and(warp::get()).then(move || {
        let (store, queue, vitals) = (store.clone(), queue.clone(), vitals.clone());
        async move {
            let health = Health::check(&store, queue.as_ref()).await;
            answer_health(
                &health
                    .with("claims", vitals.claims())
                    .with("heartbeat", vitals.heartbeat()),
            )
        }
    });
    let scrape = warp::path!("metrics")
        .and(warp::get())
        .and(warp::header::headers_cloned())
        .map(move |headers: HeaderMap| {
            scrape::answer(&headers, metrics_token.as_ref(), || metrics.render())
        });
    let routes = health.or(scrape);
    server::serve(
        listener,
        TowerToHyperService::new(warp::service(routes)),
        limits,
        shutdown,
    )
    .await;
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
    use crate::{metrics::Metrics, workers::Lease};

    #[tokio::test(start_paused = true)]
    async fn a_loop_or_a_heart_that_stopped_is_seen_also_where_there_is_nothing_to_do() {
        let folder = tempfile::TempDir::new().unwrap();
        let url = format!("sqlite:{}", folder.path().join("storm.db").display());
        let settings = Settings::with([("DB_URL", url.as_str())]).unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        let lease = Lease::new(store, Duration::from_secs(15), 5, Metrics::new());
        let mut vitals = Vitals::of(lease);
        let [turns, stops] = [(); 2].map(|()| vitals.new_pulse());
        assert_eq!(vitals.claims(), CheckResult::Ok);
        assert_eq!(vitals.heartbeat(), CheckResult::Ok);

        tokio::time::sleep(Duration::from_mins(1)).await;
        turns.beat();
        assert_ne!(vitals.claims(), CheckResult::Ok, "one of two has stopped");
        assert_ne!(
            vitals.heartbeat(),
            CheckResult::Ok,
            "nobody renews the lease"
        );
        stops.beat();
        assert_eq!(vitals.claims(), CheckResult::Ok);
    }
}
