//! `/admin`: what operators do.

use std::sync::Arc;

use storm_shared::services::store::Paused;
use tracing::info;
use warp::reply::Response;

use super::store_problem;
use crate::{
    app::App,
    auth::Operator,
    repeat::until_known,
    reply::{self, Problem},
    validation::AuditPage,
};

/// The pauses in force.
///
/// # Errors
/// The store failed.
pub async fn pauses(_: Operator, app: Arc<App>) -> Result<Response, Problem> {
    let pauses = app.store.pauses().await;
    let pauses = pauses.map_err(|error| store_problem(None, &error))?;
    Ok(reply::pauses(&pauses))
}

/// Pauses everything, or the callbacks to one origin.
///
/// # Errors
/// The body is invalid, too many origins are paused, or the store failed.
pub async fn pause(
    operator: Operator,
    app: Arc<App>,
    what: Result<Paused, Problem>,
) -> Result<Response, Problem> {
    let what = what?;
    // A repeat changes nothing.
    let pause = || app.store.pause(what.clone(), operator.name.clone());
    let paused = until_known(app.settings.http.timeout, pause).await;
    let paused = paused.map_err(|error| store_problem(None, &error))?;
    let changed = paused.map_err(Problem::too_many_pauses)?;
    let (name, on) = (&operator.name, described(&what));
    info!(operator = %name, on, changed, "an operator has paused work");
    app.pauses.look().await;
    Ok(reply::pause_changed(&what, true, changed))
}

/// Resumes everything, or the callbacks to one origin.
///
/// # Errors
/// The body is invalid, or the store failed.
pub async fn resume(
    operator: Operator,
    app: Arc<App>,
    what: Result<Paused, Problem>,
) -> Result<Response, Problem> {
    let what = what?;
    let resume = || app.store.resume(what.clone(), operator.name.clone());
    let resumed = until_known(app.settings.http.timeout, resume).await;
    let changed = resumed.map_err(|error| store_problem(None, &error))?;
    let (name, on) = (&operator.name, described(&what));
    info!(operator = %name, on, changed, "an operator has resumed work");
    app.pauses.look().await;
    Ok(reply::pause_changed(&what, false, changed))
}

/// What operators have done, newest first.
///
/// # Errors
/// The query is invalid, or the store failed.
pub async fn audit(
    page: Result<AuditPage, Problem>,
    _: Operator,
    app: Arc<App>,
) -> Result<Response, Problem> {
    let AuditPage { before, limit } = page?;
    let records = app.store.audit(before, limit).await;
    let records = records.map_err(|error| store_problem(None, &error))?;
    Ok(reply::audit(&records, limit))
}

fn described(what: &Paused) -> &str {
    match what {
        Paused::Everything => "everything",
        Paused::Origin(origin) => origin.as_str(),
    }
}
