//! What a worker knows of its receivers: by destination, by origin and by tenant.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use storm_shared::models::{
    BreakerState, ClientName, Destination, Origin, ReceiverReport, choose_receivers,
};
use tokio::time::Instant;

use super::{
    holder::Holder,
    line::{Line, Order},
};
use crate::{
    breaker::{Breaker, Trouble},
    delivery::{Permits, TenantPermits},
    metrics::ParkReason,
};

/// Slots that a destination may hold however few are free, as long as callbacks leave as many.
/// Without them, a worker whose slots are all taken would park every job.
pub(super) const MIN_SLOTS: usize = 16;

/// The slots that a tenant may hold for each one that callbacks leave. So it takes at most seven
/// eighths of a worker, however many destinations it has.
const TENANT_FACTOR: usize = 7;

/// Beyond this number of destinations, idle ones are forgotten with their failure counts.
pub(super) const MAX_DESTINATIONS: usize = 10_000;

/// An idle destination is forgotten after this time. Jobs parked by an open breaker ask at least
/// twice as often, so by then it has none.
pub(super) const IDLE_TIME: Duration = Duration::from_mins(1);

/// How long the worker's report names a destination after it was forgotten.
pub(super) const NAMED_FOR: Duration = Duration::from_secs(30);

/// The most of those that are kept: more than a report names.
const MAX_NAMED: usize = 64;

/// Every destination that is being called or has failed, and what its jobs share with others.
pub(super) struct State {
    /// Concurrent attempts to one origin.
    limit: usize,
    destinations: HashMap<Destination, DestinationState>,
    /// Some that were forgotten, and when: they have no trouble.
    named: HashMap<Destination, Instant>,
    /// The origins of the destinations, and those with a connection that has outlived its job.
    origins: HashMap<Origin, OriginState>,
    /// The tenants with admitted jobs.
    tenants: HashMap<Option<ClientName>, Holder>,
    /// Admitted jobs.
    jobs: usize,
    /// Jobs that wait in line.
    waiting: usize,
}

pub(super) struct DestinationState {
    pub(super) breaker: Breaker,
    permits: TenantPermits,
    slots: Holder,
    line: Line,
    last_asked: Instant,
}

struct OriginState {
    /// One permit a connection. A connection can outlive its job, and so can its permit.
    permits: Permits,
    /// How many destinations have this origin.
    destinations: usize,
}

/// A job that asks for admission.
pub(super) struct Entrant {
    /// How long it may be parked for.
    pub(super) park_budget: Duration,
    /// How long a job may be parked in all.
    pub(super) park_max: Duration,
    /// The slots of the worker.
    pub(super) all_slots: usize,
    pub(super) free_slots: usize,
}

/// Why and how long to park a job.
pub(super) type Park = (ParkReason, Duration);

/// What a job does that is not counted in.
pub(super) enum Refusal {
    /// It waits in line until then, and then is parked. It is counted as waiting.
    Wait(Arc<Order>, Instant),
    Park(Park),
}

