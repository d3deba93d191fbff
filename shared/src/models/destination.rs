//! A tenant's receiver.

use super::{ClientName, Origin};

/// A tenant's receiver. What refuses or delays a job, such as a circuit breaker or a backlog limit,
/// is kept by it, so that no tenant's failures affect another tenant's jobs for the same origin.
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The client name of the jobs' tokens. Without authentication all jobs have `None`.
    pub tenant: Option<ClientName>,
    /// The origin of the callbacks.
    pub origin: Origin,
}
