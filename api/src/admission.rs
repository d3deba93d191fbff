//! Admission control for all receivers together: the limit of unfinished jobs (`MAX_BACKLOG`), and
//! each tenant's share of it; and when a job that is accepted now should be done.
//!
//! A task counts the unfinished jobs once a second. In between, what this process accepts is added
//! to the last count. So one process never goes over the limit, and several together do by no more
//! than they accept between two counts.

mod drain;
mod lanes;
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
    config::Settings,
    models::ClientName,
    outage::Outage,
    services::store::{Load, Store},
};
use tokio::{sync::SetOnce, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub(crate) use self::ledger::unreserved;
use self::{
    drain::jobs,
    lanes::{Drains, Lane, Rates},
    ledger::{Ledger, NoRoom, Since, Tenant, Written},
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

/// The same while it is not known how fast the workers are, but only what they have done at least:
/// the next counts of a storm tell.
const LONGEST_UNMEASURED_WAIT: Duration = Duration::from_secs(3);

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
    rates: Rates,
    is_paused: bool,
}

impl Admission {
    /// Keeps counting the unfinished jobs, of which there may be `MAX_BACKLOG`, until this value is
    /// dropped. If there are several clients, now or after a reread, the limit is shared among
    /// them. A new job waits for a worker although it is due only after `grace`, the time for its
    /// notification.
    pub fn watch(store: Store, settings: &Settings, grace: Duration, metrics: Metrics) -> Self {
        let limit = settings.api.max_backlog;
        let shared = Arc::new(Shared::new(limit as u64, has_several_clients(settings)));
        let of_reread = Arc::clone(&shared);
        settings.updates.pass_to(move |settings| {
            let is_shared = has_several_clients(settings);
            of_reread.state().ledger.share(is_shared);
        });
        let of_task = Arc::clone(&shared);
        let watch = tokio::spawn(async move {
            let mut drains = Drains::new(limit);
            let mut outage = Outage::with_quiet_period(QUIET_PERIOD);
            // Beyond the limit, so that a retry is asked for when there will be room.
            let most = limit.saturating_mul(2);
            let count = || {
                let written = of_task.state().ledger.begin();
                let load = store.load(most, grace);
                async move { Ok((written, load.await?)) }
            };
            let update = |(written, load): (Written, Load)| {
                let rates = drains.counted(Instant::now(), &load);
                metrics.counted_backlog(load.unfinished, rates.all.per_second());
                of_task.counted(written, &load, rates);
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

    /// Whether a job of `tenant` would be admitted now. It counts nothing.
    ///
    /// # Errors
    /// Those of [`Admission::admit`].
    pub fn check(&self, tenant: Option<&ClientName>) -> Result<(), BacklogFull> {
        self.shared.check(&tenant.cloned())
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

/// Whether what clients share has to leave room for another one.
pub(crate) fn has_several_clients(settings: &Settings) -> bool {
    settings.access.tokens.clients().len() > 1
}

impl Shared {
    fn new(limit: u64, is_shared: bool) -> Self {
        let last = Count {
            at: Instant::now(),
            waiting: Waiting::default(),
            rates: Rates::default(),
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

    fn check(&self, tenant: &Tenant) -> Result<(), BacklogFull> {
        let state = self.state();
        let room = state.ledger.check(tenant);
        room.map_err(|no_room| self.refuse(&state, no_room))
    }

    fn refuse(&self, state: &State, no_room: NoRoom) -> BacklogFull {
        self.has_refused.store(true, Ordering::Relaxed);
        BacklogFull {
            retry_after: state.last.retry_after(no_room.over),
        }
    }

    fn admit(
        self: &Arc<Self>,
        tenant: Tenant,
        is_long: bool,
    ) -> Result<Arc<Admitted>, BacklogFull> {
        let mut state = self.state();
        match state.ledger.admit(&tenant, is_long) {
            Ok(since) => Ok(Arc::new(Admitted {
                wait: state.last.wait(&tenant, is_long, since),
                shared: Arc::clone(self),
                tenant,
                is_long,
                is_stored: AtomicBool::new(true),
            })),
            Err(no_room) => Err(self.refuse(&state, no_room)),
        }
    }

    fn counted(&self, written: Written, load: &Load, rates: Rates) {
        let last = Count {
            at: Instant::now(),
            waiting: Waiting::of(load),
            rates,
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
    /// How long a new job of `tenant` should wait for a worker, which has admitted some `since` the
    /// count.
    fn wait(&self, tenant: &Tenant, is_long: bool, since: Since) -> Duration {
        let own = self.wait_in(Lane::of(is_long), tenant, since);
        if is_long {
            // Where short jobs take all slots, it waits for them as well.
            own.max(self.wait_in(Lane::All, tenant, since))
        } else {
            own
        }
    }

    fn wait_in(&self, lane: Lane, tenant: &Tenant, since: Since) -> Duration {
        let rate = self.rates.of(lane);
        let longest = if rate.is_measured() {
            LONGEST_WAIT
        } else {
            LONGEST_UNMEASURED_WAIT
        };
        let time_for = |jobs| rate.time_for(jobs, longest).unwrap_or_default();
        if time_for(jobs(self.waiting.total(lane))) < BACKLOGGED {
            // The workers keep up, and what was accepted since does not wait either.
            return time_for(jobs(self.waiting.before(tenant, lane, 0)));
        }
        let before = self.waiting.before(tenant, lane, since.of(lane));
        time_for(jobs(before) - rate.within(self.at.elapsed()))
    }

    /// When a client should retry that finds room once so many jobs have ended.
    fn retry_after(&self, over: u64) -> Duration {
        let (least, most) = RETRY_AFTER;
        let least = if self.is_paused {
            RETRY_AFTER_STANDSTILL
        } else {
            least
        };
        let drained = self.rates.all.time_for(jobs(over), most);
        drained.unwrap_or(RETRY_AFTER_STANDSTILL).max(least)
    }
}

/// A job that was admitted. It counts as in flight until this is dropped, and then as stored,
/// unless it was withdrawn. So the write holds it: the client may be gone before the write is over.
pub struct Admitted {
    shared: Arc<Shared>,
    tenant: Tenant,
    is_long: bool,
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
            state.ledger.written(&self.tenant, self.is_long);
        } else {
            state.ledger.withdraw(&self.tenant, self.is_long);
        }
    }
}

#[cfg(test)]
mod tests;
