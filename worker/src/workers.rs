//! The line of one job, and the loops that feed it.

mod callback_body;
mod callback_worker;
mod drain;
pub mod intake;
mod retries;
mod slots;

pub use callback_worker::{CallbackWorker, Source};
pub use drain::Drain;
pub use retries::Attempt;
