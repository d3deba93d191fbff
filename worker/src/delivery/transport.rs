//! What delivers a callback: the client, or a stand-in for it in tests.

use std::future::ready;

use futures_util::future::BoxFuture;
use hyper::StatusCode;
use storm_shared::models::CallbackUrl;

use super::{error::AttemptError, message::Message, permits::ConnectionPermit};

/// Records resends within an attempt.
pub trait Resends: Send + Sync {
    /// Records that the callback is about to be sent once more, although part of it has already
    /// gone out. False if that could not be recorded: then it must not be sent.
    fn record(&self) -> BoxFuture<'_, bool>;
}

/// Records nothing, and allows every resend.
pub struct Unrecorded;

impl Resends for Unrecorded {
    fn record(&self) -> BoxFuture<'_, bool> {
        Box::pin(ready(true))
    }
}

/// One callback attempt.
pub trait Transport: Send + Sync {
    /// POSTs `message` to `url`. A 2xx is success; every other result is an error, whose class says
    /// whether a retry follows.
    fn attempt<'a>(
        &'a self,
        permit: ConnectionPermit,
        url: &'a CallbackUrl,
        message: &'a Message,
        resends: &'a dyn Resends,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>>;
}
