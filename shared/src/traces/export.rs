//! The export of spans: a bounded queue, batches, and what is counted of them.
//!
//! The SDK's thread takes batches from a queue, and sends one after the other. No service waits for
//! it: while the collector is down or slow, spans that find the queue full are dropped.

use std::{
    env,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry::{Context, KeyValue, trace::TracerProvider as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter,
        SpanProcessor,
    },
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{client::Client, plan::Target, recording::record_with};

/// The most time for the flush at the end of the process.
const FLUSH: Duration = Duration::from_secs(2);

/// How often the log says that spans are dropped.
const SILENCE: Duration = Duration::from_mins(1);

/// What has become of this process's spans.
static COUNTS: LazyLock<Counts> = LazyLock::new(Counts::default);

#[derive(Debug, Default)]
struct Counts {
    queued: AtomicUsize,
    /// Those of the batch that is being sent.
    sending: AtomicUsize,
    /// Of those that were dropped, the ones that the log has told of.
    told: AtomicU64,
    exported: Counter,
    dropped: Counter,
}

/// Registers the metrics of traces.
pub fn register(registry: &mut Registry) {
    registry.register(
        "exported_spans",
        "Spans that the collector has taken",
        COUNTS.exported.clone(),
    );
    registry.register(
        "dropped_spans",
        "Spans that were dropped: the queue was full, or the collector did not take them",
        COUNTS.dropped.clone(),
    );
}

/// The export of this process's spans.
#[derive(Debug)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn start(target: Target, service: &str) -> Self {
        let Target {
            origin,
            exporter,
            client,
            queue,
        } = target;
        let exporter = Counted {
            exporter,
            client,
            reported: Mutex::default(),
        };
        // The SDK lowers the size of a batch to that of the queue.
        let batches = BatchConfigBuilder::default().with_max_queue_size(queue);
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Bounded {
                batches: batches.build(),
                queue,
            })
            .with_resource(resource(service))
            .build();
        record_with(provider.tracer("request-storm-handler"));
        info!(collector = origin, "traces are exported");
        Self(Some(provider))
    }

    /// Sends what is queued, for at most 2 s. Spans that end later are dropped.
    pub async fn flush(self) {
        let Some(provider) = self.0 else {
            return;
        };
        // It blocks its thread.
        let _ = spawn_blocking(move || provider.shutdown_with_timeout(FLUSH)).await;
        let left = [&COUNTS.queued, &COUNTS.sending].map(|count| count.load(Ordering::Relaxed));
        let untold = COUNTS.dropped.get() - COUNTS.told.load(Ordering::Relaxed);
        let spans = left.into_iter().sum::<usize>() as u64 + untold;
        if spans > 0 {
            warn!(spans, "the last spans were not exported");
        }
    }
}

/// Who the spans are of. Variables go before what the program knows.
fn resource(service: &str) -> Resource {
    let resource = Resource::builder_empty()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    let name = env::var("OTEL_SERVICE_NAME").ok();
    match name.filter(|name| !name.is_empty()) {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

/// Counts the spans of the SDK's queue, so that none is dropped there uncounted.
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    queue: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        // Relaxed: the count orders nothing else.
        if COUNTS.queued.fetch_add(1, Ordering::Relaxed) >= self.queue {
            COUNTS.queued.fetch_sub(1, Ordering::Relaxed);
            COUNTS.dropped.inc();
            return;
        }
        self.batches.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Counts what becomes of each batch, and says once a minute if spans are dropped.
#[derive(Debug)]
struct Counted {
    exporter: opentelemetry_otlp::SpanExporter,
    client: Client,
    reported: Mutex<Reported>,
}

/// What the log says so far.
#[derive(Debug, Default)]
struct Reported {
    at: Option<Instant>,
    /// Why the collector has not taken spans since.
    error: Option<String>,
}

impl SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = batch.len();
        COUNTS.sending.fetch_add(sent, Ordering::Relaxed);
        COUNTS.queued.fetch_sub(sent, Ordering::Relaxed);
        let exported = self.exporter.export(batch).await;
        let losses = self.client.take_losses();
        let spans = sent as u64;
        let (dropped, error) = match &exported {
            Ok(()) => (losses.rejected.min(spans), losses.error),
            // Without an error of the client, the exporter has not asked it.
            Err(error) => (spans, losses.error.or_else(|| Some(error.to_string()))),
        };
        COUNTS.exported.inc_by(spans - dropped);
        COUNTS.dropped.inc_by(dropped);
        COUNTS.sending.fetch_sub(sent, Ordering::Relaxed);
        self.report(error);
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl Counted {
    fn report(&self, error: Option<String>) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        reported.error = error.or(reported.error.take());
        let dropped = COUNTS.dropped.get();
        let spans = dropped - COUNTS.told.load(Ordering::Relaxed);
        let is_silent = reported.at.is_some_and(|at| at.elapsed() < SILENCE);
        if is_silent || spans == 0 {
            return;
        }
        let error = reported.error.take();
        let error = error.as_deref().unwrap_or("the queue was full");
        warn!(
            spans,
            error, "spans are dropped: the collector does not take them in time"
        );
        COUNTS.told.store(dropped, Ordering::Relaxed);
        reported.at = Some(Instant::now());
    }
}
