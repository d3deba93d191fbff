//! Admission control for all receivers together: the limit of unfinished jobs (`MAX_BACKLOG`), and
//! each tenant's share of it; and when a job that is accepted now should be done.
//!
//! A task counts the unfinished jobs once a second. In between, what this process accepts is added
//! to the last count. So one process never goes over the limit, and several together do by no more
//! than they accept between two counts.

mod drain;
mod ledger;
mod waiting;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use storm_shared::{
    models::ClientName,
    outage::Outage,
    services::store::{Load, Store},
};
use tokio::{sync::SetOnce, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use self::{
    drain::{Drain, DrainRate, jobs},
    ledger::{Ledger, Tenant, Written},
    waiting::Waiting,
};
use crate::{
    metrics::Metrics,
    polling::{Pace, poll},
};

/// The interval between counts.
const PERIOD: Duration = Duration::from_secs(1);

/// The bounds of the time after which a refused client is asked to retry.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));

/// That time while the rate is unknown, and at least while all work is paused.
const RETRY_AFTER_STANDSTILL: Duration = Duration::from_mins(1);

/// The longest wait for a worker that is expected of a job.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// Jobs are waiting for workers if it takes them at least this long to begin with all that wait.
const BACKLOGGED: Duration = Duration::from_secs(1);

/// A backlog that is full again within this time has been full all along, for the log.
const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// The unfinished jobs of the store, as this process knows them.
pub struct Admission {
    shared: Arc<Shared>,
    _watch: AbortOnDropHandle<()>,
}

/// The backlog has no room for this tenant: there should be some after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogFull {
    /// From 1 s to 10 min.
    pub retry_after: Duration,
}

struct Shared {
    state: Mutex<State>,
    /// Whether a submission was refused since the last count.
    has_refused: AtomicBool,
    /// Set by the first count.
    is_counted: SetOnce<()>,
}

struct State {
    ledger: Ledger,
    last: Count,
}

/// What the log says of the backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Full,
    Recovered,
}

/// What is known from the last count.
struct Count {
    at: Instant,
    waiting: Waiting,
    rate: DrainRate,
    is_paused: bool,
}

