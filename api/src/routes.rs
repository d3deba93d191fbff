//! Maps path and method to a controller.
//!
//! A warp rejection means that another route may match. The last filter of each path answers `405`,
//! and the last filter of all answers `404`, so no rejection remains and the error type is
//! [`Infallible`].

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Buf;
use futures_util::{FutureExt as _, Stream};
use hyper::Request;
use storm_shared::{
    memory::{MemoryBudget, Reservation},
    models::{HandlerName, IdempotencyKey, Traceparent},
    services::{readiness::Readiness, store::BulkAction},
};
use warp::{Filter, Rejection, Reply, reply::Response};

use crate::{
    app::App,
    auth::{Caller, Operator, Scraper},
    body::{self, Body, Unread},
    controllers::{admin, asynchronous, handlers, health, redelivery, requests, sync},
    idempotency::idempotency_key,
    metrics::Metrics,
    prefer::{Prefer, prefer},
    reply::{self, Problem},
    trace::traceparent,
    validation::{self, AsyncForm, Form, Invalid, JobInput, Submission, SyncForm, list, page},
};

/// All routes of the API. `POST /async` is matched first: a storm arrives there.
pub fn all(
    app: &Arc<App>,
    readiness: &Readiness,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    // Boxed, because the combined type would exceed the compiler's recursion limit.
    let others = post_handler(app)
        .boxed()
        .or(post_sync(app).boxed())
        .unify()
        .or(handlers(app).boxed())
        .unify()
        .or(redelivery(app).boxed())
        .unify()
        .or(erasure(app).boxed())
        .unify()
        .or(request(app).boxed())
        .unify()
        .or(requests(app).boxed())
        .unify()
        .or(healthz(app).boxed())
        .unify()
        .or(probes(readiness).boxed())
        .unify()
        .or(metrics(app.metrics.clone()).boxed())
        .unify()
        .or(admin(app).boxed())
        .unify()
        .boxed();
    post_async(app).or(others).unify().or(not_found()).unify()
}

/// The routes until the database is open: `/livez` and `/readyz`, and `503` for everything else.
pub fn starting(
    readiness: &Readiness,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    let others = warp::any().map(|| Problem::not_open_yet().into_response());
    probes(readiness).boxed().or(others).unify()
}

/// Whether the request is one for `/livez` or `/readyz`.
pub fn is_probe<B>(request: &Request<B>) -> bool {
    matches!(request.uri().path(), "/livez" | "/readyz")
}

/// `/metrics` only, for the listener of `METRICS_ADDR`.
pub fn metrics_alone(
    counted: Metrics,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    metrics(counted).or(not_found()).unify()
}

/// The memory budget of the bodies under `/admin`.
const OPERATORS_MEMORY: usize = 64 * body::LIMIT;

/// A submission of some work, and what its body holds of the memory budget.
pub type Received<W> = Result<(Submission<W>, Reservation), Invalid>;

/// Reads a body within `timeout` and the budget `memory`, and parses it by `form`.
pub fn submission<F: Form + Send + Sync + 'static>(
    form: F,
    timeout: Duration,
    memory: MemoryBudget,
) -> impl Filter<Extract = (Received<F::Work>,), Error = Rejection> + Clone {
    let form = Arc::new(form);
    body::unread().then(move |body: Unread<_>| {
        let (form, memory) = (Arc::clone(&form), memory.clone());
        async move { receive(&*form, body, timeout, &memory).await }
    })
}

async fn receive<F: Form, S, B>(
    form: &F,
    body: Unread<S>,
    timeout: Duration,
    memory: &MemoryBudget,
) -> Received<F::Work>
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin + Send + 'static,
    B: Buf,
{
    let body = body.json(form.body_limit(), timeout, memory).await?;
    Ok((form.read(&body.bytes)?, body.memory))
}

fn post_async(
    app: &Arc<App>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let form = Arc::new(AsyncForm::new(app.settings.callback.policy.clone()));
    let submit = warp::post()
        .and(caller())
        .and(with(app))
        .and(traceparent())
        .and(idempotency_key())
        .and(prefer())
        // Last: warp hands out the body once, so no filter after this may reject the request.
        .and(body::unread())
        .then(
            move |caller, app, traceparent, key, prefer, body: Unread<_>| {
                let form = Arc::clone(&form);
                // Boxed: each filter around it would copy its kilobytes.
                async move {
                    let to = (&*form, &HandlerName::REPORT);
                    submit(to, caller, app, traceparent, key, prefer, body).await
                }
                .boxed()
            },
        )
        .map(Reply::into_response);
    warp::path!("async").and(submit.or(method_not_allowed("POST")).unify())
}

