//! What the endpoints do, one module for each.

pub mod asynchronous;
pub mod health;
pub mod requests;
pub mod sync;

use storm_shared::{models::RequestId, services::store::StoreError};
use tracing::error;

use crate::reply::Problem;

/// The store's refusal as the client sees it. Being full or closed is an answer and no failure:
/// only the rest is logged, in the store's own words.
fn refused(id: RequestId, refusal: &StoreError) -> Problem {
    if !matches!(refusal, StoreError::QueueFull | StoreError::Closed) {
        error!(%id, error = %refusal, "the store refused an operation");
    }
    Problem::store(refusal)
}
