//! The callback sent to a receiver.

use bytes::Bytes;
use storm_shared::models::{RequestId, Traceparent};

/// A callback. Every attempt sends the same one.
#[derive(Clone)]
pub struct Message {
    /// The id of the request. Delivery is at-least-once; receivers deduplicate by this id.
    pub id: RequestId,
    /// The JSON bytes.
    pub body: Bytes,
    /// The request's trace.
    pub traceparent: Traceparent,
}
