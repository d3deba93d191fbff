//! Starts a worker from its settings.

use std::{process::ExitCode, sync::Arc};

use storm_shared::{program, server};
use storm_worker::delivery::SystemResolver;
use tracing::info;

#[tokio::main]
async fn main() -> ExitCode {
    let command =
        clap::command!().about("A worker: runs accepted reports and calls their clients back");
    program::run(command, async |settings, shutdown| {
        let listener = server::bind("WORKER_ADDR", settings.worker.addr).await?;
        let database = settings.store.path.display();
        info!(addr = %listener.local_addr()?, %database, queue = settings.queue_name(), "starting");
        let resolver = Arc::new(SystemResolver::new());
        Ok(storm_worker::run(listener, settings, resolver, shutdown).await?)
    })
    .await
}
