//! Admission control for all receivers together: the limit of unfinished jobs (`MAX_BACKLOG`), and
//! each tenant's and each handler's share of it; and when a job that is accepted now should be
//! done.
//!
//! A task counts the unfinished jobs once a second. In between, what this process accepts is added
//! to the last count. So one process never goes over the limit, and several together do by no more
//! than they accept between two counts.

mod count;
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
    models::{ClientName, HandlerName},
    outage::Outage,
    services::store::{Load, Store},
};
use tokio::{sync::SetOnce, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub(crate) use self::ledger::unreserved;
use self::{
    count::Count,
    lanes::{Drains, Lane, Rates},
    ledger::{Ledger, NoRoom, Tenant, Written},
    waiting::Waiting,
};
use crate::{
    metrics::Metrics,
    polling::{Pace, poll},
};

/// The interval between counts.
const PERIOD: Duration = Duration::from_secs(1);

/// A backlog that is full again within this time has been full all along, for the log.
const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// The unfinished jobs of the store, as this process knows them.
pub struct Admission {
    shared: Arc<Shared>,
    _watch: AbortOnDropHandle<()>,
}

/// The backlog has no room for a job: there should be some after this time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BacklogFull {
    /// From 1 s to 10 min.
    pub retry_after: Duration,
    /// The handler of the job, if that has its share, and there is room for jobs of others.
    pub handler: Option<HandlerName>,
}

struct Shared {
    state: Mutex<State>,
    /// Whether a submission was refused since the last count.
    has_refused: AtomicBool,
    /// Set by the first count.
    is_counted: SetOnce<()>,
}

struct State {
    tenants: Ledger<Tenant>,
    handlers: Ledger<HandlerName>,
    last: Count,
}

/// What was written when a count began.
struct WrittenBefore {
    of_tenants: Written<Tenant>,
    of_handlers: Written<HandlerName>,
}

/// What the log says of the backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Full,
    Recovered,
}