impl State {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            destinations: HashMap::new(),
            named: HashMap::new(),
            origins: HashMap::new(),
            tenants: HashMap::new(),
            jobs: 0,
            waiting: 0,
        }
    }

    /// A destination, which is remembered from now on.
    pub(super) fn destination(&mut self, name: &Destination) -> &mut DestinationState {
        let destination = self.destinations.entry(name.clone()).or_insert_with(|| {
            let origin = self.origins.entry(name.origin.clone());
            let origin = origin.or_insert_with(|| OriginState {
                permits: Permits::new(self.limit),
                destinations: 0,
            });
            origin.destinations += 1;
            DestinationState {
                breaker: Breaker::closed(),
                permits: origin.permits.of(name.tenant.clone()),
                slots: Holder::new(),
                line: Line::default(),
                last_asked: Instant::now(),
            }
        });
        destination.last_asked = Instant::now();
        destination
    }

    /// Counts a job in, and returns the permits to wait for; or what it does instead.
    pub(super) fn enter(
        &mut self,
        name: &Destination,
        entrant: &Entrant,
    ) -> Result<TenantPermits, Refusal> {
        let (now, is_overdue) = (Instant::now(), entrant.is_overdue());
        let left = self.left(entrant).saturating_sub(1);
        let tenant = self.tenants.get(&name.tenant).copied();
        let mut tenant = tenant.unwrap_or(Holder::new());
        let tenants_most = match name.tenant {
            Some(_) => (TENANT_FACTOR * left).max(1),
            None => usize::MAX, // without authentication there is no other tenant
        };
        let destination = self.destination(name);
        destination
            .check_breaker(entrant, now)
            .map_err(Refusal::Park)?;
        let has_room = destination.has_room(left, entrant, now);
        let DestinationState { slots, line, .. } = destination;
        // No newer job overtakes those in line.
        let has_room = has_room && (is_overdue || line.waiting == 0);
        let tenant_has_room = tenant.has_room(tenants_most, is_overdue, now);
        if has_room && tenant_has_room {
            return Ok(self.count_in(name, now));
        }
        let share = destination.permits.share();
        if tenant_has_room
            && !slots.yields(is_overdue, now)
            && let Some(until) = line.patience(slots, share.min(slots.jobs).max(1), left, now)
        {
            let order = line.join();
            self.waiting += 1;
            self.tenant(name).jobs += 1; // it holds a slot of the tenant's
            return Err(Refusal::Wait(order, until));
        }
        let mut wait = Duration::ZERO;
        if !has_room {
            wait = slots.refuse(share, entrant.park_max, is_overdue, now);
        }
        if !tenant_has_room {
            let its_wait = tenant.refuse(tenants_most, entrant.park_max, is_overdue, now);
            wait = wait.max(its_wait);
            self.tenants.insert(name.tenant.clone(), tenant);
        }
        Err(Refusal::Park(entrant.busy(wait)))
    }

    /// The same for the first in line; `None` if there is no room yet. The job still counts as
    /// waiting, until [`State::leave_line`].
    pub(super) fn enter_from_line(
        &mut self,
        name: &Destination,
        entrant: &Entrant,
    ) -> Result<Option<TenantPermits>, Park> {
        let (now, left) = (Instant::now(), self.left(entrant));
        let destination = self.destination(name);
        destination.check_breaker(entrant, now)?;
        let has_room = destination.has_room(left, entrant, now);
        Ok(has_room.then(|| self.count_in(name, now)))
    }

    /// How to park a job that got no room while it was in line.
    pub(super) fn gave_up(&mut self, name: &Destination, entrant: &Entrant) -> Park {
        let destination = self.destination(name);
        let share = destination.permits.share();
        let (longest, is_overdue) = (entrant.park_max, entrant.is_overdue());
        let slots = &mut destination.slots;
        entrant.busy(slots.refuse(share, longest, is_overdue, Instant::now()))
    }

    /// The slots that callbacks and those in line leave. Those of jobs at work do not count: they
    /// are free again without any receiver's help.
    fn left(&self, entrant: &Entrant) -> usize {
        entrant.all_slots.saturating_sub(self.jobs + self.waiting)
    }

    fn tenant(&mut self, name: &Destination) -> &mut Holder {
        let tenant = self.tenants.entry(name.tenant.clone());
        tenant.or_insert(Holder::new())
    }

    fn count_in(&mut self, name: &Destination, now: Instant) -> TenantPermits {
        self.jobs += 1;
        self.tenant(name).jobs += 1;
        let destination = self.destination(name);
        if destination.slots.jobs == 0 {
            destination.line.moved(now);
        }
        destination.slots.jobs += 1;
        destination.permits.clone()
    }

    /// An attempt of a job that was counted in took this long.
    pub(super) fn attempt_took(&mut self, name: &Destination, time: Duration) {
        if let Some(tenant) = self.tenants.get_mut(&name.tenant) {
            tenant.pacer.attempt_took(time);
        }
        self.destination(name).slots.pacer.attempt_took(time);
    }

    /// Counts a job out that was counted in. `was_probe`: it was cut off as a probe.
    pub(super) fn leave(&mut self, name: &Destination, was_probe: bool) {
        let Some(destination) = self.destinations.get_mut(name) else {
            return;
        };
        if was_probe {
            // Cut off without a result: the next attempt is the probe.
            destination.breaker.probe_cut_off(Instant::now());
        }
        destination.slots.jobs -= 1;
        destination.line.moved(Instant::now());
        self.jobs -= 1;
        self.left_slot(name);
    }

    /// Counts a job out that was in line.
    pub(super) fn leave_line(&mut self, name: &Destination) {
        if let Some(destination) = self.destinations.get_mut(name) {
            destination.line.leave();
            self.waiting -= 1;
            self.left_slot(name);
        }
    }

    fn left_slot(&mut self, name: &Destination) {
        // A destination without failures need not be remembered: this bounds the map by the
        // destinations in use.
        let destination = self.destinations.get(name);
        if destination.is_some_and(DestinationState::is_forgettable) {
            if let Some((name, _)) = self.destinations.remove_entry(name)
                && self.named.len() < MAX_NAMED
            {
                self.named.insert(name, Instant::now());
            }
            self.forget_in_origin(&name.origin);
        }
        if let Some(tenant) = self.tenants.get_mut(&name.tenant) {
            tenant.jobs -= 1;
            if tenant.jobs == 0 {
                self.tenants.remove(&name.tenant);
            }
        }
    }

    /// Forgets idle destinations: those without failures, those not asked for in a while, and, when
    /// there are too many, all others of the tenants with more than their share of them. Returns
    /// how many of their breakers were open.
    pub(super) fn sweep(&mut self) -> usize {
        let now = Instant::now();
        let crowding = self.crowding_tenants();
        let mut forgotten = Vec::new();
        let mut open_breakers = 0;
        self.destinations.retain(|name, destination| {
            let is_recent = now - destination.last_asked < IDLE_TIME;
            let is_old = !is_recent || crowding.contains(&name.tenant);
            let forget = destination.is_empty() && (is_old || destination.is_forgettable());
            if forget {
                open_breakers += usize::from(destination.breaker.is_open());
                forgotten.push(name.origin.clone());
            }
            !forget
        });
        for origin in forgotten {
            self.forget_in_origin(&origin);
        }
        self.origins.retain(|_, origin| !origin.is_idle());
        open_breakers
    }

    /// Those for the worker's report: of those that are remembered, and of those that were until a
    /// moment ago. Only these are copied: there can be thousands, and attempts wait meanwhile.
    pub(super) fn receivers(&mut self) -> Vec<ReceiverReport> {
        let now = Instant::now();
        self.named.retain(|name, forgotten| {
            now - *forgotten < NAMED_FOR && !self.destinations.contains_key(name)
        });
        let named = self
            .named
            .keys()
            .map(|name| (name, BreakerState::Closed, 0));
        let all = self.destinations.iter().map(|(name, destination)| {
            let breaker = match destination.breaker.trouble() {
                None => BreakerState::Closed,
                Some(Trouble::HalfOpen) => BreakerState::HalfOpen,
                Some(Trouble::Open { .. }) => BreakerState::Open,
            };
            let jobs = u32::try_from(destination.slots.jobs).unwrap_or(u32::MAX);
            (name, breaker, jobs)
        });
        let chosen = choose_receivers(
            all.chain(named).collect(),
            |(name, ..)| name.tenant.as_ref(),
            |(_, breaker, jobs)| (*breaker, *jobs),
        );
        let report = |(name, breaker, jobs): (&Destination, _, _)| ReceiverReport {
            tenant: name.tenant.as_ref().map(ToString::to_string),
            origin: name.origin.to_string(),
            breaker,
            jobs,
        };
        chosen.into_iter().map(report).collect()
    }

    /// When too many destinations are remembered: the tenants with more than their share of them.
    fn crowding_tenants(&self) -> HashSet<Option<ClientName>> {
        if self.destinations.len() <= MAX_DESTINATIONS {
            return HashSet::new();
        }
        let mut counts = HashMap::new();
        for name in self.destinations.keys() {
            *counts.entry(&name.tenant).or_insert(0) += 1;
        }
        let share = MAX_DESTINATIONS / counts.len();
        let crowding = counts.into_iter().filter(|(_, count)| *count > share);
        crowding.map(|(tenant, _)| tenant.clone()).collect()
    }

    /// A destination of `origin` was forgotten.
    fn forget_in_origin(&mut self, origin: &Origin) {
        if let Some(state) = self.origins.get_mut(origin) {
            state.destinations -= 1;
            if state.is_idle() {
                self.origins.remove(origin);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> (usize, usize) {
        (self.destinations.len(), self.origins.len())
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let counts = (self.jobs, self.waiting);
        self.known() == (0, 0) && self.tenants.is_empty() && counts == (0, 0)
    }
}

impl Entrant {
    /// Whether it has been parked for as long as a job may be.
    fn is_overdue(&self) -> bool {
        self.park_budget.is_zero()
    }

    /// How it is parked for `wait`, because its receiver is busy.
    fn busy(&self, wait: Duration) -> Park {
        let wait = if self.is_overdue() {
            wait
        } else {
            wait.min(self.park_budget)
        };
        (ParkReason::OriginBusy, wait)
    }
}

impl DestinationState {
    fn check_breaker(&mut self, entrant: &Entrant, now: Instant) -> Result<(), Park> {
        match self.breaker.park(now, entrant.park_budget) {
            Some(wait) => Err((ParkReason::OriginDown, wait)),
            None => Ok(()),
        }
    }

    /// Whether one more of its jobs may hold a slot, where callbacks leave `left` slots.
    fn has_room(&self, left: usize, entrant: &Entrant, now: Instant) -> bool {
        let most = entrant.free_slots.max(left.min(MIN_SLOTS));
        self.slots.has_room(most, entrant.is_overdue(), now)
    }

    /// Whether it equals a new one.
    fn is_forgettable(&self) -> bool {
        self.is_empty() && self.breaker.is_untroubled()
    }

    /// Whether no job is counted in it, or waits for that.
    fn is_empty(&self) -> bool {
        self.slots.jobs == 0 && self.line.waiting == 0
    }
}

impl OriginState {
    /// Whether no destination has it and no connection to it is busy.
    fn is_idle(&self) -> bool {
        self.destinations == 0 && self.permits.are_idle()
    }
}
