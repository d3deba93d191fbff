//! The spans, recorded by the OpenTelemetry SDK.

use std::{sync::OnceLock, time::SystemTime};

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
pub struct Moment(SystemTime);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self(SystemTime::now())
    }
}

/// A span that is sampled.
#[derive(Debug)]
pub(super) struct Recording {
    span: Span,
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
    let mut builder = SpanBuilder::from_name(stage.name()).with_kind(kind(stage));
    builder.start_time = since.map(|Moment(time)| time);
    let context = match parent {
        Some(parent) => Context::new().with_remote_span_context(span_context(parent)),
        None => Context::new(),
    };
    let span = tracer.build_with_context(builder, &context);
    if span.span_context().is_sampled() {
        State::Recording(Box::new(Recording {
            span,
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
        self.span.end();
    }
}
