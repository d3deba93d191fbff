//! How much of a worker one receiver may take, so that a bad one hurts nobody else.
//!
//! Jobs that come to be delivered ask here first, by the origin of their URL (scheme, host, port):
//!
//! * `breaker`: an origin that fails again and again is left alone, but for one attempt now and then.
//! * A bounded number of attempts is made to one origin at a time. Who comes then waits for its turn, first
//!   come, first served, in one of the worker's places: as long as the origin holds no more of these than
//!   there are free ones. So it can never have more than half of them, two can't have more than two thirds,
//!   and there is always room for another.
//! * `pacer`: who finds no room is put off until it will probably be its turn. It waits in the table.
//!
//! To be put off is no attempt, and the job loses nothing by it but time.

mod breaker;
mod pacer;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tracing::{info, warn};

use super::slots::Slots;
use crate::{
    delivery::Turn,
    metrics::{Metrics, PutOff},
};
pub(super) use breaker::Sign;
use breaker::{Breaker, Change};
use pacer::Pacer;

/// Places that an origin may hold however few are free; half of them all where that is less.
const FEW: usize = 16;

/// Past so many origins, those that nobody calls at the moment are forgotten: their failures are counted anew.
const REMEMBERED: usize = 10_000;

/// An origin that nobody has asked for so long has no parked jobs any more, which ask twice as often, and is
/// forgotten.
const FORGOTTEN: Duration = Duration::from_mins(1);

/// How often those are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// Every origin that is called, or that failed last; clones share them.
#[derive(Clone)]
pub(super) struct Origins {
    shared: Arc<Shared>,
}

struct Shared {
    /// Attempts at a time to each.
    limit: usize,
    /// The longest that an attempt is put off because of failures.
    park_max: Duration,
    slots: Slots,
    metrics: Metrics,
    state: Mutex<State>,
    recovery: Notify,
}

#[derive(Default)]
struct State {
    origins: HashMap<Arc<str>, Origin>,
    /// Those whose parked jobs need not wait any longer.
    recovered: Vec<Arc<str>>,
}

struct Origin {
    turns: Arc<Semaphore>,
    /// Jobs that are being delivered to it, or wait for their turn.
    held: usize,
    /// Connections that are busy, some of them after their job has gone.
    busy: usize,
    breaker: Breaker,
    pacer: Pacer,
    asked: Instant,
}

/// What a job that asks is told.
pub(super) enum Admission {
    /// To make its attempt now, on one of the origin's connections.
    Go(Pass, Turn),
    /// To come again after that time.
    PutOff(Duration),
}

/// The right to one attempt. What came of it is told by [`Pass::heard`]; dropped without that, nothing did.
pub(super) struct Pass {
    held: Held,
    began: Instant,
    /// Whether what comes of it decides about all others.
    is_probe: bool,
}

impl Origins {
    /// No origins yet; `slots` are the worker's places.
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

    /// Asks for an attempt at `origin`, for a job that has been put off `for_so_long` by now.
    pub(super) async fn admit(&self, origin: &str, for_so_long: Duration) -> Admission {
        // A job is not put off for ever: then its attempt is made, whatever came of those before.
        let patience = self.shared.park_max.saturating_sub(for_so_long);
        let (held, turns) = match self.enter(origin, patience) {
            Ok(entered) => entered,
            Err(wait) => return Admission::PutOff(wait),
        };
        let Ok(permit) = turns.acquire_owned().await else {
            unreachable!("it is never closed")
        };
        // Those before it may have failed while it waited.
        match held.begin(patience) {
            Ok(is_probe) => {
                // In this order: the connection's place is free before the origin may be forgotten.
                let turn = Turn::of((permit, held.busy()));
                let pass = Pass {
                    held,
                    began: Instant::now(),
                    is_probe,
                };
                Admission::Go(pass, turn)
            }
            Err(wait) => Admission::PutOff(wait),
        }
    }

    /// The next origin that has recovered.
    pub(super) async fn next_recovered(&self) -> Arc<str> {
        loop {
            let told = self.shared.recovery.notified();
            if let Some(origin) = self.shared.lock().recovered.pop() {
                return origin;
            }
            told.await;
        }
    }

