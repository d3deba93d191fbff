//! Traces in a program that was built without them.

use std::env;

use prometheus_client::registry::Registry;
use thiserror::Error;
use tracing::warn;

use super::{Stage, State};
use crate::models::Traceparent;

/// There is none.
#[derive(Debug)]
pub(super) enum Recording {}

impl Recording {
    pub(super) fn traceparent(&self) -> Traceparent {
        match *self {}
    }

    pub(super) fn text(&mut self, _: &'static str, _: String) {
        match *self {}
    }

    pub(super) fn number(&mut self, _: &'static str, _: i64) {
        match *self {}
    }

    pub(super) fn failed(&mut self, _: &str) {
        match *self {}
    }

    pub(super) fn end(self) {
        match self {}
    }
}

pub(super) fn begin(_: Stage, _: Option<Traceparent>, _: Option<Moment>) -> State {
    State::Off
}

/// A moment at which a span may have begun.
#[derive(Clone, Copy, Debug)]
pub struct Moment(());

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self(())
    }
}

/// There is none: no `OTEL_` variable is read.
#[derive(Debug, Error)]
pub enum PlanError {}

/// Whether somebody expects traces.
#[derive(Debug)]
pub struct Plan {
    is_expected: bool,
}

impl Plan {
    /// Looks whether the environment names a collector.
    ///
    /// # Errors
    /// None.
    pub fn from_env() -> Result<Self, PlanError> {
        let names = [
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ];
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        Ok(Self {
            is_expected: names.into_iter().any(is_set),
        })
    }

    /// There is no thread.
    pub fn threads(&self) -> usize {
        0
    }

    /// Nothing is opened.
    pub fn descriptors(&self) -> usize {
        0
    }

    /// Says in the log that there will be no traces, if some are expected.
    pub fn start(self, _service: &str) -> Traces {
        if self.is_expected {
            warn!(
                "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this program was built without traces; \
                 build it with the feature traces"
            );
        }
        Traces(())
    }
}

/// No traces.
#[derive(Debug)]
pub struct Traces(());

impl Traces {
    /// There is nothing to flush.
    pub fn flush(self) -> std::future::Ready<()> {
        std::future::ready(())
    }
}

/// There are no metrics of traces.
pub fn register(_: &mut Registry) {}
