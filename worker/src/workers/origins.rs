//! Bulkheads between receivers: what one origin (scheme, host, port) may use of a worker.
//!
//! A job asks for admission before its attempt:
//!
//! * `breaker`: a circuit breaker. While it is open, jobs are parked, except for one probe at a
//!   time.
//! * A concurrency limit: attempts beyond it wait for a permit, first come, first served, each in
//!   the worker slot that its job holds. An origin may hold as many slots as are free. So one
//!   origin takes at most half of a worker, and two at most three quarters: there is room for
//!   another.
//! * `pacer`: jobs beyond that are parked until a permit is likely to be free.
//!
//! A parked job waits in the table. Parking is no attempt: it costs the job nothing but time.

mod breaker;
mod pacer;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use storm_shared::models::Origin;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tracing::{info, warn};

use self::{breaker::Breaker, pacer::Pacer};
use super::slots::Slots;
use crate::{
    delivery::ConnectionPermit,
    metrics::{Metrics, ParkReason},
};

pub(super) use self::breaker::Signal;

/// Slots that an origin may hold however few are free; half of all slots where that is less.
const MIN_SLOTS: usize = 16;

/// Beyond this number of origins, idle ones are forgotten with their failure counts.
const MAX_ORIGINS: usize = 10_000;

/// An idle origin is forgotten after this time. Jobs parked by an open breaker ask at least twice
/// as often, so by then it has none.
const IDLE_TIME: Duration = Duration::from_mins(1);

/// The interval between two sweeps for idle origins.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The state of every origin that is being called or has failed. Clones share it.
#[derive(Clone)]
pub(super) struct Origins {
    shared: Arc<Shared>,
}

struct Shared {
    /// Concurrent attempts to one origin: `CALLBACK_PER_ORIGIN`.
    limit: usize,
    /// How long a job may be parked in all: `CALLBACK_PARK_MAX`.
    park_max: Duration,
    slots: Slots,
    metrics: Metrics,
    state: Mutex<State>,
    recovery: Notify,
}

#[derive(Default)]
struct State {
    origins: HashMap<Origin, OriginState>,
    /// Origins whose breaker has closed, until [`Origins::next_recovered`] takes them.
    recovered: Vec<Origin>,
}

struct OriginState {
    /// One permit a connection. A connection can outlive its job, and so can its permit.
    permits: Arc<Semaphore>,
    /// Jobs that hold a permit or wait for one.
    jobs: usize,
    breaker: Breaker,
    pacer: Pacer,
    last_asked: Instant,
}

/// A job that was admitted to an origin, until it is dropped.
pub(super) struct Admitted {
    shared: Arc<Shared>,
    origin: Origin,
    permit: Option<ConnectionPermit>,
    since: Instant,
    /// Whether this attempt decides if the breaker closes.
    is_probe: bool,
}

impl Origins {
    /// No origins yet. `slots` are those of the worker.
    pub(super) fn new(limit: usize, park_max: Duration, slots: Slots, metrics: Metrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                limit,
                park_max,
                slots,
                metrics,
                state: Mutex::default(),
                recovery: Notify::new(),
            }),
        }
    }

    /// Admits an attempt to `origin`, for a job that has been parked for `parked_for` so far; or
    /// returns how long to park it.
    pub(super) async fn admit(
        &self,
        origin: &Origin,
        parked_for: Duration,
    ) -> Result<Admitted, Duration> {
        // Parking is bounded: a job whose budget is used up passes an open breaker.
        let park_budget = self.shared.park_max.saturating_sub(parked_for);
        let (mut admitted, permits) = self.enter(origin, park_budget)?;
        // A job that is cut off while it waits here drops `admitted`, which counts it out.
        #[expect(clippy::expect_used, reason = "no code closes these semaphores")]
        let permit = permits.acquire_owned().await.expect("never closed");
        admitted.begin(permit, park_budget)?;
        Ok(admitted)
    }

    /// The next origin whose breaker has closed again.
    pub(super) async fn next_recovered(&self) -> Origin {
        loop {
            // Registered before the look, so that a recovery in between is not missed.
            let recovery = self.shared.recovery.notified();
            if let Some(origin) = self.shared.lock().recovered.pop() {
                return origin;
            }
            recovery.await;
        }
    }

    /// Sweeps idle origins for ever.
    pub(super) async fn sweep_forever(&self) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.shared.sweep();
        }
    }

    /// Counts the job in, if the breaker and the slots let it in; or returns how long to park it.
    fn enter(
        &self,
        name: &Origin,
        park_budget: Duration,
    ) -> Result<(Admitted, Arc<Semaphore>), Duration> {
        let shared = &self.shared;
        let mut state = shared.lock();
        let now = Instant::now();
        let origin = state.origin(name, shared.limit);
        if let Some(wait) = origin.breaker.park(now, park_budget) {
            shared.metrics.parked(ParkReason::OriginDown);
            return Err(wait);
        }
        // Without a minimum, a worker whose slots are all taken would park every job.
        let min_slots = MIN_SLOTS.min(shared.slots.all() / 2).max(1);
        if origin.jobs >= shared.slots.free().max(min_slots) {
            shared.metrics.parked(ParkReason::OriginBusy);
            return Err(origin.pacer.next_delay(now, shared.limit, shared.park_max));
        }
        origin.jobs += 1;
        // Counted before the permit is awaited: waiting jobs hold slots, too.
        let permits = Arc::clone(&origin.permits);
        let admitted = Admitted {
            shared: Arc::clone(shared),
            origin: name.clone(),
            permit: None,
            since: now,
            is_probe: false,
        };
        Ok((admitted, permits))
    }
}

