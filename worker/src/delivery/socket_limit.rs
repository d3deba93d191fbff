//! The limit on the open sockets of a worker's outbound HTTP: callbacks and requests to handlers.
//!
//! Each open socket holds a permit, from its dial until it is closed: in use or idle. When none is
//! free, the connection that has been idle for longest, of any pool, is closed to make room. So a
//! dial waits only for connections in use.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::FutureExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::unconstrained,
    time::Instant,
};

/// Permits for open sockets. Clones share them.
#[derive(Clone)]
pub struct SocketLimit(Arc<Shared>);

/// A permit for one open socket.
pub(super) type SocketPermit = OwnedSemaphorePermit;

/// Idle connections that can be closed to make room.
pub(super) trait IdleConnections: Send + Sync {
    /// Since when the one has been idle that has been for longest.
    fn oldest(&self) -> Option<Instant>;
    /// Drops that one. False if its peer had closed it already: that makes no room.
    fn close_oldest(&self) -> bool;
}

struct Shared {
    permits: Arc<Semaphore>,
    most: usize,
    /// The dials that wait for a permit.
    waiting: AtomicUsize,
    pools: Mutex<Vec<Weak<dyn IdleConnections>>>,
}

/// A dial that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl SocketLimit {
    /// At most `most` sockets.
    pub fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared {
            permits: Arc::new(Semaphore::new(most)),
            most,
            waiting: AtomicUsize::new(0),
            pools: Mutex::default(),
        }))
    }

    /// As many sockets as the system allows.
    pub fn none() -> Self {
        Self::new(usize::MAX)
    }

    /// The permits, and their number.
    pub(crate) fn permits(&self) -> (&Arc<Semaphore>, usize) {
        (&self.0.permits, self.0.most)
    }

    /// From now on, connections of `pool` are closed when room is needed. It calls
    /// [`SocketLimit::has_idle`] for each that it gets.
    pub(super) fn watch(&self, pool: Weak<dyn IdleConnections>) {
        let mut pools = self.pools();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(pool);
    }

    /// A pool has got an idle connection: closes one if a dial waits.
    pub(super) fn has_idle(&self) {
        // Free permits are on their way to those that wait.
        if self.0.waiting.load(Ordering::SeqCst) > 0 && self.0.permits.available_permits() == 0 {
            self.close_idle();
        }
    }

    /// Waits for a permit. Those who wait get one in the order in which they came. Cancel-safe.
    pub(super) async fn acquire(&self) -> SocketPermit {
        if let Ok(permit) = Arc::clone(&self.0.permits).try_acquire_owned() {
            return permit;
        }
        // Takes its place in the queue before it makes room, or another dial could take that.
        // Unconstrained: out of its budget, it would not be in the queue yet.
        let mut acquiring = pin!(unconstrained(Arc::clone(&self.0.permits).acquire_owned()));
        let acquired = if let Some(acquired) = acquiring.as_mut().now_or_never() {
            acquired
        } else {
            // Before the search: `has_idle` closes a connection that becomes idle after it.
            let _waiting = Waiting::new(&self.0.waiting);
            self.close_idle();
            acquiring.await
        };
        #[expect(clippy::expect_used, reason = "no code closes this semaphore")]
        acquired.expect("never closed")
    }

    /// A permit, if one is free. If not, an idle connection is closed, for a later try.
    pub(super) fn try_acquire(&self) -> Option<SocketPermit> {
        let permit = Arc::clone(&self.0.permits).try_acquire_owned().ok();
        if permit.is_none() {
            self.close_idle();
        }
        permit
    }

    /// Closes the connection that has been idle for longest. Its permit is free a moment later.
    fn close_idle(&self) {
        let pools = self.pools();
        loop {
            let pools = pools.iter().filter_map(Weak::upgrade);
            let idle = pools.filter_map(|pool| Some((pool.oldest()?, pool)));
            let Some((_, pool)) = idle.min_by_key(|(since, _)| *since) else {
                return;
            };
            if pool.close_oldest() {
                return;
            }
        }
    }

    fn pools(&self) -> MutexGuard<'_, Vec<Weak<dyn IdleConnections>>> {
        // No change under this lock can be left half done by a panic.
        self.0.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
