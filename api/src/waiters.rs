//! Those who wait for the result of a request: `Prefer: wait` of a submission, and `?wait` of
//! `GET /requests/{id}`.
//!
//! While anyone waits, one task reads how far all awaited requests are, every 100 ms. A waiter
//! holds its connection and one of the permits, and no read, body or thread. There are half as many
//! permits as connections, so that waiters leave the other half to those who submit.

mod permits;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use storm_shared::{
    config::Settings,
    models::{ClientName, RequestId},
    outage::Outage,
    services::store::{Progress, Store, StoreError},
};
use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, watch as latest},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use self::permits::{Permits, Tenant};
use crate::{admission::has_several_clients, metrics::Metrics};

/// The longest wait. A longer one that a client asks for is clipped.
pub const MAX_WAIT: Duration = Duration::from_mins(1);

/// The interval between two reads while anyone waits.
const PERIOD: Duration = Duration::from_millis(100);

/// The pause after a read is at least this multiple of its duration: with thousands of waiters, or
/// on a slow database, the reads take at most a fifth of the time.
const PAUSE_FACTOR: u32 = 4;

/// The most answers that are read at a time. Thousands of waiters can end with one read, and must
/// not fill the queue of all reads.
const ANSWERS: usize = 64;

/// Everyone who waits in this process.
pub struct Waiters {
    shared: Arc<Shared>,
    _watch: AbortOnDropHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Tells the task that someone waits.
    someone: Notify,
    stopped: CancellationToken,
    answers: Semaphore,
    metrics: Metrics,
}

struct State {
    permits: Permits,
    awaited: HashMap<RequestId, Awaited>,
}

/// A request that is waited for.
struct Awaited {
    progress: latest::Sender<Progress>,
    waiters: usize,
}

/// All permits are taken, or nearly, and the tenant has its share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyWaiters;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// The request got as far as was waited for, or is gone.
    Reached,
    /// The time is over.
    Late,
    /// The API is shutting down.
    Stopped,
}

/// A permit. It is free again when this is dropped, also because the client has disconnected.
pub struct Waiter {
    shared: Arc<Shared>,
    tenant: Tenant,
    id: RequestId,
    progress: latest::Receiver<Progress>,
}

impl Waiters {
    /// Nobody yet. Reads from `store` while someone waits, until this value is dropped.
    pub fn watch(store: Store, settings: &Settings, metrics: Metrics) -> Self {
        let limit = settings.http.connections / 2;
        let shared = Arc::new(Shared::new(limit, has_several_clients(settings), metrics));
        let of_reread = Arc::clone(&shared);
        settings.updates.pass_to(move |settings| {
            let is_shared = has_several_clients(settings);
            of_reread.state().permits.share(is_shared);
        });
        let read = move |ids: Arc<[RequestId]>| {
            let store = store.clone();
            async move { store.progress_of(&ids).await }
        };
        let watch = tokio::spawn(watch(Arc::clone(&shared), read));
        Self {
            shared,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    /// Takes a permit for a client of `tenant`, to wait for the request `id`.
    ///
    /// # Errors
    /// All permits are taken, or nearly, and the tenant has its share of them.
    pub fn wait_for(
        &self,
        tenant: Option<&ClientName>,
        id: RequestId,
    ) -> Result<Waiter, TooManyWaiters> {
        self.shared.wait_for(tenant.cloned(), id)
    }

    /// Waits until the answer to one who has waited may be read. To be held until it was.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // An error: the semaphore is closed, which it never is.
        self.shared.answers.acquire().await.ok()
    }

    /// Ends every wait, also of those who come from now on.
    pub fn stop(&self) {
        self.shared.stopped.cancel();
    }
}

impl Waiter {
    /// Waits until the request is as far as `goal`, but not after `deadline`.
    pub async fn until(mut self, goal: Progress, deadline: Instant) -> WaitEnd {
        let stopped = self.shared.stopped.clone();
        let reached = self.progress.wait_for(|progress| *progress >= goal);
        tokio::select! {
            biased;
            reached = timeout_at(deadline, reached) => match reached {
                Ok(_) => WaitEnd::Reached,
                Err(_) => WaitEnd::Late,
            },
            () = stopped.cancelled() => WaitEnd::Stopped,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.permits.free(&self.tenant);
        if let Entry::Occupied(mut awaited) = state.awaited.entry(self.id) {
            awaited.get_mut().waiters -= 1;
            if awaited.get().waiters == 0 {
                awaited.remove();
            }
        }
        self.shared.metrics.waiters(state.permits.taken());
    }
}

impl Shared {
    fn new(limit: usize, is_shared: bool, metrics: Metrics) -> Self {
        metrics.waiters_limit(limit);
        Self {
            state: Mutex::new(State {
                permits: Permits::new(limit, is_shared),
                awaited: HashMap::new(),
            }),
            someone: Notify::new(),
            stopped: CancellationToken::new(),
            answers: Semaphore::new(ANSWERS),
            metrics,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(self: &Arc<Self>, tenant: Tenant, id: RequestId) -> Result<Waiter, TooManyWaiters> {
        let mut state = self.state();
        if !state.permits.take(&tenant) {
            self.metrics.refused_wait();
            return Err(TooManyWaiters);
        }
        self.metrics.waiters(state.permits.taken());
        let awaited = state.awaited.entry(id).or_insert_with(|| Awaited {
            progress: latest::Sender::new(Progress::Unfinished),
            waiters: 0,
        });
        awaited.waiters += 1;
        let progress = awaited.progress.subscribe();
        drop(state);
        self.someone.notify_one();
        Ok(Waiter {
            shared: Arc::clone(self),
            tenant,
            id,
            progress,
        })
    }

    /// The requests that are waited for, once there are any, in the order of the table.
    async fn awaited(&self) -> Arc<[RequestId]> {
        loop {
            let mut ids: Vec<_> = self.state().awaited.keys().copied().collect();
            if !ids.is_empty() {
                ids.sort_unstable();
                return ids.into();
            }
            // Keeps a call that came since.
            self.someone.notified().await;
        }
    }

    fn tell(&self, ids: &[RequestId], progress: &[Progress]) {
        let state = self.state();
        for (id, now) in ids.iter().zip(progress) {
            if let Some(awaited) = state.awaited.get(id) {
                awaited.progress.send_if_modified(|known| {
                    let is_new = *known != *now;
                    *known = *now;
                    is_new
                });
            }
        }
    }
}

/// Tells those who wait what `read` finds of their requests. Never completes.
async fn watch<F>(shared: Arc<Shared>, read: impl Fn(Arc<[RequestId]>) -> F)
where
    F: Future<Output = Result<Vec<Progress>, StoreError>>,
{
    let mut outage = Outage::default();
    loop {
        let ids = shared.awaited().await;
        let began = Instant::now();
        match read(Arc::clone(&ids)).await {
            Ok(progress) => {
                if outage.recovered() {
                    info!("the progress of awaited requests can be read again");
                }
                shared.tell(&ids, &progress);
            }
            // The readers are busy for a moment, or the API is shutting down.
            Err(StoreError::QueueFull | StoreError::Closed) => {}
            Err(error) => {
                if outage.failed() {
                    warn!(%error, "cannot read the progress of awaited requests; waits time out");
                }
            }
        }
        sleep(PERIOD.max(began.elapsed() * PAUSE_FACTOR)).await;
    }
}

#[cfg(test)]
mod tests;
