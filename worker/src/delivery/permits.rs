//! The connections to one origin, shared fairly between tenants.
//!
//! A limit on all of them protects the receiver. While permits are free, a tenant gets as many as
//! it asks for. A permit that is released goes to the waiting tenant that holds the fewest, so that
//! a tenant with many slow calls comes down to its share while others wait. Tenants that hold
//! equally many take turns; the jobs of one tenant are served first come, first served.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use storm_shared::models::ClientName;
use tokio::sync::oneshot;

/// The connection permits of one origin. Clones share them.
#[derive(Clone)]
pub(crate) struct Permits {
    gate: Arc<Gate>,
}

/// The connection permits of one origin, as one tenant gets them. Clones share them.
#[derive(Clone)]
pub(crate) struct TenantPermits {
    gate: Arc<Gate>,
    tenant: Option<ClientName>,
}

/// A permit for one connection to an origin. It is held until the connection is idle or closed,
/// which can be later than the end of the attempt.
pub struct ConnectionPermit {
    permits: TenantPermits,
}

struct Gate {
    limit: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    /// The tenants that hold a permit or wait for one.
    tenants: HashMap<Option<ClientName>, Tenant>,
    /// Those that wait, by the permits that they hold and then by their turn.
    queue: BTreeMap<(usize, u64), Option<ClientName>>,
    /// Numbers the turns, and the waiting jobs.
    next_number: u64,
}

#[derive(Default)]
struct Tenant {
    held: usize,
    /// From when it began to wait, or was last served: the lowest is served first.
    turn: u64,
    /// Its waiting jobs, oldest first.
    jobs: BTreeMap<u64, oneshot::Sender<ConnectionPermit>>,
}

/// A job that waits for a permit. Dropping it gives up its turn.
struct Waiting {
    permits: TenantPermits,
    number: u64,
    served: oneshot::Receiver<ConnectionPermit>,
}

impl Permits {
    /// `limit` free permits.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State {
            free: limit,
            tenants: HashMap::new(),
            queue: BTreeMap::new(),
            next_number: 0,
        };
        Self {
            gate: Arc::new(Gate {
                limit,
                state: Mutex::new(state),
            }),
        }
    }

    /// The permits as `tenant` gets them.
    pub(crate) fn of(&self, tenant: Option<ClientName>) -> TenantPermits {
        TenantPermits {
            gate: Arc::clone(&self.gate),
            tenant,
        }
    }

    /// Whether all permits are free.
    pub(crate) fn are_idle(&self) -> bool {
        self.gate.lock().free == self.gate.limit
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.gate.lock().free
    }
}

impl TenantPermits {
    /// Waits for a permit. Cancel-safe: a caller that is dropped gives up its turn, and a permit
    /// that it was about to get goes to the next.
    pub(crate) async fn acquire(&self) -> ConnectionPermit {
        let mut waiting = match self.acquire_or_wait() {
            Ok(permit) => return permit,
            Err(waiting) => waiting,
        };
        #[expect(
            clippy::expect_used,
            reason = "the sender stays in the queue until it is served, or `waiting` is dropped"
        )]
        (&mut waiting.served).await.expect("served in its turn")
    }

    /// A permit, if one is free. Then nobody waits.
    pub(crate) fn try_acquire(&self) -> Option<ConnectionPermit> {
        let taken = self.gate.lock().take(self.tenant.as_ref());
        taken.then(|| ConnectionPermit {
            permits: self.clone(),
        })
    }

    /// What the tenant may hold while the others that hold permits, or wait for them, want as many.
    pub(crate) fn share(&self) -> usize {
        let state = self.gate.lock();
        let is_new = !state.tenants.contains_key(&self.tenant);
        let tenants = state.tenants.len() + usize::from(is_new);
        self.gate.limit.div_ceil(tenants)
    }

    fn acquire_or_wait(&self) -> Result<ConnectionPermit, Waiting> {
        let mut state = self.gate.lock();
        if state.take(self.tenant.as_ref()) {
            return Ok(ConnectionPermit {
                permits: self.clone(),
            });
        }
        let (serve, served) = oneshot::channel();
        let number = state.number();
        state.change(self.tenant.as_ref(), |tenant| {
            if tenant.jobs.is_empty() {
                tenant.turn = number; // behind the tenants that wait already
            }
            tenant.jobs.insert(number, serve);
        });
        Err(Waiting {
            permits: self.clone(),
            number,
            served,
        })
    }
}

impl ConnectionPermit {
    /// The permits of the same origin for the same tenant.
    pub(crate) fn siblings(&self) -> &TenantPermits {
        &self.permits
    }
}

impl fmt::Debug for ConnectionPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPermit").finish_non_exhaustive()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let gate = &self.permits.gate;
        let next = gate.lock().hand_on(self.permits.tenant.as_ref());
        let Some((tenant, serve)) = next else { return };
        let permits = TenantPermits {
            gate: Arc::clone(gate),
            tenant,
        };
        // Outside the lock: if that job has just been dropped, so is its permit, here, and goes to
        // the one after it.
        drop(serve.send(ConnectionPermit { permits }));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.permits.gate.lock();
        // Without effect once it is served. A permit that it has not taken is dropped with it.
        state.change(self.permits.tenant.as_ref(), |tenant| {
            tenant.jobs.remove(&self.number);
        });
    }
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No change under this lock can be left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a free permit for the tenant `name`. False if none is free.
    fn take(&mut self, name: Option<&ClientName>) -> bool {
        if self.free == 0 {
            return false;
        }
        self.free -= 1;
        self.change(name, |tenant| tenant.held += 1);
        true
    }

    /// Takes back a permit of the tenant `name` and gives it to the next tenant's oldest job, if
    /// any job waits.
    fn hand_on(
        &mut self,
        name: Option<&ClientName>,
    ) -> Option<(Option<ClientName>, oneshot::Sender<ConnectionPermit>)> {
        self.change(name, |tenant| tenant.held -= 1);
        self.free += 1;
        let next = self.queue.first_key_value()?.1.clone();
        let turn = self.number();
        let (_, serve) = self.change(next.as_ref(), |tenant| {
            let oldest = tenant.jobs.pop_first()?;
            tenant.held += 1;
            tenant.turn = turn;
            Some(oldest)
        })?;
        self.free -= 1;
        Some((next, serve))
    }

    /// Changes a tenant, and its place in the queue with it. A tenant is forgotten once it neither
    /// holds nor waits.
    fn change<T>(&mut self, name: Option<&ClientName>, change: impl FnOnce(&mut Tenant) -> T) -> T {
        let tenant = self.tenants.entry(name.cloned()).or_default();
        self.queue.remove(&(tenant.held, tenant.turn)); // no other tenant has this turn
        let changed = change(tenant);
        if !tenant.jobs.is_empty() {
            let place = (tenant.held, tenant.turn);
            self.queue.insert(place, name.cloned());
        } else if tenant.held == 0 {
            self.tenants.remove(&name.cloned());
        }
        changed
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

#[cfg(test)]
mod tests;
