//! A worker with one hanging receiver and one hanging name server, for the isolation benchmark.
//!
//! The look-up of `hangs.test` never returns and holds its thread, as with a dead name server.
//! `HANGING_ADDR` accepts every connection and never responds.

use std::{
    env,
    net::{IpAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    thread,
};

use storm_shared::program::{self, Program};
use storm_worker::{LISTEN, REREADS, delivery::SystemResolver, descriptors};
use tracing::info;

fn resolver() -> SystemResolver {
    SystemResolver::with(|name| {
        if name == "hangs.test" {
            loop {
                thread::park();
            }
        }
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    })
}

/// Accepts every connection, keeps it open and never responds.
fn hang(listener: &TcpListener) {
    let mut taken = Vec::new();
    while let Ok((connection, _)) = listener.accept() {
        taken.push(connection);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = clap::command!().about("A worker where one receiver and one name server hang");
    let program = Program {
        command,
        listen: LISTEN,
        descriptors: descriptors::BUDGET,
        rereads: REREADS,
        subcommands: Vec::new(),
    };
    program::run(program, async |settings, listener, shutdown| {
        let addr = env::var("HANGING_ADDR").map_err(|_| "HANGING_ADDR: expected address:port")?;
        let silent = TcpListener::bind(&addr)?;
        thread::spawn(move || hang(&silent));
        info!(addr = %listener.local_addr()?, hanging = addr, "starting");
        Ok(storm_worker::Builder::new()
            .run(listener, settings, Arc::new(resolver()), shutdown.begun)
            .await?)
    })
    .await
}
