//! The verbs of the store, by who uses them.

mod clients;
#[cfg(feature = "postgres")]
mod moving;
mod operators;
mod workers;
