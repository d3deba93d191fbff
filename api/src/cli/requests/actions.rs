//! `requests cancel` and `requests redeliver`: one verb on each of several requests.

use serde::Serialize;
use storm_shared::{
    models::RequestId,
    services::store::{Scope, Store, StoreError, Uncancellable},
};

use super::Ids;
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
that has ended, cancels the redelivery in progress. Says for each id what happened. To cancel a \
request again changes nothing. The exit status is 1 if one was not found or is over.";

pub(super) const REDELIVER: &str = "\
Sends the callbacks of finished requests again: the same bytes to the same URL, in a new series of \
attempts. Says for each id what happened. MAX_PARKED_PER_ORIGIN does not apply. The exit status is 1 \
if one was not found, is unfinished, or has nothing to deliver.";

const COLUMNS: [Column; 2] = [("ID", 36), ("RESULT", 1)];

/// What became of one request.
#[derive(Debug, Serialize)]
struct Outcome {
    request_id: RequestId,
    /// Whether the command did, or had done before, what it was asked for.
    done: bool,
    message: String,
}

pub(super) async fn cancel(ids: Ids) -> Result<(), Failure> {
    on_store(async |store, settings| {
        let patience = settings.http.timeout;
        act(ids, async |id| {
            let mut tries = std::cell::Cell::new(0);
            let cancelled = until_known(patience, || {
                tries.set(tries.get() + 1);
                store.cancel(Scope::All, id)
            });
            Ok(match cancelled.await? {
                Ok(cancelled) => Ok(reply::cancelled_message(&cancelled)),
                // The first try may have cancelled a redelivery, of which nothing is left.
                Err(Uncancellable::Over(_)) if *tries.get_mut() > 1 => Err(UNKNOWN.to_owned()),
                Err(Uncancellable::Over(status)) => Err(format!("it is over: {status}")),
                Err(why) => Err(why.to_string()),
            })
        })
        .await
    })
    .await
}

pub(super) async fn redeliver(ids: Ids) -> Result<(), Failure> {
    on_store(async |store, _| {
        act(ids, async |id| {
            // Not repeated if the outcome is unknown: it could be a second redelivery.
            let redelivered = Store::redeliver(store, Scope::All, id).await?;
            let message = || "redelivery started".to_owned();
            Ok(redelivered
                .map(|()| message())
                .map_err(|why| why.to_string()))
        })
        .await
    })
    .await
}

const UNKNOWN: &str = "it is unknown whether this was committed; `requests show` tells";

/// Acts on each request, and prints what became of it. `act` returns a sentence, or why not.
async fn act(
    ids: Ids,
    act: impl AsyncFn(RequestId) -> Result<Result<String, String>, StoreError>,
) -> Result<(), Failure> {
    let mut results = Vec::with_capacity(ids.ids.len());
    for id in ids.ids {
        let result = match act(id).await {
            Ok(result) => result,
            Err(error) if error.is_indeterminate() => Err(UNKNOWN.to_owned()),
            // Nothing was written for this one. It may have been a lock, so others may succeed.
            Err(error) => Err(format!("not done: {error}")),
        };
        let done = result.is_ok();
        let message = result.unwrap_or_else(|why| why);
        results.push(Outcome {
            request_id: id,
            done,
            message,
        });
    }
    let text = if ids.json {
        #[derive(Serialize)]
        struct Results<'a> {
            results: &'a [Outcome],
        }
        output::json(&Results { results: &results })?
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
