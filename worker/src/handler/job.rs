//! What a handler is to do.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use storm_shared::models::{ClientName, HandlerName, RequestId};

use super::failure::Failure;

/// A job as its handler sees it. Cheap to clone.
#[derive(Clone)]
pub struct Job {
    /// The id of the request: the same on each attempt. Repeats can be recognised by it.
    pub id: RequestId,
    /// The handler that was asked for.
    pub handler: HandlerName,
    /// The client's payload: valid JSON, the same bytes that the client sent.
    pub payload: Bytes,
    /// The client name of the token that submitted it; `None` without authentication.
    pub client: Option<ClientName>,
}

impl Job {
    /// The payload as a `T`.
    ///
    /// # Errors
    /// The payload is no `T`. The failure is final, since every attempt has the same payload.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.payload)
            .map_err(|error| Failure::last(format!("the payload is not as expected: {error}")))
    }
}

// The payload must not get into a log.
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("handler", &self.handler)
            .field("payload", &format_args!("{} bytes", self.payload.len()))
            .field("client", &self.client)
            .finish()
    }
}
