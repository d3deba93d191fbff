//! The callback sent to a receiver.

use bytes::Bytes;
use storm_shared::models::{RequestId, Traceparent};

/// A callback. Every attempt sends the same id and body.
#[derive(Clone)]
pub struct Message {
    /// The id of the request. Delivery is at-least-once; receivers deduplicate by this id.
    pub id: RequestId,
    /// The JSON bytes.
    pub body: Bytes,
    /// The request's trace; if it is recorded, with the span of this attempt.
    pub traceparent: Traceparent,
}
