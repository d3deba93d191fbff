//! What a worker does with jobs, from the claim to the settlement.
//!
//! * `callback_worker`: the job pipeline: claim, run, deliver, settle. `repeat`: writes whose
//!   outcome is unknown. `in_hand`: the jobs that are claimed or run right now.
//! * `deliver`: one attempt at its destination; it returns a `Settlement`.
//! * `origins`: bulkheads between receivers and between tenants: concurrency limit, circuit
//!   breaker, pacing. `shares`: whose jobs get the slots.
//! * `work`: one attempt at the work, by the job's handler.
//! * `resends`: the record of a callback that goes out twice within an attempt. `shortages`: what
//!   happens when the worker itself lacks something.
//! * `intake`, `quarantine`: the loops that find jobs to claim. `parked` releases jobs of receivers
//!   that have recovered.
//! * `handler_loops`: the loops that find jobs for each handler.
//! * `pauses`: what operators have paused.
//! * `retention`: the loop that deletes requests that ended long ago. `strays`: the loop that
//!   returns jobs which the lease holds and the worker does not have.
//! * `slots`: the concurrency limit of the worker. `lease`: its right to hold jobs.
//! * `waits`: how long jobs have waited, for the metrics. `spans`: what traces say of a job.
//! * `running`: all of that, from start to graceful shutdown (`drain`). `parts`: what its pieces
//!   share.

mod callback_worker;
mod deliver;
mod drain;
mod handler_loops;
mod in_hand;
mod intake;
mod lease;
mod next_due;
mod origins;
mod parked;
mod parts;
mod pauses;
mod quarantine;
mod repeat;
mod resends;
mod retention;
mod running;
mod shares;
mod shortages;
mod slots;
mod spans;
mod strays;
mod waits;
mod watchdog;
mod work;

#[cfg(test)]
pub(crate) use in_hand::InHand;
pub use lease::Lease;
pub use pauses::KnownPauses;
pub use running::Running;
pub use watchdog::{Watchdog, Watchdogs};
