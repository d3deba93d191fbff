//! `backup FILE`: copies the database beside running services.

use std::path::PathBuf;

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use storm_shared::{
    program::{self, Subcommand},
    services::store::{Store, StoreError, Trouble},
    shutdown,
};

use super::{Failure, finish, output, settings};

const LONG_ABOUT: &str = "\
Copies the database to FILE, as it is at one moment, by SQLite's online backup. The services go on: \
they wait for nothing, and every request that was accepted before the command began is in the copy. \
The write-ahead log can't shrink until the copy is made; leave room for what the services write in \
that time. FILE appears once the copy is complete and synced, with the mode 0600. A failure or a \
signal leaves nothing. docs/BACKUP.md says how to restore it.

  storm-api backup /backup/storm-$(date +%F).db";

/// The arguments.
#[derive(Debug, clap::Args)]
struct Backup {
    /// The file to write; it must not exist
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// Replace FILE if it exists
    #[arg(long)]
    force: bool,
}

/// The subcommand.
pub(super) fn subcommand() -> Subcommand {
    Subcommand {
        command: Backup::augment_args(Command::new("backup"))
            .about("Copies the database to a file, beside running services")
            .long_about(LONG_ABOUT),
        run: |arguments| Box::pin(async move { finish(run(&arguments).await) }),
    }
}

async fn run(arguments: &ArgMatches) -> Result<(), Failure> {
    Backup::from_arg_matches(arguments)?.run().await
}

impl Backup {
    async fn run(self) -> Result<(), Failure> {
        let settings = settings()?;
        // Past a file size limit, the write fails, and what was written is deleted.
        program::survive_file_size_limit();
        let cancelled = shutdown::on_signal().map_err(|error| StoreError::Failed {
            trouble: Trouble::Other,
            message: format!("signals can't be handled: {error}").into(),
        })?;
        let copied = Store::backup(&settings.store, &self.file, self.force, cancelled).await?;
        let (file, size) = (self.file.display().to_string(), output::bytes(copied.bytes));
        output::write(&format!("{}: {size}\n", output::visible(&file)))?;
        Ok(())
    }
}