fn post_handler(
    app: &Arc<App>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let path = warp::path!("async" / String);
    let submit = path
        .and(warp::post())
        .and(caller())
        .and(with(app))
        .and(traceparent())
        .and(idempotency_key())
        .and(prefer())
        .and(body::unread())
        .then(
            async |name: String,
                   caller,
                   app: Arc<App>,
                   traceparent,
                   key,
                   prefer,
                   body: Unread<_>| {
                // With each request: a reread of the settings changes the handlers.
                match app.handlers.form(&name) {
                    Ok(form) => {
                        let to = (&*form, form.handler());
                        submit(to, caller, app, traceparent, key, prefer, body).await
                    }
                    Err(unknown) => {
                        body.discard(app.settings.http.timeout);
                        Err(unknown)
                    }
                }
            },
        )
        .map(Reply::into_response);
    submit
        .or(path
            .and(method_not_allowed("POST"))
            .map(|_name, reply| reply))
        .unify()
}

/// Reads, parses and accepts a submission.
async fn submit<F, S, B>(
    (form, handler): (&F, &HandlerName),
    caller: Caller,
    app: Arc<App>,
    traceparent: Option<Traceparent>,
    idempotency_key: Result<Option<IdempotencyKey>, Problem>,
    prefer: Prefer,
    body: Unread<S>,
) -> Result<Response, Problem>
where
    F: Form<Work = JobInput>,
    S: Stream<Item = Result<B, warp::Error>> + Unpin + Send + 'static,
    B: Buf,
{
    let timeout = app.settings.http.timeout;
    let body = body.json(form.body_limit(), timeout, &app.memory).await;
    // Load shedding: past the limit, a submission costs no more than to read it. One with a key may
    // repeat an earlier one, and is looked up first.
    if body.is_ok() && matches!(idempotency_key, Ok(None)) {
        let room = app.admission.check(caller.name(), handler);
        room.map_err(|full| Problem::backlog_full(full.retry_after, full.handler.as_ref()))?;
    }
    let received = body
        .map_err(Invalid::from)
        .and_then(|body| Ok((form.read(&body.bytes)?, body.memory)));
    asynchronous::submit(caller, app, traceparent, idempotency_key, prefer, received).await
}

fn handlers(
    app: &Arc<App>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let list = get_or_head()
        .and(caller())
        .and(with(app))
        .map(|_caller, app| handlers::list(app))
        .map(Reply::into_response);
    warp::path!("handlers").and(list.or(method_not_allowed("GET, HEAD")).unify())
}

fn post_sync(
    app: &Arc<App>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let report = warp::post()
        .and(caller())
        .and(with(app))
        .and(submission(
            SyncForm,
            app.settings.http.timeout,
            app.memory.clone(),
        ))
        .then(sync::report)
        .map(Reply::into_response);
    warp::path!("sync").and(report.or(method_not_allowed("POST")).unify())
}

fn request(
    app: &Arc<App>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let path = warp::path!("requests" / String);
    let cancel = path
        .and(warp::delete())
        .and(caller())
        .and(with(app))
        .and(body::none(app.settings.http.timeout))
        .then(requests::cancel)
        .map(Reply::into_response);
    let find = path
        .and(get_or_head())
        // As pairs: `wait` must see repeated parameters to report them.
        .and(warp::query().map(|query: Vec<(String, String)>| validation::wait(&query)))
        .and(caller())
        .and(with(app))
        .then(requests::find)
        .map(Reply::into_response);
    find.or(cancel)
        .unify()
        .or(path
            .and(method_not_allowed("GET, HEAD, DELETE"))
            .map(|_id, reply| reply))
        .unify()
}

fn requests(
    app: &Arc<App>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let page = get_or_head()
        // As pairs: `list` must see repeated and unknown parameters to report them.
        .and(warp::query().map(|query: Vec<(String, String)>| list(&query)))
        .and(caller())
        .and(with(app))
        .then(requests::list)
        .map(Reply::into_response);
    warp::path!("requests").and(page.or(method_not_allowed("GET, HEAD")).unify())
}

/// Matched before `/requests/{id}`, which would parse `redeliver` as an id.
fn redelivery(
    app: &Arc<App>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let timeout = app.settings.http.timeout;
    let page = warp::post()
        // As pairs: `page` must see repeated and unknown parameters to report them.
        .and(warp::query().map(|query: Vec<(String, String)>| page(&query)))
        .and(caller())
        .and(with(app))
        .and(body::none(timeout))
        .then(redelivery::page)
        .map(Reply::into_response);
    let path = warp::path!("requests" / String / "redeliver");
    let one = path
        .and(warp::post())
        .and(caller())
        .and(with(app))
        .and(body::none(timeout))
        .then(redelivery::one)
        .map(Reply::into_response);
    warp::path!("requests" / "redeliver")
        .and(page.or(method_not_allowed("POST")).unify())
        .or(one)
        .unify()
        .or(path.and(method_not_allowed("POST")).map(|_id, reply| reply))
        .unify()
}

fn erasure(
    app: &Arc<App>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let path = warp::path!("requests" / String / "erase");
    let erase = path
        .and(warp::post())
        .and(caller())
        .and(with(app))
        .and(body::none(app.settings.http.timeout))
        .then(requests::erase)
        .map(Reply::into_response);
    erase
        .or(path.and(method_not_allowed("POST")).map(|_id, reply| reply))
        .unify()
}

