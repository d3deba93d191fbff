//! `POST /async`: accept now, report later.

use std::sync::Arc;

use storm_shared::{
    models::{RequestId, Traceparent},
    services::store::NewJob,
};
use warp::reply::Response;

use super::refused;
use crate::{
    app::App,
    auth::Caller,
    reply::{self, Problem},
    validation::Submission,
};

/// Stores the job and answers `202` when it is committed: nothing else is waited for.
///
/// # Errors
/// The submission's own fault, too much that waits for its receiver, or the store's refusal.
pub async fn submit(
    caller: Caller,
    app: Arc<App>,
    traceparent: Option<Traceparent>,
    submission: Result<Submission, Problem>,
) -> Result<Response, Problem> {
    let Submission { spec, callback_url } = submission?;
    if let Some(url) = &callback_url
        && app.backlog_limit.is_before(url.origin())
    {
        return Err(Problem::receiver_overloaded());
    }
    let id = RequestId::generate();
    let job = NewJob {
        traceparent,
        created_by: caller.name().cloned(),
        ..NewJob::new(id, spec, callback_url.clone())
    };
    app.store
        .accept(job)
        .await
        .map_err(|error| refused(id, &error))?;
    // A client that goes away before the commit drops this future, and with it the ring, while the
    // row is still written. That is the one ring we may lose: a worker finds such a row in the
    // table a second or two later, and a task for each request would cost all the others more.
    if let Some(notifier) = &app.notifier {
        notifier.notify(id);
    }
    Ok(reply::accepted(id, callback_url.as_ref()))
}
