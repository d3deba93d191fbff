//! Traces: the spans of a job's way, from its acceptance to its end.
//!
//! They are recorded with the feature `traces`, if an `OTEL_` variable names a collector. Without
//! the feature, a [`Span`] is empty and costs nothing.
//!
//! * [`Span`]: one step. Spans of one job are joined by its traceparent, which the store keeps.
//! * [`Plan`]: the `OTEL_` variables. [`Traces`]: the export, from its start to its flush.

#[cfg(feature = "traces")]
mod client;
#[cfg(feature = "traces")]
mod export;
#[cfg(feature = "traces")]
mod pairs;
#[cfg(feature = "traces")]
mod plan;
#[cfg(feature = "traces")]
mod recording;
#[cfg(feature = "traces")]
mod resolver;
mod stage;
#[cfg(not(feature = "traces"))]
mod without;

use std::fmt::Display;

#[cfg(feature = "traces")]
use self::recording::{Recording, begin};
pub use self::stage::Stage;
#[cfg(not(feature = "traces"))]
pub use self::without::{Moment, Plan, PlanError, Traces, register};
#[cfg(feature = "traces")]
pub use self::{
    export::{Traces, register},
    plan::{Plan, PlanError},
    recording::Moment,
};
#[cfg(not(feature = "traces"))]
use self::{without::Recording, without::begin};
use crate::models::Traceparent;

/// One step of a job's way. A span that is dropped before its [`end`](Span::end) was cut off, and
/// says so.
#[derive(Debug)]
pub struct Span(State);

#[derive(Debug)]
enum State {
    /// No trace is recorded by this process.
    Off,
    /// The sampler, or the caller, has decided against this trace.
    #[cfg_attr(not(feature = "traces"), expect(dead_code, reason = "no sampler"))]
    Unsampled,
    /// Boxed: a job has room for a pointer only.
    #[cfg_attr(not(feature = "traces"), expect(dead_code, reason = "no recorder"))]
    Recording(Box<Recording>),
}

impl Span {
    /// Starts a span below `parent`, or a new trace.
    pub fn start(stage: Stage, parent: Option<Traceparent>) -> Self {
        Self(begin(stage, parent, None))
    }

    /// Starts a span that has begun at `moment`.
    pub fn since(moment: Moment, stage: Stage, parent: Option<Traceparent>) -> Self {
        Self(begin(stage, parent, Some(moment)))
    }

    /// The traceparent for what happens within this span, given that of its parent.
    ///
    /// A span that is not sampled is not named to anybody: nobody would find it. Its parent is, but
    /// as not sampled.
    pub fn passed_on(&self, parent: Option<Traceparent>) -> Option<Traceparent> {
        match &self.0 {
            State::Off => parent,
            State::Unsampled => parent.map(Traceparent::unsampled),
            State::Recording(recording) => Some(recording.traceparent()),
        }
    }

    /// The same for a span that has a parent.
    pub fn passed_on_from(&self, parent: Traceparent) -> Traceparent {
        self.passed_on(Some(parent)).unwrap_or(parent)
    }

    /// Adds an attribute. `value` is shown only if it is recorded.
    pub fn text(&mut self, key: &'static str, value: impl Display) {
        if let State::Recording(recording) = &mut self.0 {
            recording.text(key, value.to_string());
        }
    }

    /// Adds an attribute that is a number.
    pub fn number(&mut self, key: &'static str, value: impl Into<i64>) {
        if let State::Recording(recording) = &mut self.0 {
            recording.number(key, value.into());
        }
    }

    /// The step has failed; `error_type` is one of few words.
    pub fn failed(&mut self, error_type: &str) {
        if let State::Recording(recording) = &mut self.0 {
            recording.failed(error_type);
        }
    }

    /// The step is over.
    pub fn end(self) {
        if let State::Recording(recording) = self.0 {
            recording.end();
        }
    }
}
