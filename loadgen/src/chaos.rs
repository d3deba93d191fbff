//! `make chaos`: a storm against real processes while everything that can break is broken, and then
//! a judgement of what was seen.
//!
//! * [`run`]: a run from its start to the judgement.
//! * `stack`: one api, two workers, a Redis behind a [`proxy`]; each a [`process`] that dies with
//!   this one ([`tether`]).
//! * `load`, `receivers`: who asks for reports (`orders`), and who is called back.
//! * [`plan`], `faults`: what is broken in which order, and how.
//! * `audit`: what the database itself saw. `journal`: where all that was seen is written down.
//! * [`history`], [`checker`], [`timeline`]: the records of a run, what they must be like, and one
//!   job's story.
//! * [`recovery`]: how quickly jobs went on.

mod audit;
pub mod checker;
mod faults;
pub mod history;
mod host;
mod journal;
mod load;
mod orders;
pub mod plan;
pub mod process;
pub mod proxy;
mod receivers;
pub mod recovery;
mod redis_server;
mod run;
mod service;
mod settle;
mod stack;
pub mod tether;
pub mod timeline;
mod worker;

pub use self::{
    journal::keep,
    run::{ChaosResult, Run, run},
};
