//! Code that the API, the worker and the load generator share.
//!
//! * [`config`]: the settings, and which of them are reread.
//! * [`models`]: the domain types: request id, status, report spec, callback URL, row.
//! * [`services`]: the store, the queue, the report, authentication, the SSRF policy, signatures.
//! * [`duration`] and [`size`]: durations and sizes in settings and options. [`durations`] counts
//!   them by size, for percentiles.
//! * `list`: lists in settings, separated by commas or white space.
//! * [`live`]: a value that is replaced while it is in use.
//! * [`memory`]: the memory budget for the bodies that a process holds.
//! * [`outage`]: logs the start and the end of an outage once each.
//! * [`server`]: the accept loop of every HTTP listener.
//! * [`program`]: a service's process, from its settings to its exit status, with the subcommand
//!   `healthcheck`. [`telemetry`] sets up logging, and [`shutdown`] handles the signals.
//! * [`traces`]: the spans of a job's way, for a collector.
//! * [`uplot`]: the script that draws the plots of our pages. [`palette`]: the colours of these.

pub mod config;
pub mod duration;
pub mod durations;
mod healthcheck;
mod list;
pub mod live;
pub mod memory;
pub mod models;
pub mod outage;
pub mod palette;
pub mod program;
pub mod server;
pub mod services;
pub mod shutdown;
pub mod size;
pub mod telemetry;
pub mod traces;
pub mod uplot;
