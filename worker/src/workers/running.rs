//! A worker's loops, from start to graceful shutdown.

use std::{sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use storm_shared::{
    config::Settings,
    services::{
        queue::{NotificationReader, Queue},
        store::{Store, StoreError},
    },
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    callback_worker::CallbackWorker,
    drain::Drain,
    handler_loops::HandlerLoops,
    intake::{self, Intake},
    lease::Lease,
    parked,
    parts::Parts,
    quarantine, retention, strays,
    watchdog::Watchdogs,
};
use crate::{delivery::Transport, handlers::Handlers, metrics::Metrics};

/// How often the write that returns unfinished jobs is tried again at the end.
const GIVE_BACK_TRIES: usize = 3;

/// How long all of that may take. A try may wait for a lock, or for a server that is gone without a
/// word, and the process must exit before its supervisor kills it, which is 10 seconds after
/// `DRAIN_TIMEOUT` by default.
const GIVE_BACK_TIMEOUT: Duration = Duration::from_secs(4);

/// How long the loops may take beyond `DRAIN_TIMEOUT`, which can be 0: they acknowledge entries
/// that were read.
const LOOPS_TIMEOUT: Duration = Duration::from_secs(2);

/// A running worker.
pub struct Running {
    lease: Arc<Lease>,
    drain: Drain,
    loops: JoinSet<()>,
    heartbeat: JoinSet<()>,
    stop_heartbeat: CancellationToken,
    watchdogs: Watchdogs,
}

impl Running {
    /// Starts to claim and process jobs of `handlers`, until `shutdown`. Without a `queue`, jobs
    /// are found by polling the table.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(
        store: &Store,
        queue: Option<&Queue>,
        transport: Arc<dyn Transport>,
        settings: &Settings,
        handlers: Handlers,
        metrics: &Metrics,
        shutdown: CancellationToken,
    ) -> Self {
        let parts = Parts::new(store, settings, handlers, metrics, shutdown);
        let mut running = Self {
            lease: Arc::clone(&parts.lease),
            drain: parts.drain.clone(),
            loops: JoinSet::new(),
            heartbeat: JoinSet::new(),
            stop_heartbeat: CancellationToken::new(),
            watchdogs: Watchdogs::default(),
        };
        running.start_heartbeat(&parts);
        running.start_loops(parts, queue, transport, settings);
        running
    }

    fn start_heartbeat(&mut self, parts: &Parts) {
        let stop = self.stop_heartbeat.clone();
        let heartbeat = Arc::clone(&self.lease).keep(parts.reporter(), stop);
        self.heartbeat.spawn(heartbeat);
    }

    fn start_loops(
        &mut self,
        parts: Parts,
        queue: Option<&Queue>,
        transport: Arc<dyn Transport>,
        settings: &Settings,
    ) {
        let Parts {
            store,
            slots,
            memory,
            shares,
            handlers,
            origins,
            pauses,
            next_due,
            drain,
            metrics,
            in_hand,
            ..
        } = parts.clone();
        let worker = Arc::new(CallbackWorker::new(parts, transport, settings));
        let interval = match queue {
            Some(_) => intake::INTERVAL,
            None => settings.worker.poll_interval,
        };
        let intake = || Intake {
            worker: Arc::clone(&worker),
            store: store.clone(),
            slots: slots.clone(),
            memory: memory.clone(),
            shares: shares.clone(),
            gate: None,
            park_max: settings.callback.park_max,
            handlers: handlers.clone(),
            pauses: pauses.clone(),
            drain: drain.clone(),
            interval,
            watchdog: self.watchdogs.start(),
        };
        let (due, suspects, common) = (intake(), intake(), intake());
        let notified = queue.map(|queue| (intake(), queue.clone()));
        // The name of the consumer outlives a lost lease: it only has to be unique among the
        // workers.
        let consumer = self.lease.term().owner.to_string();
        if let Some((intake, queue)) = notified {
            let reader = NotificationReader::new(queue, consumer.clone());
            self.loops.spawn(intake::from_notifications(intake, reader));
        }
        let queue_status = queue.map(|queue| Arc::clone(queue.status()));
        let table = intake::from_table(due, next_due.clone(), queue_status);
        self.loops.spawn(table);
        self.loops
            .spawn(quarantine::from_table(suspects, Arc::clone(&self.lease)));
        let of_handlers = HandlerLoops {
            common,
            handlers,
            queue: queue.cloned(),
            consumer,
            drain: drain.clone(),
            watchdogs: self.watchdogs.clone(),
        };
        self.loops.spawn(of_handlers.run());
        if let Some(keep) = settings.store.retention {
            let lease = Arc::clone(&self.lease);
            let sweep = retention::sweep(store.clone(), keep, lease, drain.clone(), metrics);
            self.loops.spawn(sweep);
        }
        let strays = strays::release(
            store.clone(),
            Arc::clone(&self.lease),
            in_hand,
            drain.clone(),
        );
        self.loops.spawn(strays);
        let resumed =
            parked::release_resumed(store.clone(), pauses, next_due.clone(), drain.clone());
        self.loops.spawn(resumed);
        let release = parked::release(store, origins.clone(), next_due, drain.clone());
        self.loops.spawn(release);
        self.loops.spawn(parked::sweep_origins(origins, drain));
    }

    /// The lease that holds its jobs.
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// The watchdogs of the loops that claim jobs.
    pub fn watchdogs(&self) -> &Watchdogs {
        &self.watchdogs
    }

    /// Completes when a loop or the heartbeat has ended. Only a loop ends without an error, and
    /// only at shutdown; everything else is a panic, which was logged where it happened.
    pub async fn part_ended(&mut self) -> bool {
        tokio::select! {
            ended = self.loops.join_next() => matches!(ended, Some(Ok(()))),
            _ = self.heartbeat.join_next() => false,
        }
    }

    /// Ends the jobs at once: nothing that they do could be stored.
    pub fn cut_off(&self) {
        self.drain.cut_off();
    }

    /// Completes when the drain is over: every job has ended or was cut off.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        let drain = self.drain.clone();
        async move { drain.over().await }
    }

    /// Drains: waits for the running jobs until `DRAIN_TIMEOUT`, then returns the rest to the
    /// table. Called after `shutdown`.
    pub async fn finish(mut self) {
        // The loops first: what they still claim must be among the jobs that the drain waits for.
        // One that waits for the database has no more to do.
        let ended = async { while self.loops.join_next().await.is_some() {} };
        let are_late = async {
            self.drain.over().await;
            sleep(LOOPS_TIMEOUT).await;
        };
        tokio::select! {
            () = ended => {}
            () = are_late => self.loops.shutdown().await,
        }
        // The heartbeat continues while jobs run, or another worker would reclaim them.
        let unfinished = self.drain.finish().await;
        self.stop_heartbeat.cancel();
        while self.heartbeat.join_next().await.is_some() {}
        // After the last heartbeat, which would find its row gone and register again. One that is
        // under way in the database can leave a row without jobs, which another worker deletes.
        self.give_back(unfinished).await;
    }

    /// Returns all unfinished jobs to the table, in one write.
    async fn give_back(&self, unfinished: usize) {
        // Without jobs nothing depends on the write, so a locked database delays the end only once.
        let tries = if unfinished == 0 { 0 } else { GIVE_BACK_TRIES };
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_times(tries);
        let resigned = (|| self.lease.deregister())
            .retry(backoff)
            .when(|error| !matches!(error, StoreError::Closed));
        let error = match timeout(GIVE_BACK_TIMEOUT, resigned).await {
            Ok(Ok(0)) => return,
            Ok(Ok(jobs)) => return info!(jobs, "unfinished jobs returned to the table"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                let seconds = GIVE_BACK_TIMEOUT.as_secs();
                format!("the database has not answered within {seconds} s")
            }
        };
        if unfinished == 0 {
            info!(%error, "this worker's row stays; another worker deletes it after a lease");
        } else {
            error!(%error, "unfinished jobs could not be returned; others reclaim them after a lease");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use storm_shared::{config::Settings, services::store::Store};
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::Running;
    use crate::{
        delivery::{CallbackClient, Network},
        handlers::{Handlers, http::HttpClient},
        metrics::Metrics,
    };

    /// Until each watchdog has ticked after `since`.
    async fn until_all_tick(running: &Running, since: Instant) {
        while running.watchdogs().longest_silence() >= since.elapsed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn starts_and_ticks(handlers: &[(&str, &str)]) {
        let folder = tempfile::TempDir::new().unwrap();
        let url = format!("sqlite:{}", folder.path().join("storm.db").display());
        let base = [("DB_URL", url.as_str()), ("REDIS_URL", "none")];
        let settings = Settings::with(base.iter().chain(handlers).copied()).unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        let callback = &settings.callback;
        let (policy, timeout) = (callback.policy.clone(), callback.timeout);
        let client = CallbackClient::new(policy, Network::system(), timeout, None).unwrap();
        let endpoints = HttpClient::new(Network::system(), None).unwrap();
        let shutdown = CancellationToken::new();
        let running = Running::start(
            &store,
            None,
            Arc::new(client),
            &settings,
            Handlers::without_code(&settings, endpoints).unwrap(),
            &Metrics::new(),
            shutdown.clone(),
        );
        // Twice: those of handlers start a little later.
        for _ in 0..2 {
            let ticked = until_all_tick(&running, Instant::now());
            let ticked = tokio::time::timeout(Duration::from_mins(1), ticked).await;
            assert!(ticked.is_ok(), "a watchdog never ticks");
        }
        shutdown.cancel();
        running.finish().await;
        store.close().await;
    }

    #[tokio::test]
    async fn an_idle_worker_ticks_all_its_watchdogs_with_and_without_handlers() {
        starts_and_ticks(&[]).await;
        starts_and_ticks(&[("HANDLERS__PDF__URL", "http://127.0.0.1:1/")]).await;
    }
}
