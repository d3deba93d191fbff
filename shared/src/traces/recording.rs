//! The spans, recorded by the OpenTelemetry SDK.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, TraceFlags,
        TraceState, Tracer as _,
    },
};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use super::{Stage, State};
use crate::models::Traceparent;

/// What records the spans of this process; unset if they are not exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// A span that was dropped before its end.
const CUT_OFF: &str = "cut_off";

/// Records from now on. Only the first call of a process has an effect.
pub(super) fn record_with(tracer: SdkTracer) {
    let _ = TRACER.set(tracer);
}

/// A moment at which a span may have begun.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    time: SystemTime,
    instant: Instant,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self {
            time: SystemTime::now(),
            instant: Instant::now(),
        }
    }

    /// Now, as a time that is never before this moment, even if the clock is set meanwhile.
    fn time_now(&self) -> SystemTime {
        self.time + self.instant.elapsed()
    }
}

/// A span that is sampled.
#[derive(Debug)]
pub(super) struct Recording {
    span: Span,
    began: Moment,
    is_over: bool,
}

pub(super) fn begin(stage: Stage, parent: Option<Traceparent>, since: Option<Moment>) -> State {
    TRACER.get().map_or(State::Off, |tracer| {
        begin_with(tracer, stage, parent, since)
    })
}

fn begin_with(
    tracer: &SdkTracer,
    stage: Stage,
    parent: Option<Traceparent>,
    since: Option<Moment>,
) -> State {
    let began = since.unwrap_or_else(Moment::now);
    let builder = SpanBuilder::from_name(stage.name())
        .with_kind(kind(stage))
        .with_start_time(began.time);
    let context = match parent {
        Some(parent) => Context::new().with_remote_span_context(span_context(parent)),
        None => Context::new(),
    };
    let span = tracer.build_with_context(builder, &context);
    if span.span_context().is_sampled() {
        State::Recording(Box::new(Recording {
            span,
            began,
            is_over: false,
        }))
    } else {
        State::Unsampled
    }
}

fn kind(stage: Stage) -> SpanKind {
    match stage {
        Stage::Accept => SpanKind::Server,
        Stage::Claim => SpanKind::Consumer,
        Stage::Attempt => SpanKind::Client,
        Stage::Run | Stage::Settle => SpanKind::Internal,
    }
}

fn span_context(parent: Traceparent) -> SpanContext {
    SpanContext::new(
        parent.trace_number().into(),
        parent.parent_number().into(),
        TraceFlags::new(parent.flags()),
        true,
        TraceState::NONE,
    )
}

impl Recording {
    pub(super) fn traceparent(&self) -> Traceparent {
        let context = self.span.span_context();
        Traceparent::from_numbers(
            u128::from_be_bytes(context.trace_id().to_bytes()),
            u64::from_be_bytes(context.span_id().to_bytes()),
            context.trace_flags().to_u8(),
        )
    }

    pub(super) fn text(&mut self, key: &'static str, value: String) {
        self.span.set_attribute(KeyValue::new(key, value));
    }

    pub(super) fn number(&mut self, key: &'static str, value: i64) {
        self.span.set_attribute(KeyValue::new(key, value));
    }

    pub(super) fn failed(&mut self, error_type: &str) {
        self.text("error.type", error_type.to_owned());
        // The type says it. A description could quote a receiver.
        self.span.set_status(Status::error(""));
    }

    pub(super) fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.is_over {
            self.failed(CUT_OFF);
        }
        self.span.end_with_timestamp(self.began.time_now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use super::Moment;

    #[test]
    fn a_span_ends_after_its_start_although_the_clock_was_set_back() {
        // A start that the clock now has ahead of it.
        let began = Moment {
            time: SystemTime::now() + Duration::from_hours(1),
            instant: Instant::now(),
        };
        assert!(began.time_now() >= began.time);
    }
}
