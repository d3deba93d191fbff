//! A worker as a program: with the handlers of the settings, and with handlers in Rust.

use std::{process::ExitCode, sync::Arc};

use storm_shared::{
    config::Settings,
    models::HandlerName,
    program::{self, Program},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    Error, LISTEN, REREADS, check_url,
    delivery::{Resolve, SystemResolver},
    descriptors,
    handler::Handler,
    handlers::{Code, CodeByName},
};

/// Builds a worker that runs handlers in Rust besides those of the settings.
///
/// Each needs a table in the settings of the API and of the workers that says so:
///
/// ```toml
/// [handlers.shout]
/// kind = "rust"
/// ```
#[derive(Default)]
pub struct Builder {
    code: CodeByName,
}

impl Builder {
    /// A worker without handlers in Rust.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers `handler` under `name`.
    ///
    /// # Panics
    /// `name` is no handler name, is `report`, or is registered already.
    #[expect(clippy::expect_used, reason = "the documented panic")]
    pub fn handler(mut self, name: &str, handler: impl Handler) -> Self {
        let name: HandlerName = name.parse().expect("a handler name");
        assert!(name != HandlerName::REPORT, "`report` is built in");
        let before = self.code.insert(name, Arc::new(Code::new(handler)));
        assert!(before.is_none(), "the handler is registered twice");
        self
    }

    /// The `main` of a program: reads the arguments and the settings, runs the worker until SIGTERM
    /// or SIGINT, and drains it. Returns the exit status.
    pub fn main(self) -> ExitCode {
        program::start(self.run_program())
    }

    async fn run_program(self) -> ExitCode {
        let command =
            clap::command!().about("A worker: runs accepted jobs and calls their clients back");
        let program = Program {
            command,
            listen: LISTEN,
            descriptors: descriptors::BUDGET,
            rereads: REREADS,
            subcommands: vec![check_url::subcommand()],
        };
        program::run(program, async |settings, listener, shutdown| {
            let database = &settings.store.database;
            info!(
                addr = %listener.local_addr()?,
                engine = database.engine(),
                %database,
                queue = settings.queue_name(),
                "starting"
            );
            let drain_timeout = settings.worker.drain_timeout;
            info!(
                ?drain_timeout,
                "a shutdown waits for running jobs, at most this long"
            );
            let resolver = Arc::new(SystemResolver::new());
            let run = self.run(listener, settings, resolver, shutdown.begun);
            Ok(run.await?)
        })
        .await
    }

    /// Claims, runs and delivers jobs until `shutdown`, then drains: it finishes jobs until
    /// `DRAIN_TIMEOUT` and returns the rest to the table.
    ///
    /// It waits for the database to open as long as that takes; `shutdown` ends the wait.
    ///
    /// `listener` serves health checks and metrics, from the start to the end of the drain.
    /// `resolver` looks up names of receivers.
    ///
    /// # Errors
    /// A part could not start, or stopped by itself.
    pub async fn run(
        self,
        listener: TcpListener,
        settings: Settings,
        resolver: Arc<dyn Resolve>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        crate::run_with(self.code, listener, settings, resolver, shutdown).await
    }
}
