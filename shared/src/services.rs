//! The services that work on the models, in the order in which a job meets them.

pub mod access;
pub mod health;
pub mod host_check;
pub mod marker;
pub mod problem;
pub mod queue;
pub mod readiness;
pub mod report;
pub mod scrape;
pub mod signature;
pub mod ssrf;
pub mod store;
