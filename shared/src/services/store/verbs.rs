//! The verbs of the store, by who uses them.

mod clients;
mod operators;
mod workers;
