//! Maps path and method to a controller.
//!
//! A warp rejection means that another route may match. The last filter of each path answers `405`,
//! and the last filter of all answers `404`, so no rejection remains and the error type is
//! [`Infallible`].

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Buf;
use futures_util::{FutureExt as _, Stream, future::BoxFuture};
use http_body_util::BodyDataStream;
use hyper::{
    Method, Request,
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::service::TowerToHyperService;
use storm_shared::{
    memory::{MemoryBudget, Reservation},
    models::HandlerName,
    services::{readiness::Readiness, store::BulkAction},
};
use warp::{Filter, Rejection, Reply, reply::Response};

use crate::{
    app::App,
    assets::{assets, is_asset},
    auth::{Caller, Operator, Scraper},
    body::{self, Body, Unread},
    controllers::{admin, asynchronous, handlers, health, overview, redelivery, requests, sync},
    idempotency::idempotency_key,
    metrics::Metrics,
    prefer::Prefer,
    reply::{self, Problem},
    trace::traceparent,
    validation::{self, AsyncForm, Form, Invalid, JobInput, Submission, SyncForm, list, page},
};

/// All routes of the API.
///
/// A storm arrives at `POST /async` and `POST /async/{handler}`. They are matched here and not by
/// warp, whose filters would add a fifth to the cost of a refusal.
pub fn all(
    app: &Arc<App>,
    readiness: &Readiness,
) -> impl Service<
    Request<Incoming>,
    Response = Response,
    Error = Infallible,
    Future = BoxFuture<'static, Result<Response, Infallible>>,
> + Send
+ Sync
+ 'static {
    let others = TowerToHyperService::new(warp::service(others(app, readiness)));
    let report = Arc::new(AsyncForm::new(app.settings.callback.policy.clone()));
    let app = Arc::clone(app);
    // Boxed: by value, the layers around it would copy and keep kilobytes for each connection.
    service_fn(move |mut request: Request<Incoming>| {
        let Some(target) = Target::of(&request) else {
            return others.call(request).boxed();
        };
        let Some(caller) = request.extensions_mut().remove() else {
            return others.call(request).boxed();
        };
        let (app, report) = (Arc::clone(&app), Arc::clone(&report));
        let body = Unread::of(request);
        async move {
            let answer = post(app, report, target, caller, body).await;
            Ok(answer.into_response())
        }
        .boxed()
    })
}

/// The routes that warp matches: all but submissions.
fn others(
    app: &Arc<App>,
    readiness: &Readiness,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    // Boxed, because the combined type would exceed the compiler's recursion limit.
    let others = no_submission()
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
        .or(assets().boxed())
        .unify()
        .or(metrics(app.metrics.clone()).boxed())
        .unify()
        .or(overview(app).boxed())
        .unify()
        .or(admin(app).boxed())
        .unify()
        .boxed();
    others.or(not_found()).unify()
}

/// The routes until the database is open: `/livez`, `/readyz` and the pages' files, and `503` for
/// everything else.
pub fn starting(
    readiness: &Readiness,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    let others = warp::any().map(|| Problem::not_open_yet().into_response());
    probes(readiness)
        .boxed()
        .or(assets().boxed())
        .unify()
        .or(others)
        .unify()
}

/// Whether the request is one that needs no database: for `/livez`, `/readyz` or a page's file.
pub fn needs_no_database<B>(request: &Request<B>) -> bool {
    let path = request.uri().path();
    matches!(path, "/livez" | "/readyz") || is_asset(path)
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

/// The work that the path of a submission names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// `/async`: the report.
    Report,
    /// `/async/{handler}`, whether there is such a handler or not.
    Handler(String),
}

impl Target {
    /// `None` if the request is no submission.
    fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.method() != Method::POST {
            return None;
        }
        let rest = request.uri().path().strip_prefix("/async")?;
        // As warp has it: a slash may end a path.
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return Some(Self::Report);
        }
        let name = rest.strip_prefix('/')?;
        let is_segment = !name.is_empty() && !name.contains('/');
        is_segment.then(|| Self::Handler(name.to_owned()))
    }
}

async fn post(
    app: Arc<App>,
    report: Arc<AsyncForm>,
    target: Target,
    caller: Caller,
    body: Unread<BodyDataStream<Incoming>>,
) -> Result<Response, Problem> {
    match target {
        Target::Report => submit((&*report, &HandlerName::REPORT), caller, app, body).await,
        // With each request: a reread of the settings changes the handlers.
        Target::Handler(name) => match app.handlers.form(&name) {
            Ok(form) => submit((&*form, form.handler()), caller, app, body).await,
            Err(unknown) => {
                body.discard(app.settings.http.timeout);
                Err(unknown)
            }
        },
    }
}

/// Reads, parses and accepts a submission.
async fn submit<F: Form<Work = JobInput>>(
    (form, handler): (&F, &HandlerName),
    caller: Caller,
    app: Arc<App>,
    body: Unread<BodyDataStream<Incoming>>,
) -> Result<Response, Problem> {
    let traceparent = traceparent(&body.headers);
    let idempotency_key = idempotency_key(&body.headers);
    let prefer = Prefer::of(&body.headers);
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

fn overview(
    app: &Arc<App>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + use<> {
    let watch = warp::get()
        .and(caller())
        .and(with(app))
        .map(overview::of_caller)
        .map(Reply::into_response);
    let head = warp::head().and(caller()).map(|_| reply::overview::head());
    warp::path!("overview").and(
        watch
            .or(head)
            .unify()
            .or(method_not_allowed("GET, HEAD"))
            .unify(),
    )
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
    let overview = warp::get()
        .and(operator())
        .and(with(app))
        .map(overview::of_operator)
        .map(Reply::into_response);
    let head = warp::head()
        .and(operator())
        .map(|_| reply::overview::head());
    let overview = overview
        .or(head)
        .unify()
        .or(operators_only("GET, HEAD"))
        .unify();
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
        .or(warp::path!("admin" / "overview").and(overview))
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

/// `405` for the paths of submissions.
fn no_submission() -> impl Filter<Extract = (Response,), Error = Rejection> + Copy {
    let of_handler = warp::path!("async" / String).map(|_name| ()).untuple_one();
    warp::path!("async")
        .or(of_handler)
        .unify()
        .and(method_not_allowed("POST"))
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

#[cfg(test)]
mod tests {
    use hyper::{Method, Request};

    use super::Target;

    fn target(method: Method, uri: &str) -> Option<Target> {
        let request = Request::builder().method(method).uri(uri).body(());
        Target::of(&request.unwrap())
    }

    #[test]
    fn a_submission_is_a_post_to_async_or_to_one_name_below_it() {
        let handler = |name: &str| Some(Target::Handler(name.to_owned()));
        for (uri, expected) in [
            ("/async", Some(Target::Report)),
            ("/async/", Some(Target::Report)),
            ("/async?a=/b", Some(Target::Report)),
            ("http://localhost:8000/async", Some(Target::Report)),
            ("/async/pdf", handler("pdf")),
            ("/async/pdf/?a", handler("pdf")),
            ("/async/a%2fb", handler("a%2fb")),
            ("/async/pdf/a", None),
            ("/async//", None),
            ("/async//pdf", None),
            ("/asynchronous", None),
            ("/Async", None),
            ("//async", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(target(Method::POST, uri), expected, "{uri}");
            assert_eq!(target(Method::GET, uri), None, "{uri}");
        }
    }
}
