//! The handlers that come with the worker.

pub mod http;
