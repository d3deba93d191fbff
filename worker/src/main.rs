//! Starts a worker from its settings.

use std::process::ExitCode;

use storm_worker::Builder;

fn main() -> ExitCode {
    Builder::new().main()
}