impl Admitted {
    /// The permit for the attempt's connection.
    pub(super) fn take_permit(&mut self) -> ConnectionPermit {
        #[expect(
            clippy::expect_used,
            reason = "`admit` sets it and the deliverer takes it once"
        )]
        self.permit.take().expect("one attempt an admission")
    }

    /// Records the attempt's result. An admission dropped without one leaves the breaker as it is.
    pub(super) fn record(mut self, signal: Signal) {
        let is_probe = std::mem::take(&mut self.is_probe);
        let (was_open, is_open) = self.with_origin(|origin, now| {
            if signal != Signal::Ignored {
                origin.pacer.attempt_took(now - self.since);
            }
            // Compared under one lock, so that each change is logged and counted once.
            let was_open = origin.breaker.is_open();
            origin.breaker.record(signal, is_probe, now);
            (was_open, origin.breaker.is_open())
        });
        let (shared, origin) = (&self.shared, &self.origin);
        if is_open && !was_open {
            shared.metrics.breaker_opened();
            warn!(%origin, "circuit breaker opened: callbacks to this origin are parked");
        } else if was_open && !is_open {
            shared.metrics.breaker_closed();
            info!(%origin, "circuit breaker closed: callbacks to this origin resume");
            shared.lock().recovered.push(origin.clone());
            shared.recovery.notify_one();
        }
    }

    /// Begins the attempt with its permit, unless the breaker has opened while the job waited for
    /// it.
    fn begin(&mut self, permit: ConnectionPermit, park_budget: Duration) -> Result<(), Duration> {
        self.permit = Some(permit);
        self.since = Instant::now();
        self.is_probe = self
            .with_origin(|origin, now| origin.breaker.begin(now, park_budget))
            .inspect_err(|_| self.shared.metrics.parked(ParkReason::OriginDown))?;
        Ok(())
    }

    /// The origin exists as long as a job is counted in it.
    fn with_origin<T>(&self, act: impl FnOnce(&mut OriginState, Instant) -> T) -> T {
        let mut state = self.shared.lock();
        let origin = state.origin(&self.origin, self.shared.limit);
        act(origin, Instant::now())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.permit = None; // before the origin is checked for permits that are out
        let mut state = self.shared.lock();
        let Some(origin) = state.origins.get_mut(&self.origin) else {
            return;
        };
        if self.is_probe {
            // Cut off without a result: the next attempt is the probe.
            origin.breaker.probe_cut_off(Instant::now());
        }
        origin.jobs -= 1;
        // An origin without failures need not be remembered: this bounds the map by the origins in
        // use.
        if origin.is_idle(self.shared.limit) && origin.breaker.is_untroubled() {
            state.origins.remove(&self.origin);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No change under this lock can be left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets idle origins: those without failures, those not asked for in a while, and, when
    /// there are too many, all others.
    fn sweep(&self) {
        let mut state = self.lock();
        let (now, full) = (Instant::now(), state.origins.len() > MAX_ORIGINS);
        state.origins.retain(|_, origin| {
            let is_recent = now - origin.last_asked < IDLE_TIME;
            let keep = !origin.is_idle(self.limit)
                || (is_recent && !full && !origin.breaker.is_untroubled());
            // The gauge counts open breakers: it would count a forgotten one for ever.
            if !keep && origin.breaker.is_open() {
                self.metrics.breaker_closed();
            }
            keep
        });
    }
}

impl OriginState {
    fn new(limit: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limit)),
            jobs: 0,
            breaker: Breaker::closed(),
            pacer: Pacer::new(),
            last_asked: Instant::now(),
        }
    }

    /// Whether no job is counted in it and no connection to it is busy.
    fn is_idle(&self, limit: usize) -> bool {
        self.jobs == 0 && self.permits.available_permits() == limit
    }
}

impl State {
    fn origin(&mut self, name: &Origin, limit: usize) -> &mut OriginState {
        let origin = self.origins.entry(name.clone());
        let origin = origin.or_insert_with(|| OriginState::new(limit));
        origin.last_asked = Instant::now();
        origin
    }
}

#[cfg(test)]
mod tests;
