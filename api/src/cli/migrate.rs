//! `migrate --from sqlite:PATH --to postgres://...`: moves the store of the services to another
//! database.

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use storm_shared::program::Subcommand;

use super::{Failure, finish};

const LONG_ABOUT: &str = "\
Moves everything in the database file of --from to the empty PostgreSQL database of --to: requests in \
every state, with their attempts, events, payloads, results, idempotency keys and redeliveries, the \
pauses and the audit. Then start the services with DB_URL set to --to. docs/SCALING.md says what to do \
before and after.

Stop the API and the workers first. From the moment that it begins, nothing is written to the file any \
more: a service that still runs answers 503 (database-migrated), and none starts on it. No service \
starts on the target until it is complete. Jobs that a worker held are due again.

It is safe to interrupt in any way: the same command goes on where the last one ended, and no row is \
moved twice. All rows are compared before the target is declared complete. The file stays as it was at \
that moment.

A password is better given in PGPASSFILE or PGPASSWORD than in --to, which other users can see.

  storm-api migrate --from sqlite:/var/lib/storm/storm.db --to postgres://storm@db.example/storm";

/// The arguments.
#[allow(
    clippy::doc_markdown,
    reason = "the help shows these comments as they are"
)]
#[derive(Debug, clap::Args)]
struct Migrate {
    /// The database file of the services, as in their DB_URL
    #[arg(long, value_name = "sqlite:PATH")]
    from: String,
    /// The empty database that the services will use, as in their DB_URL
    #[arg(long, value_name = "postgres://...")]
    to: String,
    /// Count the rows, look at both databases, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// The subcommand.
pub(super) fn subcommand() -> Subcommand {
    Subcommand {
        command: Migrate::augment_args(Command::new("migrate"))
            .about("Moves the services' data from SQLite to PostgreSQL")
            .long_about(LONG_ABOUT),
        run: |arguments| Box::pin(async move { finish(run(&arguments).await) }),
    }
}

async fn run(arguments: &ArgMatches) -> Result<(), Failure> {
    Migrate::from_arg_matches(arguments)?.run().await
}

#[cfg(not(feature = "postgres"))]
impl Migrate {
    #[expect(clippy::unused_async, reason = "as that of a build with PostgreSQL")]
    async fn run(self) -> Result<(), Failure> {
        let Self { from, to, dry_run } = self;
        drop((from, to, dry_run));
        Err(Failure::Undone(
            "this storm-api was built without PostgreSQL: use one that was built with --features \
             postgres, as the services that will run on the target have to be"
                .to_owned(),
        ))
    }
}

#[cfg(feature = "postgres")]
mod moving {
    //! The move, and what is said of it.

    use std::{
        fmt::Write as _,
        io::{self, IsTerminal as _, Write as _},
        time::{Duration, Instant},
    };

    use storm_shared::{
        config::{StoreSettings, without_password},
        program,
        services::store::{MovePlan, MoveProgress, MoveStep, Moved, Store},
    };

    use super::{
        super::{Failure, output},
        Migrate,
    };

    impl Migrate {
        pub(super) async fn run(self) -> Result<(), Failure> {
            let from = StoreSettings::of_argument("--from", &self.from)?;
            let to = StoreSettings::of_argument("--to", &self.to)?;
            // Past a file size limit, the mark fails, and nothing is changed.
            program::survive_file_size_limit();
            let said = if self.dry_run {
                plan(&Store::plan_migration(&from, &to).await?)
            } else {
                let mut shown = Shown::default();
                let moved = Store::migrate(&from, &to, |progress| shown.update(progress)).await;
                shown.clear();
                end(&moved?, &self.to)
            };
            output::write(&said)?;
            Ok(())
        }
    }

    fn counts(rows: &[(&'static str, u64)]) -> String {
        let counts = rows.iter().map(|(table, rows)| (*table, rows.to_string()));
        output::facts(&counts.collect::<Vec<_>>())
    }

    fn plan(plan: &MovePlan) -> String {
        let target = output::visible(&plan.target);
        let next = match plan.next {
            MoveStep::Begin => format!("would be moved to {target}"),
            MoveStep::GoOn => format!("are being moved to {target}: the same command goes on"),
            MoveStep::Nothing => format!("were moved to {target} before; there is nothing to do"),
        };
        let all: u64 = plan.rows.iter().map(|(_, rows)| rows).sum();
        format!("{}{all} rows {next}\n", counts(&plan.rows))
    }

    /// `to` is the argument.
    fn end(moved: &Moved, to: &str) -> String {
        let target = output::visible(&moved.target);
        if moved.was_moved {
            return format!("already moved to {target}\n{}", start(to));
        }
        let mut said = counts(&moved.rows);
        if moved.left_out > 0 {
            let _ = writeln!(
                said,
                "{} rows were left out: an edit by hand has made their key invalid",
                moved.left_out
            );
        }
        let rate = rate(moved.copied, moved.copying);
        let _ = writeln!(
            said,
            "moved to {target}, and compared; {} rows were copied in {:.1} s, {rate} rows/s",
            moved.copied,
            moved.copying.as_secs_f64()
        );
        said + &start(to)
    }

    /// What comes after the move. The URL has all of its options, or a service would connect in
    /// another way than this command.
    fn start(to: &str) -> String {
        let url = without_password(to);
        let mut said = format!("start the services with DB_URL={}\n", output::visible(&url));
        if url != to {
            said += "its password is not shown: add it, or set PGPASSFILE or PGPASSWORD\n";
        }
        said
    }

    fn rate(rows: u64, time: Duration) -> u64 {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        rows.saturating_mul(1000) / millis
    }

    /// The progress, in one line of a terminal.
    struct Shown {
        is_terminal: bool,
        last: Option<Instant>,
    }

    impl Default for Shown {
        fn default() -> Self {
            Self {
                is_terminal: io::stderr().is_terminal(),
                last: None,
            }
        }
    }

    impl Shown {
        fn update(&mut self, progress: MoveProgress) {
            let is_soon = self
                .last
                .is_some_and(|last| last.elapsed() < Duration::from_millis(200));
            if !self.is_terminal || is_soon {
                return;
            }
            self.last = Some(Instant::now());
            let MoveProgress {
                is_check,
                table,
                done,
                of,
            } = progress;
            let what = if is_check { "comparing" } else { "copying" };
            // A terminal that is gone is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[K{what} {table}: {done} of {of} rows");
        }

        fn clear(&self) {
            if self.last.is_some() {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        }
    }
}
