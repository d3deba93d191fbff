//! The `storm-loadgen` binary: reads the command line and runs the library.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use storm_loadgen::{Cli, output};
use storm_shared::program::print_clap;
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return print_clap(&error),
    };
    let run = || {
        let runtime = Runtime::new()?;
        let status = runtime.block_on(storm_loadgen::run(cli));
        // Dropping the runtime would wait for a look-up of a name, which nothing can end.
        runtime.shutdown_background();
        status
    };
    run().unwrap_or_else(|error| {
        output::complain(&error);
        ExitCode::FAILURE
    })
}
