//! `POST /async` and `POST /async/{handler}`: accept a job.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use storm_shared::{
    models::{CallbackUrl, IdempotencyKey, RequestId, Traceparent},
    services::store::{Acceptance, Held, NewJob, StoreError, expected_at},
    traces::{Span, Stage},
};
use tokio::time::Instant;
use warp::{http::StatusCode, reply::Response};

use super::{store_problem, waiting::result_of};
use crate::{
    admission::Admitted,
    app::App,
    auth::Caller,
    metrics::Accepted,
    pauses::EXPECTED_PAUSE,
    prefer::Prefer,
    repeat::until_known,
    reply::{self, Problem, Submitted},
    routes::Received,
    validation::{JobInput, Submission},
};

/// Stores the job and answers `202` as soon as it is committed; or, if the client prefers to wait,
/// `200` with its result, if that is stored in time.
///
/// # Errors
/// The job was not accepted: the submission or its key is invalid, the key belongs to another
/// submission, too many jobs are unfinished, the receiver's backlog is full, or the store failed.
pub async fn submit(
    caller: Caller,
    app: Arc<App>,
    traceparent: Option<Traceparent>,
    idempotency_key: Result<Option<IdempotencyKey>, Problem>,
    prefer: Prefer,
    received: Received<JobInput>,
) -> Result<Response, Problem> {
    // From here on, since the request has been received (RFC 7240, section 4.3).
    let deadline = prefer.wait.map(|wait| Instant::now() + wait);
    // The job is below this span, so that a worker's spans are, too.
    let span = Span::start(Stage::Accept, traceparent);
    let traceparent = span.passed_on(traceparent);
    let accepted = accept(&caller, &app, traceparent, idempotency_key, received).await;
    end(span, &accepted, deadline.is_some());
    let submitted = accepted?;
    match deadline {
        None => Ok(reply::accepted(&submitted)),
        // Boxed: most submissions do not wait, and need no room for it.
        Some(deadline) => {
            let answer = result_of(submitted, prefer, deadline, &caller, &app);
            Ok(Box::pin(answer).await)
        }
    }
}

/// Ends the span of a submission, with what came of it. The answer to one that `waits` is later.
fn end(mut span: Span, accepted: &Result<Submitted, Problem>, waits: bool) {
    span.text("http.request.method", "POST");
    match accepted {
        Ok(submitted) => {
            if !waits {
                span.number("http.response.status_code", StatusCode::ACCEPTED.as_u16());
            }
            span.text("storm.request.id", submitted.id);
            span.text("storm.handler", &submitted.handler);
            if submitted.is_replay {
                span.text("storm.replayed", true);
            }
        }
        Err(problem) => {
            span.number(
                "http.response.status_code",
                problem.kind().status().as_u16(),
            );
            // A client's mistake is no failure of the server's span.
            if problem.kind().status().is_server_error() {
                span.failed(problem.kind().name());
            } else {
                span.text("error.type", problem.kind().name());
            }
        }
    }
    span.end();
}

