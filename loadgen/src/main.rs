//! The `storm-loadgen` binary: reads the command line and runs the library.

use std::process::ExitCode;

use storm_loadgen::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    storm_loadgen::run(cli).await.unwrap_or_else(|error| {
        eprintln!("storm-loadgen: {error:#}");
        ExitCode::FAILURE
    })
}
