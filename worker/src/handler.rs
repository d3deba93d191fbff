//! Handlers: the work of jobs, apart from everything that a worker does around it.
//!
//! A [`Handler`] gets a [`Job`] and a [`Context`], and returns an [`Output`] or a [`Failure`]. The
//! worker claims the job, limits how many run at a time, ends each attempt at its deadline, retries
//! what failed, stores the result and calls the client back.
//!
//! The handlers that come with the worker are in [`handlers`](crate::handlers).

mod context;
mod failure;
mod job;
mod output;

use std::future::Future;

pub use self::{
    context::Context,
    failure::{Failure, Next},
    job::Job,
    output::{InvalidOutput, Output},
};

/// Does the work of one kind of jobs.
///
/// An attempt is repeated after a crash and after some failures, with the same id and payload. So
/// the work must be safe to do twice.
pub trait Handler: Send + Sync + 'static {
    /// Makes one attempt at the work of `job`. Implementations can be an `async fn`.
    ///
    /// The future is dropped when the attempt is over: at its deadline, at the end of the worker's
    /// drain, or when the job is cancelled.
    ///
    /// # Errors
    /// The attempt has failed. The failure says whether another one follows.
    fn run(
        &self,
        job: &Job,
        context: &Context,
    ) -> impl Future<Output = Result<Output, Failure>> + Send;
}