/// Stores the job. If it is unknown whether it was, the write is repeated under the same id, for as
/// long as a client may take to send a request.
///
/// A submission that repeats an earlier one, by its idempotency key, is that one again.
///
/// # Errors
/// Those of [`submit`].
async fn accept(
    caller: &Caller,
    app: &App,
    traceparent: Option<Traceparent>,
    idempotency_key: Result<Option<IdempotencyKey>, Problem>,
    received: Received<JobInput>,
) -> Result<Submitted, Problem> {
    let idempotency_key = idempotency_key?;
    let (submission, memory) = received.map_err(|invalid| {
        if let Some(rule) = invalid.refused_by {
            app.metrics.refused_callback(rule.name());
        }
        *invalid.problem
    })?;
    let created_at = Timestamp::now();
    let id = RequestId::generate();
    let (job, takes) = new_job(id, submission);
    let mut job = NewJob {
        created_at,
        notification_grace: app.notification_grace(),
        traceparent,
        created_by: caller.name().cloned(),
        idempotency_key,
        memory: Some(Arc::new(memory)),
        ..job
    };
    // Before admission control and without a write: a repeat adds nothing to any backlog or queue.
    let earlier = match app.store.accepted_before(&job).await {
        // Too many look-ups at once are no reason to refuse a job: the write decides alone.
        Err(StoreError::QueueFull) => None,
        known => known.map_err(|error| store_problem(None, &error))?,
    };
    if let Some(earlier) = earlier {
        return submitted(app, job, earlier);
    }
    let admitted = admit(app, caller, &job)?;
    let done_after = wait(app, &admitted, &job).saturating_add(takes);
    job.expected_at = expected_at(created_at, done_after);
    job.held = Some(Arc::clone(&admitted) as Held);
    // By the store, after the commit: a worker that gets the notification must find the row. And
    // also if the client disconnects before the commit, which drops this future.
    job.on_stored = app.notifier.as_ref().map(|it| it.on_stored(&job));
    let accepted = until_known(app.settings.http.timeout, || app.store.accept(job.clone())).await;
    match &accepted {
        Ok(Acceptance::Stored) => {}
        Err(error) if error.is_indeterminate() => {}
        Ok(_) | Err(_) => admitted.withdraw(),
    }
    let accepted = accepted.map_err(|error| {
        let problem = store_problem(id, &error);
        let is_repeatable = job.idempotency_key.is_some();
        if error.is_indeterminate() && is_repeatable {
            return Problem::outcome_unknown_with_key(id);
        }
        problem
    })?;
    submitted(app, job, accepted)
}

/// The job of a submission, and how long its work should take: zero for a handler, since nobody
/// knows.
// By value: from here on, the job has the only copy of the payload.
fn new_job(id: RequestId, submission: Submission<JobInput>) -> (NewJob, Duration) {
    let Submission { work, callback_url } = submission;
    match work {
        JobInput::Report(spec) => {
            let job = NewJob::new(id, &spec, callback_url);
            (job, spec.ideal_duration())
        }
        JobInput::Payload { handler, payload } => {
            let job = NewJob::for_handler(handler, id, &payload, callback_url);
            (job, Duration::ZERO)
        }
    }
}

/// Admission control: refuses a valid submission that is new. It costs no look into the store.
fn admit(app: &App, caller: &Caller, job: &NewJob) -> Result<Arc<Admitted>, Problem> {
    if let Some(url) = &job.callback
        && app.backlog_limit.is_full(&caller.destination(url.origin()))
    {
        return Err(Problem::receiver_overloaded());
    }
    let (admission, tenant) = (&app.admission, caller.name());
    let admitted = admission.admit(tenant, &job.handler, job.is_long);
    admitted.map_err(|full| Problem::backlog_full(full.retry_after, full.handler.as_ref()))
}

/// How long the job should wait: for a worker, or for the end of a pause.
fn wait(app: &App, admitted: &Admitted, job: &NewJob) -> Duration {
    let is_held = app
        .pauses
        .hold(job.callback.as_ref().map(CallbackUrl::origin));
    let pause = if is_held {
        EXPECTED_PAUSE
    } else {
        Duration::ZERO
    };
    admitted.wait().max(pause)
}

/// What has become of the submission of `job`, of which only what its answer names is kept.
// By value: nothing of the memory budget or of admission control is held while a client waits.
fn submitted(app: &App, job: NewJob, accepted: Acceptance) -> Result<Submitted, Problem> {
    let (id, expected_at, kind) = match accepted {
        Acceptance::Stored => (job.id, job.expected_at, Accepted::New),
        Acceptance::Replayed { id, expected_at } => (id, expected_at, Accepted::Replayed),
        Acceptance::OldWorkers => return Err(Problem::old_workers()),
        Acceptance::Conflicting => return Err(Problem::idempotency_key_reused()),
    };
    app.metrics.accepted(&job.handler, kind);
    Ok(Submitted {
        id,
        handler: job.handler,
        callback: job.callback,
        expected_at,
        is_replay: kind == Accepted::Replayed,
    })
}
