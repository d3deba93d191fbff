//! `audit`: what operators have done.

use clap::{ArgMatches, Args as _, Command, FromArgMatches as _};
use storm_shared::{program::Subcommand, services::store::Store};

use super::{
    Failure, finish, on_store,
    output::{Column, Reader},
    pages::{self, PAGE, Printer},
};
use crate::reply::AuditRecordShown;

const LONG_ABOUT: &str = "\
Lists what operators have done, newest first: up to --limit records, or --all. A record is a pause, a \
resumption, or a page of requests that were cancelled or redelivered, by a command or over HTTP, a dry \
run, too. MATCHED are the requests that it was for, and CHANGED those that it has changed. The newest \
100000 records are kept. If there may be more, the last line on standard error (with --json, \
`next_cursor`) has the cursor with which the same command goes on.

  storm-api audit --limit 100
  storm-api audit --all --json | jq '.records[] | select(.action == \"pause\")'";

const COLUMNS: [Column; 8] = [
    ("NUMBER", 1),
    ("AT", 24),
    ("OPERATOR", 16),
    ("ACTION", 9),
    ("DRY-RUN", 1),
    ("MATCHED", 1),
    ("CHANGED", 1),
    ("FILTER", 1),
];

/// The arguments.
#[derive(Debug, clap::Args)]
struct Audit {
    /// The most records
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = pages::limit)]
    limit: usize,
    /// All records that are kept
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Go on where the list with this cursor ended
    #[arg(long, value_name = "CURSOR", value_parser = cursor)]
    cursor: Option<i64>,
    /// Print one JSON document, as `GET /admin/audit` answers
    #[arg(long)]
    json: bool,
}

fn cursor(text: &str) -> Result<i64, &'static str> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or("expected that of the previous list")
}

/// The subcommand.
pub(super) fn subcommand() -> Subcommand {
    Subcommand {
        command: Audit::augment_args(Command::new("audit"))
            .about("Lists what operators have done, newest first")
            .long_about(LONG_ABOUT),
        run: |arguments| Box::pin(async move { finish(run(&arguments).await) }),
    }
}

async fn run(arguments: &ArgMatches) -> Result<(), Failure> {
    let audit = Audit::from_arg_matches(arguments)?;
    on_store(async |store, _| audit.print(store).await).await
}

impl Audit {
    async fn print(&self, store: &Store) -> Result<(), Failure> {
        let mut left = if self.all { usize::MAX } else { self.limit };
        let mut before = self.cursor;
        let mut printer = Printer::new("records", &COLUMNS, self.json);
        if printer.begin()? == Reader::Gone {
            return Ok(());
        }
        while left > 0 {
            let limit = left.min(PAGE);
            let records = store.audit(before, limit).await?;
            let shown: Vec<_> = records.iter().map(AuditRecordShown::of).collect();
            if printer.page(&shown, row)? == Reader::Gone {
                return Ok(());
            }
            left -= records.len();
            // A short page is the last one.
            let last = records.last().filter(|_| records.len() == limit);
            before = last.map(|last| last.number);
            if before.is_none() {
                break;
            }
        }
        let cursor = before.map(|number| number.to_string());
        printer.end(cursor.as_deref())
    }
}

fn row(record: &AuditRecordShown<'_>) -> Vec<String> {
    vec![
        record.number.to_string(),
        record.at.to_owned(),
        record.operator.to_owned(),
        record.action.to_owned(),
        if record.dry_run { "yes" } else { "no" }.to_owned(),
        record.matched.to_string(),
        record.changed.to_string(),
        record.filter.get().to_owned(),
    ]
}
