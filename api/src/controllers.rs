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

/// A store error as the client sees it. Backpressure and shutdown are no failures and are not
/// logged. A database that takes no writes has been logged once by the store, and a storm would
/// repeat it thousands of times. Everything else is logged here, with the internal error.
fn store_problem(id: impl Into<Option<RequestId>>, error: &StoreError) -> Problem {
    let id = id.into().map(tracing::field::display);
    match (error, error.trouble()) {
        (StoreError::QueueFull | StoreError::Closed, _) => {}
        (_, Some(Trouble::Busy | Trouble::Full | Trouble::ReadOnly)) => {
            debug!(id, %error, "a store operation failed");
        }
        _ => error!(id, %error, "a store operation failed"),
    }
    Problem::store(error)
}
