//! The permits of a semaphore as two gauges: those in use, and all of them.

use std::{
    fmt::{self, Error},
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::sync::Semaphore;

/// Read from the semaphore at each scrape. Empty until there is one. Clones share it.
#[derive(Clone)]
pub struct PermitMetrics {
    used: (&'static str, &'static str),
    all: (&'static str, &'static str),
    watched: Arc<OnceLock<Watched>>,
}

struct Watched {
    semaphore: Arc<Semaphore>,
    all: Box<dyn Fn() -> usize + Send + Sync>,
}

impl PermitMetrics {
    /// Gauges of the permits in `use`, and of `all`: the name and the help of each.
    pub fn new(used: (&'static str, &'static str), all: (&'static str, &'static str)) -> Self {
        Self {
            used,
            all,
            watched: Arc::default(),
        }
    }

    /// Shows `semaphore`, which has `all` permits, from now on.
    pub fn watch(&self, semaphore: &Arc<Semaphore>, all: usize) {
        self.watch_changing(semaphore, move || all);
    }

    /// Shows `semaphore` from now on. `all` tells how many permits it has at the time.
    pub fn watch_changing(
        &self,
        semaphore: &Arc<Semaphore>,
        all: impl Fn() -> usize + Send + Sync + 'static,
    ) {
        // A process has one of each.
        let _ = self.watched.set(Watched {
            semaphore: Arc::clone(semaphore),
            all: Box::new(all),
        });
    }
}

impl fmt::Debug for PermitMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PermitMetrics").field(&self.all.0).finish()
    }
}

impl Collector for PermitMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(Watched { semaphore, all }) = self.watched.get() else {
            return Ok(());
        };
        let all = all();
        let used = all.saturating_sub(semaphore.available_permits());
        gauge(&mut encoder, self.used, used)?;
        gauge(&mut encoder, self.all, all)
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    value: usize,
) -> Result<(), Error> {
    let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(gauge)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::registry::Registry;
    use tokio::sync::Semaphore;

    use super::PermitMetrics;
    use crate::services::scrape;

    #[test]
    fn permits_in_use_and_all_permits_are_shown_once_there_is_a_semaphore() {
        let metrics = PermitMetrics::new(("slots_used", "Used."), ("slots", "All."));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics.clone()));
        assert_eq!(scrape::render(&registry), "");

        let semaphore = Arc::new(Semaphore::new(5));
        metrics.watch(&semaphore, 5);
        let _held = semaphore.try_acquire_many(2).unwrap();
        let text = scrape::render(&registry);
        assert!(
            text.contains("\nslots_used 2\n") && text.contains("\nslots 5\n"),
            "{text}"
        );
    }
}
