//! Bulkheads between receivers and between tenants: what each may use of a worker.
//!
//! What refuses or delays a job is kept by destination: a tenant's origin (scheme, host, port). So
//! no tenant's failures delay another tenant's jobs for the same origin. A job asks for admission
//! before its attempt:
//!
//! * `breaker`: a circuit breaker. While it is open, the destination's jobs are parked, except for
//!   one probe at a time.
//! * `holder`: the slots. A destination may hold as many as are free. So one takes at most half of
//!   a worker, and two at most three quarters: there is room for another. A tenant takes at most
//!   seven eighths, however many destinations it has: there is room for another tenant.
//! * A concurrency limit. It protects the receiver, so it is the origin's, shared fairly between
//!   the tenants that call it. Attempts beyond it wait for a permit, each in the worker slot that
//!   its job holds.
//! * `pauses`: while an operator has paused the origin, its jobs are parked.
//! * `line`: jobs for which there is no room wait for it, if it is likely to come in a moment.
//! * `pacer`: the others are parked until it is likely.
//!
//! A parked job waits in the table. Parking is no attempt: it costs the job nothing but time. A job
//! that has been parked for `CALLBACK_PARK_MAX` is overdue: it passes an open breaker, and goes
//! before its destination's other jobs where slots are short. So every job gets its attempt.

mod holder;
mod line;
mod pacer;
mod state;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use storm_shared::models::{ClientName, Destination, ReceiverReport};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tracing::{info, warn};

use self::{
    line::Order,
    state::{Entrant, Park, Refusal, State},
};
use super::{pauses::KnownPauses, slots::Slots};
use crate::{
    breaker::Signal,
    delivery::{ConnectionPermit, TenantPermits},
    metrics::{Metrics, ParkReason},
};

/// The interval between two sweeps for idle destinations.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long a job is parked at a time, at most, while its origin is paused. It asks again after
/// that: no worker may have been there to release it when the pause ended.
const PAUSE_PARK_TIME: Duration = Duration::from_mins(5);

/// The state of every destination that is being called or has failed. Clones share it.
#[derive(Clone)]
pub(super) struct Origins {
    shared: Arc<Shared>,
}

struct Shared {
    /// How long a job may be parked in all: `CALLBACK_PARK_MAX`.
    park_max: Duration,
    slots: Slots,
    pauses: KnownPauses,
    metrics: Metrics,
    state: Mutex<State>,
    /// Destinations whose breaker has closed, until [`Origins::next_recovered`] takes them.
    recovered: Mutex<HashSet<Destination>>,
    recovery: Notify,
}

/// A job that waits in line for room at its destination, until it is dropped.
struct Waiting {
    shared: Arc<Shared>,
    destination: Destination,
}

/// A job that was admitted to its destination, until it is dropped.
pub(super) struct Admitted {
    shared: Arc<Shared>,
    destination: Destination,
    permit: Option<ConnectionPermit>,
    since: Instant,
    /// Whether this attempt decides if the breaker closes.
    is_probe: bool,
}

impl Origins {
    /// No destinations yet. `limit` (`CALLBACK_PER_ORIGIN`) bounds the attempts to one origin at a
    /// time. `slots` are those of the worker. [`Origins::paused`] goes by `pauses`.
    pub(super) fn new(
        limit: usize,
        park_max: Duration,
        slots: Slots,
        pauses: KnownPauses,
        metrics: Metrics,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                park_max,
                slots,
                pauses,
                metrics,
                state: Mutex::new(State::new(limit)),
                recovered: Mutex::default(),
                recovery: Notify::new(),
            }),
        }
    }

    /// Admits an attempt to `destination`, for a job that has been parked for `parked_for` so far;
    /// or returns how long to park it.
    pub(super) async fn admit(
        &self,
        destination: Destination,
        parked_for: Duration,
    ) -> Result<Admitted, Duration> {
        // Parking is bounded: a job whose budget is used up passes an open breaker.
        let park_budget = self.shared.park_max.saturating_sub(parked_for);
        let (mut admitted, permits) = self.enter(destination, park_budget).await?;
        // A job that is cut off while it waits here drops `admitted`, which counts it out.
        let permit = permits.acquire().await;
        admitted.begin(permit, park_budget)?;
        Ok(admitted)
    }

    /// How long to park a job because an operator has paused its origin, if that is so, however
    /// long it has been parked: when the pause ends, it is released. Asked before
    /// [`Origins::admit`], and before the attempt.
    pub(super) fn paused(&self, destination: &Destination) -> Option<Duration> {
        if !self.shared.pauses.holds(&destination.origin) {
            return None;
        }
        self.shared.metrics.parked(ParkReason::Paused);
        Some(PAUSE_PARK_TIME)
    }

    /// Receivers for the worker's report.
    pub(super) fn receivers(&self) -> Vec<ReceiverReport> {
        lock(&self.shared.state).receivers()
    }

    /// The next destination whose breaker has closed again.
    pub(super) async fn next_recovered(&self) -> Destination {
        loop {
            // Registered before the look, so that a recovery in between is not missed.
            let recovery = self.shared.recovery.notified();
            if let Some(destination) = self.shared.take_recovered() {
                return destination;
            }
            recovery.await;
        }
    }

    /// Sweeps idle destinations for ever.
    pub(super) async fn sweep_forever(&self) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            self.shared.sweep();
        }
    }

    /// Counts the job in, if the breaker and the slots let it in at once or after a short wait; or
    /// returns how long to park it.
    async fn enter(
        &self,
        destination: Destination,
        park_budget: Duration,
    ) -> Result<(Admitted, TenantPermits), Duration> {
        let entrant = self.shared.entrant(park_budget);
        let entered = lock(&self.shared.state).enter(&destination, &entrant);
        let permits = match entered {
            Ok(permits) => permits,
            Err(Refusal::Park(park)) => return Err(self.shared.parked(park)),
            Err(Refusal::Wait(order, until)) => {
                let waiting = Waiting {
                    shared: Arc::clone(&self.shared),
                    destination,
                };
                // On the heap: most jobs never wait, and each would have room for it.
                return Box::pin(waiting.enter(park_budget, order, until)).await;
            }
        };
        Ok((Admitted::new(&self.shared, destination), permits))
    }
}

