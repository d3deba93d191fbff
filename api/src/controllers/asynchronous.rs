//! `POST /async`: accepts a job.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use storm_shared::{
    models::{RequestId, Traceparent},
    services::{
        queue::{NOTIFICATION_GRACE, Notification},
        store::NewJob,
    },
};
use warp::reply::Response;

use super::store_problem;
use crate::{
    app::App,
    auth::Caller,
    repeat::until_known,
    reply::{self, Problem},
    validation::{Invalid, Submission},
};

/// Stores the job and answers `202` as soon as it is committed. If it is unknown whether it was,
/// the write is repeated under the same id, for as long as a client may take to send a request.
///
/// # Errors
/// The submission is invalid, the receiver's backlog is full, or the store failed.
pub async fn submit(
    caller: Caller,
    app: Arc<App>,
    traceparent: Option<Traceparent>,
    submission: Result<Submission, Invalid>,
) -> Result<Response, Problem> {
    let Submission { spec, callback_url } = submission.map_err(|invalid| {
        if let Some(rule) = invalid.refused_by {
            app.metrics.refused_callback(rule.name());
        }
        *invalid.problem
    })?;
    if let Some(url) = &callback_url
        && app.backlog_limit.is_full(&caller.destination(url.origin()))
    {
        return Err(Problem::receiver_overloaded());
    }
    let created_at = Timestamp::now();
    let id = RequestId::generate();
    let job = NewJob {
        created_at,
        notification_grace: match app.notifier {
            Some(_) => NOTIFICATION_GRACE,
            None => Duration::ZERO,
        },
        traceparent,
        created_by: caller.name().cloned(),
        ..NewJob::new(id, spec, callback_url.clone())
    };
    let notification = app.notifier.as_ref().map(|_| Notification::of(&job));
    let accepted = until_known(app.settings.http.timeout, || app.store.accept(job.clone())).await;
    accepted.map_err(|error| store_problem(id, &error))?;
    // After the commit: a worker that gets the notification must find the row.
    //
    // If the client disconnects before the commit, this future is dropped: the row is still written
    // but no notification is sent, and a worker finds the row when it next polls the table. A task
    // for each request would prevent this, at a cost to every request.
    if let (Some(notifier), Some(notification)) = (&app.notifier, notification) {
        notifier.notify(notification);
    }
    Ok(reply::accepted(id, callback_url.as_ref()))
}
