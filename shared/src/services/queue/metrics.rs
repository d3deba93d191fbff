//! The metrics of Redis and of the notifications, for the `/metrics` of both services.

use std::{
    fmt::Error,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{Count, QueueStatus};

/// Read from the queue's status at each scrape. Empty until there is a queue.
#[derive(Clone, Debug, Default)]
pub struct QueueMetrics {
    status: Arc<OnceLock<Arc<QueueStatus>>>,
}

impl QueueMetrics {
    /// Shows `status` from now on.
    pub fn watch(&self, status: &Arc<QueueStatus>) {
        let _ = self.status.set(Arc::clone(status)); // a process has one queue
    }
}

impl Collector for QueueMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(status) = self.status.get() else {
            return Ok(());
        };
        let help = "Whether Redis did what a task last asked of it, by task";
        let mut up = encoder.encode_descriptor("redis_up", help, None, MetricType::Gauge)?;
        for (task, is_up) in status.links() {
            let gauge = ConstGauge::new(i64::from(is_up));
            gauge.encode(up.encode_family(&[("task", task)])?)?;
        }
        if status.notifies() {
            let help = "Notifications dropped, by reason; workers find these jobs in the table";
            let counts = [
                ("queue_full", &status.overflowed),
                ("redis", &status.unsent),
            ];
            encode_dropped(&mut encoder, "dropped_notifications", help, counts)?;
        }
        if status.reads() {
            let help = "Stream entries read and dropped, by reason";
            let counts = [
                ("foreign", &status.foreign),
                ("malformed", &status.malformed),
            ];
            encode_dropped(&mut encoder, "dropped_entries", help, counts)?;
            let help = "Whether notifications of other databases come, and none of this one";
            let only = encoder.encode_descriptor("foreign_only", help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::from(status.reads_only_foreign())).encode(only)?;
        }
        Ok(())
    }
}

fn encode_dropped(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: [(&str, &Count); 2],
) -> Result<(), Error> {
    let mut dropped = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (why, count) in counts {
        let counter = ConstCounter::new(count.get());
        counter.encode(dropped.encode_family(&[("why", why)])?)?;
    }
    Ok(())
}
