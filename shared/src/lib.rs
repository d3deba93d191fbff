//! What the three services share, in the order in which a request meets it.
//!
//! * [`config`]: every setting, read once at start.
//! * [`models`]: the words of the domain: an id, a status, a report's spec, a callback's URL, a row.
//! * [`services`]: what works on them: the store, the queue, the report, the address guard.
//! * [`outage`]: logs a change of state once.
//! * [`server`]: the accept loop behind every listener of ours.
//! * [`program`]: a process from its settings to its exit status, and its `healthcheck`; [`telemetry`],
//!   [`shutdown`]: how it speaks, and how it is told to end.

pub mod config;
mod healthcheck;
pub mod models;
pub mod outage;
pub mod program;
pub mod server;
pub mod services;
pub mod shutdown;
pub mod telemetry;
