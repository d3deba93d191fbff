//! The connection pool: idle keep-alive connections, bounded in number and idle time.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use storm_shared::models::Origin;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::socket_limit::{IdleConnections, SocketLimit};

/// Idle connections to many origins, in all.
pub(crate) const MAX_IDLE: usize = 1024;
/// Idle connections per origin.
// The default of `CALLBACK_PER_ORIGIN`. With 64, a fifth of the callbacks opened a new connection
// (docs/BENCHMARKS.md).
const MAX_PER_ORIGIN: usize = 256;
/// The idle timeout. Common servers close an idle connection after 5 s; a request sent at that
/// moment would be lost.
const MAX_IDLE_TIME: Duration = Duration::from_secs(4);
/// How often idle connections are checked for expiry, for origins that are no longer called.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// A connection that can be pooled.
pub(crate) trait Poolable: Send + 'static {
    /// Only requests to this origin may use the connection.
    fn origin(&self) -> &Origin;
    /// False once the peer is known to have closed it.
    fn is_open(&self) -> bool;
}

/// Idle connections by origin. Past a bound, the oldest one is closed.
// Not hyper-util's pool, which keeps an unlimited number of idle connections for each host.
pub(crate) struct Pool<C> {
    idle: Arc<Mutex<Idle<C>>>,
    most: AtomicUsize,
    most_per_origin: usize,
    limit: SocketLimit,
    _sweeper: AbortOnDropHandle<()>,
}

impl<C: Poolable> Pool<C> {
    /// An empty pool for connections to many origins, whose sockets `limit` counts. It has a task
    /// that closes expired connections and ends with the pool.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn new(limit: &SocketLimit) -> Self {
        Self::with_limits(MAX_IDLE, MAX_PER_ORIGIN, limit)
    }

    /// Like [`Pool::new`], for at most `most` connections to one origin.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(crate) fn of_one_origin(most: usize, limit: &SocketLimit) -> Self {
        Self::with_limits(most, usize::MAX, limit)
    }

    fn with_limits(most: usize, most_per_origin: usize, limit: &SocketLimit) -> Self {
        let idle = Arc::new(Mutex::new(Idle::default()));
        let watched = Arc::downgrade(&idle);
        limit.watch(watched);
        // Weak: the task must not keep the pool, and its connections, alive.
        let sweeper = tokio::spawn(sweep(Arc::downgrade(&idle)));
        Self {
            idle,
            most: AtomicUsize::new(most),
            most_per_origin,
            limit: limit.clone(),
            _sweeper: AbortOnDropHandle::new(sweeper),
        }
    }

    /// The most recently used idle connection to `origin`: the most likely to be still open.
    pub(crate) fn take(&self, origin: &Origin) -> Option<C> {
        lock(&self.idle).take(origin, Instant::now())
    }

    /// Returns `connection` to the pool. No exchange may be in progress on it.
    pub(crate) fn put(&self, connection: C) {
        let most = self.most.load(Ordering::Relaxed);
        lock(&self.idle).put(connection, Instant::now(), most, self.most_per_origin);
        self.limit.has_idle();
    }

    /// Keeps at most `most` idle connections from now on.
    pub(crate) fn keep_at_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Closes every idle connection.
    pub(crate) fn clear(&self) {
        let closed = mem::take(&mut *lock(&self.idle));
        drop(closed); // after the lock was released
    }
}

impl<C: Poolable> IdleConnections for Mutex<Idle<C>> {
    fn oldest(&self) -> Option<Instant> {
        let idle = lock(self);
        let (_, (since, _)) = idle.by_age.first_key_value()?;
        Some(*since)
    }

    fn close_oldest(&self) -> bool {
        let oldest = lock(self).take_oldest();
        oldest.is_some_and(|connection| connection.is_open())
    }
}

async fn sweep<C: Poolable>(idle: Weak<Mutex<Idle<C>>>) {
    let mut ticks = interval(SWEEP_PERIOD);
    // One tick after a suspension is enough: it closes everything that has expired.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(idle) = idle.upgrade() else { return };
        lock(&idle).expire(Instant::now());
    }
}

fn lock<C>(idle: &Mutex<Idle<C>>) -> MutexGuard<'_, Idle<C>> {
    // A panic under the lock can at worst lose a connection; the rest stays usable.
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connections in the order in which they became idle, and per origin their numbers in it.
struct Idle<C> {
    by_age: BTreeMap<u64, (Instant, C)>,
    by_origin: HashMap<Origin, VecDeque<u64>>,
    next: u64,
}

impl<C> Default for Idle<C> {
    fn default() -> Self {
        Self {
            by_age: BTreeMap::new(),
            by_origin: HashMap::new(),
            next: 0,
        }
    }
}

impl<C: Poolable> Idle<C> {
    fn take(&mut self, origin: &Origin, now: Instant) -> Option<C> {
        self.expire(now);
        loop {
            let numbers = self.by_origin.get_mut(origin)?;
            let youngest = numbers.pop_back();
            if numbers.is_empty() {
                self.by_origin.remove(origin);
            }
            let (_, connection) = self.by_age.remove(&youngest?)?;
            // A connection that the receiver has closed is dropped here; the next younger one may
            // be open.
            if connection.is_open() {
                return Some(connection);
            }
        }
    }

    fn put(&mut self, connection: C, now: Instant, most: usize, most_per_origin: usize) {
        let numbers = self
            .by_origin
            .entry(connection.origin().clone())
            .or_default();
        // The oldest is the closest to the idle timeout of the receiver.
        if numbers.len() >= most_per_origin
            && let Some(oldest) = numbers.pop_front()
        {
            self.by_age.remove(&oldest);
        }
        numbers.push_back(self.next);
        self.by_age.insert(self.next, (now, connection));
        self.next += 1;
        if self.by_age.len() > most {
            drop(self.take_oldest());
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.by_age.first_entry()
            && now.saturating_duration_since(oldest.get().0) >= MAX_IDLE_TIME
        {
            drop(self.take_oldest());
        }
    }

    /// The oldest of all is also the oldest of its origin, so its number is the first there.
    fn take_oldest(&mut self) -> Option<C> {
        let (_, (_, connection)) = self.by_age.pop_first()?;
        let numbers = self.by_origin.get_mut(connection.origin())?;
        numbers.pop_front();
        if numbers.is_empty() {
            self.by_origin.remove(connection.origin());
        }
        Some(connection)
    }
}

#[cfg(test)]
mod tests;
