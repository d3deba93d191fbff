//! What is sent to a receiver.

use bytes::Bytes;
use storm_shared::models::{RequestId, Traceparent};

/// A callback: the same on every attempt.
#[derive(Clone)]
pub struct Message {
    /// Which request it tells of; receivers tell repeats by it.
    pub id: RequestId,
    /// The bytes, JSON.
    pub body: Bytes,
    /// The trace that the request belongs to.
    pub traceparent: Traceparent,
}