fn healthz(
    app: &Arc<App>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    // No `caller()`: the settings hold hashes of tokens only, so `healthcheck` has no token to
    // send.
    let check = get_or_head().and(with(app)).then(health::check);
    warp::path!("healthz").and(check.or(method_not_allowed("GET, HEAD")).unify())
}

fn probes(
    readiness: &Readiness,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let readiness = readiness.clone();
    let live = get_or_head().map(health::live);
    let ready = get_or_head()
        .map(move || readiness.clone())
        .then(health::ready);
    warp::path!("livez")
        .and(live.or(method_not_allowed("GET, HEAD")).unify())
        .or(warp::path!("readyz").and(ready.or(method_not_allowed("GET, HEAD")).unify()))
        .unify()
}

/// Matches only requests that [`AuthLayer`](crate::auth::AuthLayer) marked with [`Scraper`].
fn metrics(counted: Metrics) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let scrape = get_or_head().map(move || reply::metrics(counted.render()));
    warp::path!("metrics")
        // Before the methods: without the mark, `/metrics` is a `404` like any unknown path.
        .and(warp::ext::get())
        .and(scrape.or(method_not_allowed("GET, HEAD")).unify())
        .map(|_: Scraper, reply| reply)
}

/// The paths of operators. Without [`Operator`], they are `404` like any unknown path.
fn admin(app: &Arc<App>) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let timeout = app.settings.http.timeout;
    // Not that of all bodies, which a storm can fill: operators end it.
    let memory = MemoryBudget::new(OPERATORS_MEMORY);
    let what = || {
        body::json(timeout, memory.clone())
            .map(|body: Result<Body, Problem>| validation::paused(&body?.bytes))
    };
    let pauses = get_or_head()
        .and(operator())
        .and(with(app))
        .then(admin::pauses)
        .map(Reply::into_response);
    let pause = warp::post()
        .and(operator())
        .and(with(app))
        .and(what())
        .then(admin::pause)
        .map(Reply::into_response);
    let pause = pauses
        .or(pause)
        .unify()
        .or(operators_only("GET, HEAD, POST"))
        .unify();
    let resume = warp::post()
        .and(operator())
        .and(with(app))
        .and(what())
        .then(admin::resume)
        .map(Reply::into_response);
    let audit = get_or_head()
        .and(warp::query().map(|query: Vec<(String, String)>| validation::audit(&query)))
        .and(operator())
        .and(with(app))
        .then(admin::audit)
        .map(Reply::into_response);
    let bulk = |action| {
        let form = body::json(timeout, memory.clone())
            .map(move |body: Result<Body, Problem>| validation::bulk(action, &body?.bytes));
        let act = warp::post()
            .and(operator())
            .and(with(app))
            .and(form)
            .then(admin::bulk)
            .map(Reply::into_response);
        act.or(operators_only("POST")).unify().boxed()
    };
    warp::path!("admin" / "pause")
        .and(pause)
        .boxed()
        .or(warp::path!("admin" / "cancel").and(bulk(BulkAction::Cancel)))
        .unify()
        .boxed()
        .or(warp::path!("admin" / "redeliver").and(bulk(BulkAction::Redeliver)))
        .unify()
        .boxed()
        .or(warp::path!("admin" / "resume").and(resume.or(operators_only("POST")).unify()))
        .unify()
        .boxed()
        .or(warp::path!("admin" / "audit").and(audit.or(operators_only("GET, HEAD")).unify()))
        .unify()
        .boxed()
        // Only a path under `/admin` has an operator.
        .or(operator().map(|_operator| Problem::no_such_admin_path().into_response()))
        .unify()
}

/// The authenticated operator. A request without one matches no route.
fn operator() -> impl Filter<Extract = (Operator,), Error = Rejection> + Copy {
    warp::ext::get()
}

/// The last filter of an operator's path: `405`, for operators alone.
fn operators_only(
    allowed: &'static str,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Copy {
    operator()
        .and(method_not_allowed(allowed))
        .map(|_operator, reply| reply)
}

/// The authenticated caller. A request without one matches no route.
fn caller() -> impl Filter<Extract = (Caller,), Error = Rejection> + Copy {
    warp::ext::get()
}

/// The last filter of all: `404`.
fn not_found() -> impl Filter<Extract = (Response,), Error = Infallible> + Copy {
    warp::any().map(|| Problem::no_such_path().into_response())
}

/// The last filter of a path: `405`, with `allowed` in the `Allow` header.
fn method_not_allowed(
    allowed: &'static str,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Copy {
    warp::any().map(move || Problem::method_not_allowed(allowed).into_response())
}

/// HEAD is answered like GET; hyper omits the body.
fn get_or_head() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::get().or(warp::head()).unify()
}

fn with(app: &Arc<App>) -> impl Filter<Extract = (Arc<App>,), Error = Infallible> + Clone + use<> {
    let app = Arc::clone(app);
    warp::any().map(move || Arc::clone(&app))
}
