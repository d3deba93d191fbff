//! `requests cancel` and `requests redeliver`: one verb on each of several requests.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use storm_shared::{
    models::RequestId,
    services::store::{Acted, Bulk, BulkAction, Store, Uncancellable, Unredeliverable},
};

use super::Named;
use crate::{
    cli::{
        Failure, on_store,
        output::{self, Column},
    },
    repeat::until_known,
    reply,
};

pub(super) const CANCEL: &str = "\
Cancels unfinished jobs: each becomes FAILED (`cancelled`), and no callback is sent. Of a request \
that has ended, cancels the redelivery in progress. Says for each id what happened, and records it in \
the audit. To cancel a request again changes nothing. The exit status is 1 if one was not found or is over.";

pub(super) const REDELIVER: &str = "\
Sends the callbacks of finished requests again: the same bytes to the same URL, in a new series of \
attempts. Leaves out cancelled jobs, unless --cancelled is given. Says for each id what happened, and \
records it in the audit. MAX_PARKED_PER_ORIGIN does not apply. The exit status is 1 if one was not \
found, is unfinished or cancelled, or has nothing to deliver.";

/// The most requests of one transaction, and of one record of the audit.
const AT_ONCE: usize = 100;

const COLUMNS: [Column; 2] = [("ID", 36), ("RESULT", 1)];

/// What became of one request.
#[derive(Debug, Serialize)]
struct Outcome {
    request_id: RequestId,
    /// Whether the command did, or had done before, what it was asked for.
    done: bool,
    message: String,
}

/// The requests to redeliver.
#[derive(Debug, clap::Args)]
pub(super) struct Redeliver {
    #[command(flatten)]
    ids: Named,
    /// Redeliver cancelled jobs, too, if their work was done before
    #[arg(long)]
    cancelled: bool,
}

/// Cancels what is in progress of the requests.
pub(super) async fn cancel(ids: Named) -> Result<(), Failure> {
    act(ids, BulkAction::Cancel, false).await
}

/// Starts redeliveries of the requests.
pub(super) async fn redeliver(Redeliver { ids, cancelled }: Redeliver) -> Result<(), Failure> {
    act(ids, BulkAction::Redeliver, cancelled).await
}

const UNKNOWN: &str = "it is unknown whether this was committed; `requests show` tells";

/// Acts on the requests, and prints what became of each.
async fn act(ids: Named, action: BulkAction, with_cancelled: bool) -> Result<(), Failure> {
    let Named { ids, json, by } = ids;
    let operator = by.name();
    on_store(async |store, settings| {
        let mut results = Vec::with_capacity(ids.len());
        for some in ids.chunks(AT_ONCE) {
            let bulk = Bulk {
                action,
                ids: some.to_vec(),
                with_cancelled,
                dry_run: false,
                matched: some.len(),
                filter: json!({ "ids": some }).to_string(),
                operator: operator.clone(),
            };
            results.extend(apply(store, bulk, settings.http.timeout).await);
        }
        print(&results, json)
    })
    .await
}

/// Does `bulk`. Returns what became of each of its requests.
async fn apply(store: &Store, bulk: Bulk, patience: Duration) -> Vec<Outcome> {
    let mut tries = std::cell::Cell::new(0);
    let apply = || {
        tries.set(tries.get() + 1);
        store.apply(bulk.clone())
    };
    let applied = match bulk.action {
        BulkAction::Cancel => until_known(patience, apply).await,
        // Not repeated if the outcome is unknown: it could be a second redelivery.
        BulkAction::Redeliver => apply().await,
    };
    let is_repeat = *tries.get_mut() > 1;
    let each = match applied {
        Ok(applied) => {
            let told = |(id, acted)| (id, told(acted, is_repeat));
            applied.each.into_iter().map(told).collect()
        }
        Err(error) => {
            let why = if error.is_indeterminate() {
                UNKNOWN.to_owned()
            } else {
                // Nothing was written. It may have been a lock, so others may succeed.
                format!("not done: {error}")
            };
            let ids = bulk.ids.into_iter();
            ids.map(|id| (id, Err(why.clone()))).collect::<Vec<_>>()
        }
    };
    let outcome = |(request_id, told): (_, Result<String, String>)| Outcome {
        request_id,
        done: told.is_ok(),
        message: told.unwrap_or_else(|why| why),
    };
    each.into_iter().map(outcome).collect()
}

/// A sentence on what was done to a request, or why not.
fn told(acted: Acted, is_repeat: bool) -> Result<String, String> {
    match acted {
        Acted::Cancelled(cancelled) => Ok(reply::cancelled_message(&cancelled)),
        Acted::Redelivered => Ok("redelivery started".to_owned()),
        // The first try may have cancelled a redelivery, of which nothing is left.
        Acted::Uncancellable(Uncancellable::Over(_)) if is_repeat => Err(UNKNOWN.to_owned()),
        Acted::Uncancellable(Uncancellable::Over(status)) => Err(format!("it is over: {status}")),
        Acted::Uncancellable(why) => Err(why.to_string()),
        Acted::Unredeliverable(why @ Unredeliverable::Cancelled) => {
            Err(format!("{why}; --cancelled redelivers such jobs, too"))
        }
        Acted::Unredeliverable(why) => Err(why.to_string()),
    }
}

fn print(results: &[Outcome], json: bool) -> Result<(), Failure> {
    let text = if json {
        #[derive(Serialize)]
        struct Results<'a> {
            results: &'a [Outcome],
        }
        output::json(&Results { results })?
    } else {
        let row = |done: &Outcome| vec![done.request_id.to_string(), done.message.clone()];
        let rows: Vec<_> = results.iter().map(row).collect();
        output::table(&COLUMNS, true, &rows)
    };
    output::write(&text)?;
    match results.iter().filter(|done| !done.done).count() {
        0 => Ok(()),
        undone => {
            let all = results.len();
            Err(Failure::Undone(format!("not done for {undone} of {all}")))
        }
    }
}
