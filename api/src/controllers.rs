//! The endpoints, one module for each.

pub mod asynchronous;
pub mod health;
pub mod redelivery;
pub mod requests;
pub mod sync;

use storm_shared::{
    models::RequestId,
    services::store::{StoreError, Trouble},
};
use tracing::{debug, error};

use crate::reply::Problem;

/// Logs a store error and converts it to the problem that the client gets.
fn store_problem(id: impl Into<Option<RequestId>>, error: &StoreError) -> Problem {
    let request = id.into();
    let id = request.map(tracing::field::display);
    match (error, error.trouble()) {
        // Backpressure and shutdown are not failures.
        (StoreError::QueueFull | StoreError::Closed, _) => {}
        // The store itself logs once that the database refuses writes. A storm would repeat that
        // line thousands of times.
        (_, Some(Trouble::Busy | Trouble::Full | Trouble::ReadOnly | Trouble::Moved)) => {
            debug!(id, %error, "a store operation failed");
        }
        _ => error!(id, %error, "a store operation failed"),
    }
    if error.is_indeterminate() {
        return Problem::outcome_unknown(request);
    }
    Problem::store(error)
}