impl Admission {
    /// Keeps counting the unfinished jobs, of which there may be `MAX_BACKLOG`, until this value is
    /// dropped. If there are several clients or handlers, now or after a reread, the limit is
    /// shared among them. A new job waits for a worker although it is due only after `grace`, the
    /// time for its notification.
    pub fn watch(store: Store, settings: &Settings, grace: Duration, metrics: Metrics) -> Self {
        let limit = settings.api.max_backlog;
        let shared = Arc::new(Shared::new(limit as u64, is_shared(settings)));
        let of_reread = Arc::clone(&shared);
        settings.updates.pass_to(move |settings| {
            of_reread.share(is_shared(settings));
        });
        let of_task = Arc::clone(&shared);
        let watch = tokio::spawn(async move {
            let mut drains = Drains::new(limit);
            let mut outage = Outage::with_quiet_period(QUIET_PERIOD);
            // Beyond the limit, so that a retry is asked for when there will be room.
            let most = limit.saturating_mul(2);
            let count = || {
                let (written, by_handler) = of_task.begin();
                let load = store.load(most, grace, by_handler);
                async move { Ok((written, load.await?)) }
            };
            let update = |(written, load): (WrittenBefore, Load)| {
                let rates = drains.counted(Instant::now(), &load);
                let rate = rates.all.per_second();
                metrics.counted_backlog(load.unfinished, load.waiting, rate);
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

    /// Whether a job of `tenant` for `handler` would be admitted now. It counts nothing.
    ///
    /// # Errors
    /// Those of [`Admission::admit`].
    pub fn check(
        &self,
        tenant: Option<&ClientName>,
        handler: &HandlerName,
    ) -> Result<(), BacklogFull> {
        self.shared.check(&tenant.cloned(), handler)
    }

    /// Admits a job of `tenant` for `handler`, which counts from here on.
    ///
    /// # Errors
    /// The backlog is full, or nearly, and the tenant or the handler has its share of it.
    pub fn admit(
        &self,
        tenant: Option<&ClientName>,
        handler: &HandlerName,
        is_long: bool,
    ) -> Result<Arc<Admitted>, BacklogFull> {
        self.shared.admit(tenant.cloned(), handler, is_long)
    }
}

/// Among whom the limit is shared.
#[derive(Clone, Copy)]
struct IsShared {
    /// There are several clients.
    tenants: bool,
    /// There are handlers beside the report.
    handlers: bool,
}

fn is_shared(settings: &Settings) -> IsShared {
    IsShared {
        tenants: has_several_clients(settings),
        handlers: settings.handlers.iter().next().is_some(),
    }
}

/// Whether what clients share has to leave room for another one.
pub(crate) fn has_several_clients(settings: &Settings) -> bool {
    settings.access.tokens.clients().len() > 1
}

impl Shared {
    fn new(limit: u64, is_shared: IsShared) -> Self {
        let last = Count {
            at: Instant::now(),
            waiting: Waiting::default(),
            rates: Rates::default(),
            is_paused: false,
        };
        let mut state = State {
            tenants: Ledger::new(limit, false),
            handlers: Ledger::new(limit, false),
            last,
        };
        state.share(is_shared);
        Self {
            state: Mutex::new(state),
            has_refused: AtomicBool::new(false),
            is_counted: SetOnce::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&self, is_shared: IsShared) {
        self.state().share(is_shared);
    }

    fn check(&self, tenant: &Tenant, handler: &HandlerName) -> Result<(), BacklogFull> {
        let state = self.state();
        let room = state.check(tenant, handler);
        room.inspect_err(|_| self.has_refused.store(true, Ordering::Relaxed))
    }

    fn admit(
        self: &Arc<Self>,
        tenant: Tenant,
        handler: &HandlerName,
        is_long: bool,
    ) -> Result<Arc<Admitted>, BacklogFull> {
        let mut state = self.state();
        match state.admit(&tenant, handler, is_long) {
            Ok(wait) => Ok(Arc::new(Admitted {
                wait,
                shared: Arc::clone(self),
                tenant,
                handler: handler.clone(),
                is_long,
                is_stored: AtomicBool::new(true),
            })),
            Err(full) => {
                self.has_refused.store(true, Ordering::Relaxed);
                Err(full)
            }
        }
    }

    /// A count begins: to hand in with its result. Also returns whether each handler is counted.
    fn begin(&self) -> (WrittenBefore, bool) {
        let state = self.state();
        let written = WrittenBefore {
            of_tenants: state.tenants.begin(),
            of_handlers: state.handlers.begin(),
        };
        (written, state.handlers.is_shared())
    }

    fn counted(&self, written: WrittenBefore, load: &Load, rates: Rates) {
        let last = Count {
            at: Instant::now(),
            waiting: Waiting::of(load),
            rates,
            is_paused: load.is_paused,
        };
        let tenants = load.tenants.iter();
        let tenants = tenants.map(|(tenant, load)| (tenant.clone(), load.unfinished));
        let handlers = load.handlers.iter();
        let handlers = handlers.map(|(handler, jobs)| (handler.clone(), *jobs));
        let mut state = self.state();
        let unfinished = load.unfinished;
        state
            .tenants
            .counted(written.of_tenants, unfinished, tenants);
        state
            .handlers
            .counted(written.of_handlers, unfinished, handlers);
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

impl State {
    fn share(&mut self, is_shared: IsShared) {
        self.tenants.share(is_shared.tenants);
        self.handlers.share(is_shared.handlers);
        self.handlers.beside(is_shared.tenants);
    }

    fn check(&self, tenant: &Tenant, handler: &HandlerName) -> Result<(), BacklogFull> {
        self.tenants
            .check(tenant)
            .map_err(|NoRoom { over, .. }| BacklogFull {
                retry_after: self.last.retry_after(over, Lane::All),
                handler: None,
            })?;
        self.handlers.check(handler).map_err(|no_room| {
            // The work of other handlers than the report is long.
            let lane = match *handler {
                HandlerName::REPORT => Lane::All,
                _ => Lane::Long,
            };
            BacklogFull {
                retry_after: self.last.retry_after(no_room.over, lane),
                handler: no_room.is_of_share.then(|| handler.clone()),
            }
        })
    }

    /// Returns how long the job should wait for a worker.
    fn admit(
        &mut self,
        tenant: &Tenant,
        handler: &HandlerName,
        is_long: bool,
    ) -> Result<Duration, BacklogFull> {
        self.check(tenant, handler)?;
        let since = self.tenants.admit(tenant, is_long);
        self.handlers.admit(handler, is_long);
        Ok(self.last.wait(tenant, is_long, since))
    }
}

/// A job that was admitted. It counts as in flight until this is dropped, and then as stored,
/// unless it was withdrawn. So the write holds it: the client may be gone before the write is over.
pub struct Admitted {
    shared: Arc<Shared>,
    tenant: Tenant,
    handler: HandlerName,
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
            state.tenants.written(&self.tenant, self.is_long);
            state.handlers.written(&self.handler, self.is_long);
        } else {
            state.tenants.withdraw(&self.tenant, self.is_long);
            state.handlers.withdraw(&self.handler, self.is_long);
        }
    }
}

#[cfg(test)]
mod tests;
