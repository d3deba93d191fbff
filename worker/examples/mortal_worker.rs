//! A worker whose process aborts when it looks up `poison.example`. For tests of the poison job
//! quarantine.

use std::{net::IpAddr, process::ExitCode, sync::Arc};

use futures_util::future::BoxFuture;
use storm_shared::program::{self, Program};
use storm_worker::{
    LISTEN, REREADS,
    delivery::{Resolve, SystemResolver},
    descriptors,
};
use tracing::info;

struct Mortal(SystemResolver);

impl Resolve for Mortal {
    fn resolve(&self, host: &str) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        if host == "poison.example" {
            std::process::abort();
        }
        self.0.resolve(host)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = clap::command!().about("A worker that one job can kill");
    let program = Program {
        command,
        listen: LISTEN,
        descriptors: descriptors::BUDGET,
        rereads: REREADS,
        subcommands: Vec::new(),
    };
    program::run(program, async |settings, listener, shutdown| {
        info!(addr = %listener.local_addr()?, "starting");
        let resolver = Arc::new(Mortal(SystemResolver::new()));
        Ok(storm_worker::Builder::new()
            .run(listener, settings, resolver, shutdown.begun)
            .await?)
    })
    .await
}
