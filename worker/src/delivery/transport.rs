//! What delivers a callback: the client, or a stand-in for it in tests.

use futures_util::future::BoxFuture;
use hyper::StatusCode;
use storm_shared::models::CallbackUrl;
use tokio::sync::OwnedSemaphorePermit;

use super::{error::AttemptError, message::Message};

/// A permit for one connection to an origin. It is held until the connection is idle or closed,
/// which can be later than the end of the attempt.
pub type ConnectionPermit = OwnedSemaphorePermit;

/// One callback attempt.
pub trait Transport: Send + Sync {
    /// POSTs `message` to `url`. A 2xx is success; every other result is an error, whose class says
    /// whether a retry follows.
    fn attempt<'a>(
        &'a self,
        permit: ConnectionPermit,
        url: &'a CallbackUrl,
        message: &'a Message,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>>;
}
