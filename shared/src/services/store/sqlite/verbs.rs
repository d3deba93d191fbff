//! The verbs of the engine, by who uses them: which connection runs each. The files beside hold
//! their SQL.

mod clients;
mod operators;
mod workers;
