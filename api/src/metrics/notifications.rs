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
        let help = "Notifications dropped, by reason; workers find these jobs in the table";
        let name = "dropped_notifications";
        let mut dropped = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (why, count) in [
            ("queue_full", &status.overflowed),
            ("redis", &status.unsent),
        ] {
            let counter = ConstCounter::new(count.get());
            counter.encode(dropped.encode_family(&[("why", why)])?)?;
        }
        Ok(())
    }
}
