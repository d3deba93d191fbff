//! The sampler: takes the figures once a second while somebody watches.

use std::sync::Arc;

use storm_shared::{
    live::Live,
    services::store::{Overview, Pauses},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    Now, PERIOD, Shared, Update, WorkerRate, reads::StoreReader, receivers::receivers,
    sample::Differences,
};
use crate::{
    handler_watch::{HandlerWatch, Loads},
    handlers::KnownHandlers,
    metrics::Metrics,
    pauses::PauseWatch,
};

pub(super) struct Sampler {
    shared: Arc<Shared>,
    reader: StoreReader,
    metrics: Metrics,
    pauses: Box<dyn Fn() -> Pauses + Send + Sync>,
    handlers: KnownHandlers,
    loads: Live<Option<Loads>>,
    differences: Differences,
    /// When the last sample was taken.
    last: Instant,
    /// What was read last, and the rates of its workers.
    read: Overview,
    rates: Vec<Option<WorkerRate>>,
}

impl Sampler {
    pub(super) fn new(
        shared: Arc<Shared>,
        reader: StoreReader,
        metrics: Metrics,
        pauses: &PauseWatch,
        handlers: KnownHandlers,
        handler_watch: &HandlerWatch,
    ) -> Self {
        Self {
            shared,
            reader,
            metrics,
            pauses: Box::new(pauses.reader()),
            handlers,
            loads: handler_watch.live(),
            differences: Differences::default(),
            last: Instant::now(),
            read: Overview::default(),
            rates: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) {
        let mut came = self.shared.came.subscribe();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            came.borrow_and_update();
            if self.shared.watched().is_none() {
                // Rates over the time that nobody watched would say nothing.
                self.differences = Differences::default();
                // The sender lives in `shared`.
                let _ = came.changed().await;
                continue;
            }
            ticks.tick().await;
            let update = self.take().await;
            self.shared.publish(update);
        }
    }

    async fn take(&mut self) -> Update {
        if let Some(read) = self.reader.next().await {
            self.read = read;
            self.rates = self.differences.of_workers(&self.read.workers);
        }
        let is_stale = self.reader.is_stale();
        if is_stale {
            // What they do now is not known.
            self.rates = vec![None; self.read.workers.len()];
        }
        let elapsed = self.last.elapsed();
        self.last = Instant::now();
        let mut figures = self.metrics.live();
        if is_stale {
            figures.oldest_due = None;
        }
        let sample = self.differences.sample(figures, elapsed, &self.rates);
        let pauses = (self.pauses)();
        let workers = self.read.workers.iter().cloned();
        let now = Now {
            is_stale,
            receivers: receivers(&self.read, &pauses),
            pauses,
            workers: workers.zip(self.rates.iter().cloned()).collect(),
            handlers: self.handlers.current(),
            loads: self.loads.get(),
            failures: self.shared.state().failures.clone(),
        };
        Update {
            sample,
            now: Arc::new(now),
        }
    }
}
