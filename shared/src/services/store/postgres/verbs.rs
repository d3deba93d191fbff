//! The verbs of the store, by who uses them.

mod claims;
mod clients;
mod operators;
mod workers;
