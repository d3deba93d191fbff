//! The metrics of the memory budget, for the `/metrics` of both services.

use std::{
    fmt::Error,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

use super::MemoryBudget;

/// Read from the budget at each scrape. Empty until there is one.
#[derive(Clone, Debug, Default)]
pub struct MemoryMetrics {
    budget: Arc<OnceLock<MemoryBudget>>,
}

impl MemoryMetrics {
    /// Shows `budget` from now on.
    pub fn watch(&self, budget: &MemoryBudget) {
        let _ = self.budget.set(budget.clone()); // a process has one
    }
}

impl Collector for MemoryMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(budget) = self.budget.get() else {
            return Ok(());
        };
        for (name, help, bytes) in [
            (
                "memory_budget",
                "The limit for the bodies of requests and jobs in memory",
                budget.limit(),
            ),
            (
                "memory_reserved",
                "The bodies of requests and jobs in memory",
                budget.reserved(),
            ),
        ] {
            let unit = Some(&Unit::Bytes);
            let gauge = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX)).encode(gauge)?;
        }
        Ok(())
    }
}
