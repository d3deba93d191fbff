//! Starts the API from its settings.

use std::{iter, process::ExitCode};

use storm_api::{cli, descriptors, token};
use storm_shared::{
    config::HANDLERS,
    program::{self, ListenSetting, Program},
};
use tracing::info;

fn main() -> ExitCode {
    program::start(run())
}

async fn run() -> ExitCode {
    let command = clap::command!().about(
        "The API: answers report requests directly (/sync) or accepts them as jobs (/async)",
    );
    let listen = ListenSetting {
        setting: "API_ADDR",
        addr: |settings| settings.api.addr,
        check: |settings| settings.access.check_exposure(settings.api.addr),
    };
    let program = Program {
        command,
        listen,
        descriptors: descriptors::BUDGET,
        rereads: &[
            "ADMIN_TOKENS",
            "API_TOKENS",
            HANDLERS,
            "METRICS_TOKEN",
            "RATE_LIMIT",
        ],
        subcommands: iter::once(token::subcommand())
            .chain(cli::subcommands())
            .collect(),
    };
    program::run(program, async |settings, listener, shutdown| {
        let database = &settings.store.database;
        info!(
            addr = %listener.local_addr()?,
            engine = database.engine(),
            %database,
            queue = settings.queue_name(),
            clients = settings.access.tokens.clients().len(),
            operators = settings.access.admin_tokens.clients().len(),
            "starting"
        );
        Ok(storm_api::run(listener, settings, shutdown).await?)
    })
    .await
}
