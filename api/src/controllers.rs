//! What the endpoints do, one module for each.

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

/// The store's refusal as the client sees it. That it has no place or is closed is an answer and no
/// failure; what keeps it from writing at all it has told of once, and a storm would tell it again a
/// thousand times. Only the rest is logged for each request, in the store's own words.
fn refused(id: impl Into<Option<RequestId>>, refusal: &StoreError) -> Problem {
    let id = id.into().map(tracing::field::display);
    match (refusal, refusal.trouble()) {
        (StoreError::QueueFull | StoreError::Closed, _) => {}
        (_, Some(Trouble::Busy | Trouble::Full | Trouble::ReadOnly)) => {
            debug!(id, error = %refusal, "the store refused an operation");
        }
        _ => error!(id, error = %refusal, "the store refused an operation"),
    }
    Problem::store(refusal)
}
