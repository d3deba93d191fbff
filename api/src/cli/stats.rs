//! `stats`: what is in the store.

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use storm_shared::{program::Subcommand, services::store::Stats as Counts};

use super::{
    Failure, finish, on_store,
    output::{self, Column, age, bytes, or_dash},
};

const LONG_ABOUT: &str = "\
Prints what is in the database of the services: requests by status, for how long the oldest due job \
has waited, the workers with the age of their last heartbeat and the jobs that they hold, the ten \
destinations with the longest backlogs, and the sizes of the files. Each count ends at 1000000 rows, \
shown as `1000000 or more`, so that the command is quick. It reads one snapshot and writes nothing.";

const WORKERS: [Column; 3] = [("WORKER", 36), ("HEARTBEAT", 1), ("JOBS", 1)];
const DESTINATIONS: [Column; 3] = [("DESTINATION", 1), ("CLIENT", 1), ("BACKLOG", 1)];

/// The arguments.
#[derive(Debug, clap::Args)]
struct Stats {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The subcommand.
pub(super) fn subcommand() -> Subcommand {
    Subcommand {
        command: Stats::augment_args(Command::new("stats"))
            .about("Counts requests, workers and backlogs")
            .long_about(LONG_ABOUT),
        run: |arguments| Box::pin(async move { finish(run(&arguments).await) }),
    }
}

async fn run(arguments: &ArgMatches) -> Result<(), Failure> {
    Stats::from_arg_matches(arguments)?.run().await
}

impl Stats {
    async fn run(self) -> Result<(), Failure> {
        on_store(async |store, settings| {
            let counts = store.stats().await?;
            let text = if self.json {
                output::json(&counts)?
            } else {
                text(&counts, settings.store.database.path().is_some())
            };
            output::write(&text)?;
            Ok(())
        })
        .await
    }
}

/// `is_file`: whether the database is a file, of which more is known.
fn text(counts: &Counts, is_file: bool) -> String {
    let count = |number: u32| {
        if number >= counts.counted_up_to {
            format!("{number} or more")
        } else {
            number.to_string()
        }
    };
    let (requests, files) = (&counts.requests, &counts.files);
    let mut facts = vec![
        ("store", counts.store.clone()),
        ("PENDING", count(requests.pending)),
        ("  due", count(requests.due)),
        ("  oldest due", or_dash(requests.oldest_due_ms.map(age))),
        ("  suspects", count(requests.suspects)),
        ("PROCESSING", count(requests.processing)),
        ("COMPLETED", count(requests.completed)),
        ("FAILED", count(requests.failed)),
        ("redeliveries", count(requests.redeliveries)),
        ("database", bytes(files.database_bytes)),
    ];
    if is_file {
        facts.extend([
            ("  free pages", bytes(files.free_bytes)),
            ("write-ahead log", bytes(files.log_bytes)),
        ]);
    }
    let mut text = output::facts(&facts);
    let rows: Vec<_> = counts
        .workers
        .iter()
        .map(|worker| {
            let heartbeat = worker.heartbeat_age_ms.map(|ms| format!("{} ago", age(ms)));
            vec![
                worker.owner.clone(),
                or_dash(heartbeat),
                worker.jobs.to_string(),
            ]
        })
        .collect();
    text.push('\n');
    if rows.is_empty() {
        text.push_str("no worker has registered\n");
    } else {
        text.push_str(&output::table(&WORKERS, true, &rows));
    }
    let rows: Vec<_> = counts
        .destinations
        .iter()
        .map(|destination| {
            let tenant = or_dash(destination.tenant.as_ref());
            vec![
                destination.origin.clone(),
                tenant,
                count(destination.backlog),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&output::table(&DESTINATIONS, true, &rows));
    }
    text
}
