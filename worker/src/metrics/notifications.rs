//! The metrics of Redis and of the notifications.

use std::{
    fmt::Error,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use storm_shared::services::queue::QueueStatus;

/// Read from the queue's status at each scrape. Empty until there is a queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Notifications {
    status: Arc<OnceLock<Arc<QueueStatus>>>,
}

impl Notifications {
    pub(super) fn watch(&self, status: &Arc<QueueStatus>) {
        let _ = self.status.set(Arc::clone(status)); // a process has one queue
    }
}

impl Collector for Notifications {
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
        let help = "Stream entries read and dropped, by reason";
        let name = "dropped_entries";
        let mut dropped = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (why, count) in [
            ("foreign", &status.foreign),
            ("malformed", &status.malformed),
        ] {
            let counter = ConstCounter::new(count.get());
            counter.encode(dropped.encode_family(&[("why", why)])?)?;
        }
        let help = "Whether notifications of other databases come, and none of this one";
        let name = "foreign_only";
        let only = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(status.reads_only_foreign())).encode(only)
    }
}
