//! The endpoints, one module for each.

pub mod admin;
pub mod asynchronous;
pub mod handlers;
pub mod health;
pub mod overview;
pub mod redelivery;
pub mod requests;
pub mod sync;
mod waiting;

use storm_shared::{
    models::{HandlerName, Origin, RequestId},
    services::store::{StoreError, Trouble},
};
use tracing::{debug, error};

use crate::{app::App, auth::Caller, reply::Problem};

/// Parses the `id` in a path, and reads the origin of the callback of that request, if it has one:
/// before a write, since an unknown id is to cost a read only.
///
/// # Errors
/// `id` is not a UUID, no such request is within the caller's scope, or the store failed.
async fn known(
    id: &str,
    caller: &Caller,
    app: &App,
) -> Result<(RequestId, Option<Origin>), Problem> {
    let id: RequestId = id.parse().map_err(|_| Problem::malformed_id())?;
    let origin = app.store.origin_of(caller.scope(), id).await;
    let origin = origin.map_err(|error| store_problem(id, &error))?;
    Ok((id, origin.map_err(Problem::unredeliverable)?))
}

/// Checks the `handler` of a filter. Only for a first page: the last jobs of a removed handler can
/// end between two pages.
///
/// # Errors
/// There is no such handler in the settings, and none with jobs to do.
fn known_handler(name: Option<&HandlerName>, app: &App) -> Result<(), Problem> {
    let load = app.handler_watch.current();
    app.handlers.check_filter(name, load.as_ref().as_ref())
}

/// Logs a store error and converts it to the problem that the client gets.
fn store_problem(id: impl Into<Option<RequestId>>, error: &StoreError) -> Problem {
    let request = id.into();
    let id = request.map(tracing::field::display);
    match (error, error.trouble()) {
        // Backpressure and shutdown are not failures.
        (StoreError::QueueFull | StoreError::Closed, _) => {}
        // The store itself logs once that the database refuses writes. A storm would repeat that
        // line thousands of times.
        (
            _,
            Some(
                Trouble::Busy
                | Trouble::Full
                | Trouble::ReadOnly
                | Trouble::Moved
                | Trouble::Migrated,
            ),
        ) => {
            debug!(id, %error, "a store operation failed");
        }
        _ => error!(id, %error, "a store operation failed"),
    }
    if error.is_indeterminate() {
        return Problem::outcome_unknown(request);
    }
    Problem::store(error)
}
