//! Starts the API from its settings.

use std::{error::Error, process::ExitCode};

use storm_shared::{
    config::{ApiSettings, Settings},
    shutdown, telemetry,
};
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
            error!(%error, "the API stops");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let shutdown = shutdown::on_signal()?;
    let listener = bind(&settings.api).await?;
    let database = settings.store.path.display();
    info!(addr = %listener.local_addr()?, %database, queue = settings.queue.name, "starting");
    Ok(storm_api::run(listener, settings, shutdown).await?)
}

async fn bind(settings: &ApiSettings) -> Result<TcpListener, String> {
    TcpListener::bind(settings.addr)
        .await
        .map_err(|error| format!("API_ADDR={}: can't listen there: {error}", settings.addr))
}
