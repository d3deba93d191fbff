//! What the job pipeline shares with the loops that feed it.

use std::sync::Arc;

use storm_shared::{
    config::Settings, memory::MemoryBudget, models::WorkerReport, services::store::Store,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    drain::Drain, in_hand::InHand, lease::Lease, next_due::NextDue, origins::Origins,
    pauses::KnownPauses, shares::Shares, slots::Slots,
};
use crate::{handlers::Handlers, metrics::Metrics};

/// Cheap handles; clones share their state.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) lease: Arc<Lease>,
    pub(super) in_hand: InHand,
    pub(super) slots: Slots,
    /// For the inputs and results of the claimed jobs.
    pub(super) memory: MemoryBudget,
    pub(super) shares: Shares,
    pub(super) handlers: Handlers,
    pub(super) origins: Origins,
    pub(super) pauses: KnownPauses,
    pub(super) next_due: NextDue,
    pub(super) drain: Drain,
    pub(super) metrics: Metrics,
}

impl Parts {
    pub(super) fn new(
        store: &Store,
        settings: &Settings,
        handlers: Handlers,
        metrics: &Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        let (worker, callback) = (&settings.worker, &settings.callback);
        let slots = Slots::new(worker.concurrency, worker.max_claims);
        let next_due = NextDue::new();
        let in_hand = InHand::default();
        let memory = handlers.memory().clone();
        metrics.watch_memory(&memory);
        let pauses = KnownPauses::default();
        let shares = Shares::common(slots.all(), handlers.concurrency(), next_due.clone());
        let of_breakers = handlers.clone();
        metrics.watch_handler_breakers(move || of_breakers.troubled().len());
        metrics.watch_slots(slots.permits());
        metrics.watch_long_jobs(shares.long());
        let drain = Drain::new(shutdown, worker.drain_timeout);
        tokio::spawn({
            let (drain, in_hand) = (drain.clone(), in_hand.clone());
            async move {
                drain.over().await;
                in_hand.end();
            }
        });
        Self {
            store: store.clone(),
            lease: Lease::new(
                store.clone(),
                worker.lease,
                worker.max_claims,
                in_hand.clone(),
                handlers.clone(),
                pauses.clone(),
                metrics.clone(),
            ),
            in_hand,
            origins: Origins::new(
                callback.per_origin,
                callback.park_max,
                slots.clone(),
                pauses.clone(),
                metrics.clone(),
            ),
            pauses,
            shares,
            handlers,
            slots,
            memory,
            next_due,
            drain,
            metrics: metrics.clone(),
        }
    }

    /// Makes the worker's reports, which count from now.
    pub(super) fn reporter(&self) -> impl Fn() -> WorkerReport + Send + use<> {
        let (metrics, slots) = (self.metrics.clone(), self.slots.clone());
        let (origins, begun) = (self.origins.clone(), Instant::now());
        let lease_ms = u64::try_from(self.lease.length().as_millis()).ok();
        move || {
            let [all, free] =
                [slots.all(), slots.free()].map(|it| u32::try_from(it).unwrap_or(u32::MAX));
            let mut report = WorkerReport {
                slots: all,
                slots_used: all.saturating_sub(free),
                lease_ms,
                ..metrics.report(begun.elapsed())
            };
            report.set_receivers(origins.receivers());
            report
        }
    }
}