impl Admission {
    /// Keeps counting the unfinished jobs, of which there may be `limit`, until this value is
    /// dropped. If there are several clients, the limit `is_shared`. A new job waits for a worker
    /// although it is due only after `grace`, the time for its notification.
    pub fn watch(
        store: Store,
        limit: usize,
        is_shared: bool,
        grace: Duration,
        metrics: Metrics,
    ) -> Self {
        let shared = Arc::new(Shared::new(limit as u64, is_shared));
        let of_task = Arc::clone(&shared);
        let watch = tokio::spawn(async move {
            let mut drain = Drain::new(limit);
            let mut outage = Outage::with_quiet_period(QUIET_PERIOD);
            // Beyond the limit, so that a retry is asked for when there will be room.
            let most = limit.saturating_mul(2);
            let count = || {
                let written = of_task.state().ledger.begin();
                let load = store.load(most, grace);
                async move { Ok((written, load.await?)) }
            };
            let update = |(written, load): (Written, Load)| {
                let rate = drain.counted(Instant::now(), &load);
                metrics.counted_backlog(load.unfinished, rate.per_second());
                of_task.counted(written, &load, rate);
                match of_task.change(&mut outage) {
                    Some(Change::Full) => warn!(
                        limit,
                        "the backlog is full: new jobs are refused until some have ended"
                    ),
                    Some(Change::Recovered) => {
                        info!(limit, "the backlog has room again: new jobs are accepted");
                    }
                    None => {}
                }
            };
            poll("the backlog", Pace::of_counts(PERIOD), count, update).await;
        });
        Self {
            shared,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    /// Completes when the unfinished jobs were counted for the first time. No job may be admitted
    /// before: those of an earlier process can fill the backlog.
    pub async fn counted(&self) {
        self.shared.is_counted.wait().await;
    }

    /// Admits a job of `tenant`, which counts from here on.
    ///
    /// # Errors
    /// The backlog is full, or nearly, and the tenant has its share of it.
    pub fn admit(
        &self,
        tenant: Option<&ClientName>,
        is_long: bool,
    ) -> Result<Arc<Admitted>, BacklogFull> {
        self.shared.admit(tenant.cloned(), is_long)
    }
}

impl Shared {
    fn new(limit: u64, is_shared: bool) -> Self {
        let last = Count {
            at: Instant::now(),
            waiting: Waiting::default(),
            rate: DrainRate::default(),
            is_paused: false,
        };
        Self {
            state: Mutex::new(State {
                ledger: Ledger::new(limit, is_shared),
                last,
            }),
            has_refused: AtomicBool::new(false),
            is_counted: SetOnce::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(
        self: &Arc<Self>,
        tenant: Tenant,
        is_long: bool,
    ) -> Result<Arc<Admitted>, BacklogFull> {
        let mut state = self.state();
        match state.ledger.admit(&tenant) {
            Ok(more) => Ok(Arc::new(Admitted {
                wait: state.last.wait(&tenant, is_long, more),
                shared: Arc::clone(self),
                tenant,
                is_stored: AtomicBool::new(true),
            })),
            Err(no_room) => {
                self.has_refused.store(true, Ordering::Relaxed);
                Err(BacklogFull {
                    retry_after: state.last.retry_after(no_room.over),
                })
            }
        }
    }

    fn counted(&self, written: Written, load: &Load, rate: DrainRate) {
        let last = Count {
            at: Instant::now(),
            waiting: Waiting::of(load),
            rate,
            is_paused: load.is_paused,
        };
        let mut state = self.state();
        state.ledger.counted(written, load);
        state.last = last;
        drop(state);
        let _ = self.is_counted.set(()); // it may be set already
    }

    /// What has changed, by the submissions that were refused since the last call.
    fn change(&self, outage: &mut Outage) -> Option<Change> {
        if self.has_refused.swap(false, Ordering::Relaxed) {
            outage.failed().then_some(Change::Full)
        } else {
            outage.recovered().then_some(Change::Recovered)
        }
    }
}

impl Count {
    /// How long a new job of `tenant` should wait for a worker, of which `more` were admitted since
    /// the count.
    fn wait(&self, tenant: &Tenant, is_long: bool, more: u64) -> Duration {
        let time_for = |jobs| self.rate.time_for(jobs, LONGEST_WAIT).unwrap_or_default();
        let total = jobs(self.waiting.total(is_long));
        if time_for(total) < BACKLOGGED {
            // The workers keep up, and what was accepted since does not wait either.
            return time_for(jobs(self.waiting.before(tenant, is_long, 0)));
        }
        let ended = self.rate.within(self.at.elapsed());
        time_for(jobs(self.waiting.before(tenant, is_long, more)) - ended)
    }

    /// When a client should retry that finds room once so many jobs have ended.
    fn retry_after(&self, over: u64) -> Duration {
        let (least, most) = RETRY_AFTER;
        let least = if self.is_paused {
            RETRY_AFTER_STANDSTILL
        } else {
            least
        };
        let drained = self.rate.time_for(jobs(over), most);
        drained.unwrap_or(RETRY_AFTER_STANDSTILL).max(least)
    }
}

/// A job that was admitted. It counts as in flight until this is dropped, and then as stored,
/// unless it was withdrawn. So the write holds it: the client may be gone before the write is over.
pub struct Admitted {
    shared: Arc<Shared>,
    tenant: Tenant,
    wait: Duration,
    is_stored: AtomicBool,
}

impl Admitted {
    /// How long its job should wait for a worker: zero if none wait, or if it is unknown.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// It was not stored.
    pub fn withdraw(&self) {
        self.is_stored.store(false, Ordering::Relaxed);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if *self.is_stored.get_mut() {
            // A count that begins after it, sees its row.
            state.ledger.written(&self.tenant);
        } else {
            state.ledger.withdraw(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests;
