//! Starts a worker from its settings.

use std::{process::ExitCode, sync::Arc};

use storm_shared::{
    config::{Settings, WorkerSettings},
    shutdown, telemetry,
};
use storm_worker::delivery::SystemResolver;
use tokio::net::TcpListener;
use tracing::{error, info};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = match telemetry::start_with(Settings::load()) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "the worker stops");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = shutdown::on_signal()?;
    let listener = bind(&settings.worker).await?;
    let database = settings.store.path.display();
    let (queue, concurrency) = (&settings.queue.name, settings.worker.concurrency);
    info!(addr = %listener.local_addr()?, %database, queue, concurrency, "starting");
    Ok(storm_worker::run(
        listener,
        settings,
        Arc::new(SystemResolver::new()),
        shutdown,
    )
    .await?)
}

async fn bind(settings: &WorkerSettings) -> Result<TcpListener, String> {
    TcpListener::bind(settings.addr)
        .await
        .map_err(|error| format!("WORKER_ADDR={}: can't listen there: {error}", settings.addr))
}
