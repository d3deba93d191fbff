//! `vacuum`: gives free pages back to the file system.

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use storm_shared::{
    program::Subcommand,
    services::store::{FileStats, Store},
};

use super::{Failure, finish, output, settings};

const LONG_ABOUT: &str = "\
Writes the database anew, without the free pages that deleted requests leave, so that the file \
shrinks. Rarely needed: the services use free pages again, and `stats` shows how many there are. It \
takes some seconds for each GiB, and up to twice as much free disk as the data takes.

The services must not run: it is refused while any process has the database open, and a service that \
starts meanwhile waits. With --while-running it begins all the same: until its end no request is \
accepted (503) and no job is settled.";

/// The arguments.
#[derive(Debug, clap::Args)]
struct Vacuum {
    /// Begin although the services run; they can't write until the end
    #[arg(long)]
    while_running: bool,
}

/// The subcommand.
pub(super) fn subcommand() -> Subcommand {
    Subcommand {
        command: Vacuum::augment_args(Command::new("vacuum"))
            .about("Gives the database's free pages back to the file system")
            .long_about(LONG_ABOUT),
        run: |arguments| Box::pin(async move { finish(run(&arguments).await) }),
    }
}

async fn run(arguments: &ArgMatches) -> Result<(), Failure> {
    Vacuum::from_arg_matches(arguments)?.run().await
}

impl Vacuum {
    async fn run(self) -> Result<(), Failure> {
        let settings = settings()?;
        let (before, after) = Store::vacuum(&settings.store, self.while_running).await?;
        let line = |name: &str, files: &FileStats| {
            let (size, free) = (
                output::bytes(files.database_bytes),
                output::bytes(files.free_bytes),
            );
            format!("{name}  {size}, {free} of it free\n")
        };
        output::write(&(line("before", &before) + &line("after ", &after)))?;
        Ok(())
    }
}
