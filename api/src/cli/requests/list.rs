//! `requests list`.

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use jiff::Timestamp;
use storm_shared::{
    models::{ClientName, HandlerName, RequestId, RequestSummary, Status},
    services::store::{ListPage, RequestFilter, Scope, Store},
};

use crate::cli::{
    Failure, on_store,
    output::{Column, Reader, or_dash},
    pages::{self, PAGE, Printer},
};

pub(super) const LONG_ABOUT: &str = "\
Lists requests, newest first: up to --limit of them, or --all. If there may be more, the last line \
on standard error (with --json, `next_cursor`) has the cursor with which the same command goes on. \
Reading is in pages, so a list of a large table does not hold up the services.

Times are RFC 3339: 2026-11-24T08:00:00Z, or with an offset, 2026-11-24T09:00:00+01:00.

  storm-api requests list --status FAILED --created-after 2026-11-24T00:00:00Z
  storm-api requests list --client billing --all --json
  storm-api requests list --handler thumbnails --status FAILED";

const COLUMNS: [Column; 8] = [
    ("ID", 36),
    ("MODE", 5),
    ("HANDLER", 8),
    ("STATUS", 10),
    ("CREATED", 24),
    ("COMPLETED", 24),
    ("FAILURE", 18),
    ("CALLBACK", 1),
];

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only requests with this status
    #[arg(long, value_parser = status(), ignore_case = true)]
    status: Option<Status>,
    /// Only requests of this client of `API_TOKENS`
    #[arg(long, value_name = "NAME")]
    client: Option<ClientName>,
    /// Only requests of this handler, also one that was removed from the settings
    #[arg(long, value_name = "NAME")]
    handler: Option<HandlerName>,
    /// Only requests that were accepted at this time or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    created_after: Option<Timestamp>,
    /// Only requests that were accepted before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    created_before: Option<Timestamp>,
    /// The most requests
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = pages::limit)]
    limit: usize,
    /// All requests, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Go on where the list with this cursor ended, with the same filters
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// Print one JSON document, as `GET /requests` answers
    #[arg(long)]
    json: bool,
}

fn status() -> impl clap::builder::TypedValueParser<Value = Status> {
    PossibleValuesParser::new(Status::ALL.map(Status::as_str))
        .try_map(|word| word.to_ascii_uppercase().parse::<Status>())
}

fn time(text: &str) -> Result<Timestamp, &'static str> {
    text.parse()
        .map_err(|_| "expected a time of RFC 3339, such as 2026-11-24T08:00:00Z")
}

impl List {
    pub(super) async fn run(self) -> Result<(), Failure> {
        if let (Some(after), Some(before)) = (self.created_after, self.created_before)
            && after >= before
        {
            let problem = "--created-after must be earlier than --created-before";
            return Err(Failure::Argument(problem.to_owned()));
        }
        let filter = RequestFilter {
            status: self.status,
            handler: self.handler.clone(),
            created_after: self.created_after,
            created_before: self.created_before,
        };
        let position = |cursor: &String| {
            let problem = "--cursor: expected that of the previous list, with the same --status, \
                           --handler, --created-after and --created-before";
            let position = filter.position(cursor);
            position.ok_or_else(|| Failure::Argument(problem.to_owned()))
        };
        let before = self.cursor.as_ref().map(position).transpose()?;
        on_store(async |store, _| self.print(store, &filter, before).await).await
    }

    async fn print(
        &self,
        store: &Store,
        filter: &RequestFilter,
        mut before: Option<RequestId>,
    ) -> Result<(), Failure> {
        let scope = self.client.clone().map_or(Scope::All, Scope::Of);
        let mut left = if self.all { usize::MAX } else { self.limit };
        let mut printer = Printer::new("requests", &COLUMNS, self.json);
        if printer.begin()? == Reader::Gone {
            return Ok(());
        }
        loop {
            let page = ListPage {
                filter: filter.clone(),
                before,
                limit: left.min(PAGE),
            };
            // A page can be short, or empty, and have a next one.
            let found = store.list(scope.clone(), page).await?;
            if printer.page(&found.requests, row)? == Reader::Gone {
                return Ok(());
            }
            left -= found.requests.len();
            before = found.next;
            if left == 0 || before.is_none() {
                break;
            }
        }
        let cursor = before.map(|next| filter.cursor(next));
        printer.end(cursor.as_deref())?;
        Ok(())
    }
}

fn row(request: &RequestSummary) -> Vec<String> {
    vec![
        request.id.to_string(),
        request.mode.to_string(),
        request.handler.clone(),
        request.status.to_string(),
        request.created_at.clone(),
        or_dash(request.completed_at.as_ref()),
        or_dash(
            request
                .failure
                .as_ref()
                .map(|failure| failure.reason.as_str()),
        ),
        or_dash(request.callback_url.as_ref()),
    ]
}
