//! The line of one job, the loops that feed it, and the lease by which a worker holds its jobs.

mod callback_body;
mod callback_worker;
mod deliver;
mod drain;
pub mod intake;
mod lease;
mod origins;
pub mod parked;
mod pulse;
mod schedule;
mod slots;
pub mod suspects;

pub use callback_worker::{CallbackWorker, ClaimSource};
pub use deliver::Transport;
pub use drain::Drain;
pub use lease::{Lease, Term};
pub use pulse::Pulse;
