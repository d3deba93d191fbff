//! Starts a worker from its settings.

use std::{process::ExitCode, sync::Arc};

use storm_shared::program::{self, Program};
use storm_worker::{LISTEN, REREADS, check_url, delivery::SystemResolver, descriptors};
use tracing::info;

fn main() -> ExitCode {
    program::start(run())
}

async fn run() -> ExitCode {
    let command =
        clap::command!().about("A worker: runs accepted reports and calls their clients back");
    let program = Program {
        command,
        listen: LISTEN,
        descriptors: descriptors::BUDGET,
        rereads: REREADS,
        subcommands: vec![check_url::subcommand()],
    };
    program::run(program, async |settings, listener, shutdown| {
        let database = settings.store.path.display();
        info!(addr = %listener.local_addr()?, %database, queue = settings.queue_name(), "starting");
        let resolver = Arc::new(SystemResolver::new());
        Ok(storm_worker::run(listener, settings, resolver, shutdown.begun).await?)
    })
    .await
}
