//! `make chaos`: fault injection under load against real processes, then a check of the history.
//!
//! * [`run`]: one run, from the start of the stack to the verdict.
//! * `stack`: the APIs, the workers and a Redis behind a [`proxy`]. The kernel kills each
//!   [`process`] when the load generator dies ([`tether`]). [`engine`]: how many there are, with
//!   which database. `servers`: a primary of `PostgreSQL` and its standby.
//! * `load`, `receivers`: the clients, their requests (`orders`) and the callback receivers.
//! * `endpoint`: the HTTP handler's, which does the work of some jobs.
//! * [`plan`], `faults`: the schedule of faults, and their injection.
//! * `clock`: the clock of the run, which can't be set. `wall_clock`: that of the services, which
//!   the run steps.
//! * `audit`: the database's own log of row changes. `journal`: all other observations.
//! * [`history`], [`checker`], [`timeline`]: the records of a run, the rules that they must
//!   satisfy, and the timeline of one job.
//! * [`recovery`]: recovery times, measured from the history. [`course`]: what was accepted,
//!   delivered and broken when.

mod audit;
pub mod checker;
mod clock;
pub mod course;
mod endpoint;
pub mod engine;
mod faults;
pub mod history;
mod host;
mod journal;
mod load;
mod orders;
pub mod plan;
#[cfg(feature = "postgres")]
mod postgres_server;
pub mod process;
pub mod proxy;
mod receivers;
pub mod recovery;
mod redis_server;
mod run;
mod serve;
#[cfg(feature = "postgres")]
mod servers;
mod service;
mod settle;
mod stack;
pub mod tether;
pub mod timeline;
mod wall_clock;
mod worker;

pub use self::{
    journal::keep,
    run::{ChaosResult, Run, run},
};
