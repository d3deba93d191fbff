//! The circumstances of one attempt at the work.

use std::time::Duration;

use storm_shared::models::Traceparent;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The attempt's number, its deadline, its trace, and whether it is still wanted.
#[derive(Clone, Debug)]
pub struct Context {
    /// The number of this attempt at the work, from 1.
    pub attempt: u32,
    /// When the attempt is ended: its future is dropped then.
    pub deadline: Instant,
    /// The trace context of the job; that of this attempt, if the trace is recorded.
    pub traceparent: Traceparent,
    /// Cancelled when the attempt is over, however it ends. For what the handler has started
    /// elsewhere, such as a blocking thread, since its own future is dropped.
    pub over: CancellationToken,
}

impl Context {
    /// The time that is left until the deadline.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