impl Waiting {
    /// Counts the job in when it is the first in line and there is room; or returns how long to
    /// park it, if the time is over or the breaker has opened.
    async fn enter(
        self,
        park_budget: Duration,
        order: Arc<Order>,
        until: Instant,
    ) -> Result<(Admitted, TenantPermits), Duration> {
        let (shared, destination) = (&self.shared, &self.destination);
        let entering = order.wait(|| {
            let entrant = shared.entrant(park_budget);
            let mut state = lock(&shared.state);
            state.enter_from_line(destination, &entrant).transpose()
        });
        let entered = timeout_at(until, entering).await.unwrap_or_else(|_| {
            let entrant = shared.entrant(park_budget);
            Err(lock(&shared.state).gave_up(destination, &entrant))
        });
        let permits = entered.map_err(|park| shared.parked(park))?;
        Ok((Admitted::new(shared, destination.clone()), permits))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.shared.state).leave_line(&self.destination);
    }
}

impl Admitted {
    /// A job that was counted in.
    fn new(shared: &Arc<Shared>, destination: Destination) -> Self {
        Self {
            shared: Arc::clone(shared),
            destination,
            permit: None,
            since: Instant::now(),
            is_probe: false,
        }
    }

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
        let (was_open, is_open) = self.with_state(|state, now| {
            if signal != Signal::Ignored {
                state.attempt_took(&self.destination, now - self.since);
            }
            // Compared under one lock, so that each change is logged and counted once.
            let breaker = &mut state.destination(&self.destination).breaker;
            let was_open = breaker.is_open();
            breaker.record(signal, is_probe, now);
            (was_open, breaker.is_open())
        });
        let (shared, Destination { tenant, origin }) = (&self.shared, &self.destination);
        let tenant = tenant.as_ref().map(ClientName::as_str); // no field without one
        if is_open && !was_open {
            shared.metrics.breaker_opened();
            warn!(%origin, tenant, "circuit breaker opened: callbacks to this origin are parked");
        } else if was_open && !is_open {
            shared.metrics.breaker_closed();
            info!(%origin, tenant, "circuit breaker closed: callbacks to this origin resume");
            lock(&shared.recovered).insert(self.destination.clone());
            shared.recovery.notify_one();
        }
    }

    /// Begins the attempt with its permit, unless the breaker has opened while the job waited for
    /// it.
    fn begin(&mut self, permit: ConnectionPermit, park_budget: Duration) -> Result<(), Duration> {
        self.permit = Some(permit);
        self.since = Instant::now();
        let begun = self.with_state(|state, now| {
            let destination = state.destination(&self.destination);
            destination.breaker.begin(now, park_budget)
        });
        self.is_probe =
            begun.inspect_err(|_| self.shared.metrics.parked(ParkReason::OriginDown))?;
        Ok(())
    }

    /// The destination is in the state as long as a job is counted in it.
    fn with_state<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        act(&mut lock(&self.shared.state), Instant::now())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.permit = None; // before the origin is checked for permits that are out
        lock(&self.shared.state).leave(&self.destination, self.is_probe);
    }
}

impl Shared {
    /// A job that may be parked for `park_budget`.
    fn entrant(&self, park_budget: Duration) -> Entrant {
        Entrant {
            park_budget,
            park_max: self.park_max,
            all_slots: self.slots.all(),
            free_slots: self.slots.free(),
        }
    }

    /// Counts the park, and returns how long it lasts.
    fn parked(&self, (reason, wait): Park) -> Duration {
        self.metrics.parked(reason);
        wait
    }

    fn take_recovered(&self) -> Option<Destination> {
        let mut recovered = lock(&self.recovered);
        let destination = recovered.iter().next().cloned()?;
        recovered.take(&destination)
    }

    fn sweep(&self) {
        // The gauge counts open breakers: it would count a forgotten one for ever.
        for _ in 0..lock(&self.state).sweep() {
            self.metrics.breaker_closed();
        }
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    // No change under these locks can be left half done by a panic.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
