//! `POST /async` without the store and the notifier, and a bare `503`, to measure what the rest
//! costs.
//!
//! Usage: `bare_route ADDRESS:PORT`. `POST /async` has the API's own route, body reader, validation
//! and reply. `POST /refused` reads the body, and answers the API's own `503` for a full backlog.

use std::{env, error::Error, future, time::Duration};

use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use storm_api::{
    reply::{self, Problem, Submitted},
    routes::{self, Received},
    validation::{AsyncForm, JobInput},
};
use storm_shared::{
    memory::MemoryBudget,
    models::{HandlerName, RequestId},
    server::{self, ConnectionMetrics, Limits},
    services::ssrf::Policy,
};
use tokio::net::TcpListener;
use warp::Filter;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: bare_route ADDRESS:PORT")?;
    let listener = TcpListener::bind(address).await?;
    let form = AsyncForm::new(Policy::default());
    let memory = MemoryBudget::new(256 << 20);
    let route = warp::path!("async")
        .and(warp::post())
        .and(routes::submission(form, Duration::from_secs(10), memory))
        .map(accept);
    let refusal = warp::path!("refused")
        .and(warp::post())
        // Read, because the connection is used again.
        .and(warp::body::bytes())
        .map(|_body| Problem::backlog_full(Duration::from_secs(1), None));
    let service = TowerToHyperService::new(warp::service(route.or(refusal)));
    let (limits, connections) = (Limits::default(), ConnectionMetrics::default());
    server::serve(listener, service, limits, connections, future::pending()).await;
    Ok(())
}

fn accept(received: Received<JobInput>) -> impl warp::Reply {
    received
        .map_err(|invalid| *invalid.problem)
        .map(|(submission, _)| {
            reply::accepted(&Submitted {
                id: RequestId::generate(),
                handler: HandlerName::REPORT,
                callback: submission.callback_url,
                expected_at: Timestamp::now(),
                is_replay: false,
            })
        })
}
