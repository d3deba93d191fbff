//! What a notification says of its job.

use crate::{
    models::{ClientName, RequestId},
    services::store::NewJob,
};

/// A hint that a job was accepted, with what a worker needs in order to be fair before it claims
/// the job. The row decides; nothing depends on a notification being right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The job.
    pub id: RequestId,
    /// The client name of the token that submitted it; `None` without authentication.
    pub tenant: Option<ClientName>,
    /// Whether the job is long.
    pub is_long: bool,
}

impl Notification {
    /// The notification of a job that is to be accepted.
    pub fn of(job: &NewJob) -> Self {
        Self {
            id: job.id,
            tenant: job.created_by.clone(),
            is_long: job.is_long,
        }
    }
}

/// The notification of a short job without a client name.
impl From<RequestId> for Notification {
    fn from(id: RequestId) -> Self {
        Self {
            id,
            tenant: None,
            is_long: false,
        }
    }
}
