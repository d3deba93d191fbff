//! `POST /async` without the store and the notifier, to measure their cost.
//!
//! Usage: `bare_route ADDRESS:PORT`. The route, body reader, validation and reply are the API's
//! own.

use std::{env, error::Error, future, time::Duration};

use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use storm_api::{
    reply,
    routes::{self, Received},
    validation::{AsyncForm, JobInput},
};
use storm_shared::{
    memory::MemoryBudget,
    models::{HandlerName, RequestId},
    server::{self, Limits},
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
    let service = TowerToHyperService::new(warp::service(route));
    server::serve(listener, service, Limits::default(), future::pending()).await;
    Ok(())
}

fn accept(received: Received<JobInput>) -> impl warp::Reply {
    received
        .map_err(|invalid| *invalid.problem)
        .map(|(submission, _)| {
            let (id, callback_url) = (RequestId::generate(), submission.callback_url.as_ref());
            reply::accepted(id, &HandlerName::REPORT, callback_url, Timestamp::now())
        })
}