    /// Forgets origins of which there is nothing to remember, now and then, for ever.
    pub(super) async fn forget(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.shared.sweep();
        }
    }

    fn enter(&self, name: &str, patience: Duration) -> Result<(Held, Arc<Semaphore>), Duration> {
        let mut state = self.shared.lock();
        let (now, free) = (Instant::now(), self.shared.slots.free());
        let limit = self.shared.limit;
        let (name, origin) = state.origin(name, limit);
        if let Some(wait) = origin.breaker.put_off(now, patience) {
            self.shared.metrics.put_off(PutOff::OriginDown);
            return Err(wait);
        }
        let few = FEW.min(self.shared.slots.all() / 2).max(1);
        if origin.held >= free.max(few) {
            self.shared.metrics.put_off(PutOff::OriginBusy);
            return Err(origin.pacer.next_turn(now, limit, self.shared.park_max));
        }
        origin.held += 1;
        let turns = Arc::clone(&origin.turns);
        let shared = Arc::clone(&self.shared);
        Ok((Held { shared, name }, turns))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves half of a change behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self) {
        let mut state = self.lock();
        let (now, full) = (Instant::now(), state.origins.len() > REMEMBERED);
        state.origins.retain(|_, origin| {
            let keeps = !origin.is_idle() || (!full && now - origin.asked < FORGOTTEN);
            if !keeps && origin.breaker.is_open() {
                self.metrics.breaker_closed();
            }
            keeps
        });
    }
}

impl Origin {
    /// Whether nobody calls it, or waits to.
    fn is_idle(&self) -> bool {
        self.held == 0 && self.busy == 0
    }
}

impl State {
    fn origin(&mut self, name: &str, limit: usize) -> (Arc<str>, &mut Origin) {
        let name = match self.origins.get_key_value(name) {
            Some((name, _)) => Arc::clone(name),
            None => name.into(),
        };
        let origin = self
            .origins
            .entry(Arc::clone(&name))
            .or_insert_with(|| Origin {
                turns: Arc::new(Semaphore::new(limit)),
                held: 0,
                busy: 0,
                breaker: Breaker::closed(),
                pacer: Pacer::new(),
                asked: Instant::now(),
            });
        origin.asked = Instant::now();
        (name, origin)
    }

    /// Forgets an origin of which there is nothing to remember.
    fn leave(&mut self, name: &str, leave: impl FnOnce(&mut Origin)) {
        if let Some(origin) = self.origins.get_mut(name) {
            leave(origin);
            if origin.is_idle() && origin.breaker.is_untroubled() {
                self.origins.remove(name);
            }
        }
    }
}

/// One job's place among those of its origin, until it is dropped.
struct Held {
    shared: Arc<Shared>,
    name: Arc<str>,
}

impl Held {
    /// Whether this attempt is a probe, or how long it is to be put off after all.
    fn begin(&self, patience: Duration) -> Result<bool, Duration> {
        self.with(|origin, now| origin.breaker.begin(now, patience))
            .inspect_err(|_| self.shared.metrics.put_off(PutOff::OriginDown))
    }

    fn busy(&self) -> Busy {
        self.with(|origin, _| origin.busy += 1);
        Busy {
            shared: Arc::clone(&self.shared),
            name: Arc::clone(&self.name),
        }
    }

    /// The origin is there as long as somebody holds a place of it.
    fn with<T>(&self, act: impl FnOnce(&mut Origin, Instant) -> T) -> T {
        let mut state = self.shared.lock();
        let (_, origin) = state.origin(&self.name, self.shared.limit);
        act(origin, Instant::now())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.leave(&self.name, |origin| origin.held -= 1);
    }
}

/// One busy connection of an origin, until it is dropped.
struct Busy {
    shared: Arc<Shared>,
    name: Arc<str>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.leave(&self.name, |origin| origin.busy -= 1);
    }
}

impl Pass {
    /// What came of the attempt.
    pub(super) fn heard(mut self, sign: Sign) {
        let is_probe = std::mem::take(&mut self.is_probe);
        let change = self.held.with(|origin, now| {
            origin.pacer.took(now - self.began);
            origin.breaker.heard(sign, is_probe, now)
        });
        let (shared, name) = (&self.held.shared, &self.held.name);
        match change {
            Change::None => {}
            Change::Opened => {
                shared.metrics.breaker_opened();
                warn!(origin = %name, "a receiver fails again and again: its callbacks wait");
            }
            Change::Closed => {
                shared.metrics.breaker_closed();
                info!(origin = %name, "a receiver has recovered: its callbacks go on");
                shared.lock().recovered.push(Arc::clone(name));
                shared.recovery.notify_one();
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_probe {
            // Cut off: another one has to find out.
            self.held
                .with(|origin, now| origin.breaker.probe_is_gone(now));
        }
    }
}

#[cfg(test)]
mod tests;
