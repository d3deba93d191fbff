//! The figures of the live page: one sampler takes them once a second for all who watch.
//!
//! It runs while somebody watches, and for a minute after that. What it reads of the workers they
//! have written themselves, with their heartbeats.

mod sample;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use storm_shared::{
    config::{AccessSettings, Handlers, Settings},
    live::Live,
    models::{BreakerState, ClientName, RequestSummary, Status},
    services::store::{
        ListPage, Overview, Pauses, RequestFilter, Scope, Store, StoreError, WorkerSeen,
    },
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::sample::Differences;
pub use self::sample::{Percentiles, Sample, WorkerRate};
use crate::{
    handler_watch::{HandlerWatch, Loads},
    handlers::KnownHandlers,
    metrics::Metrics,
    pauses::PauseWatch,
};

/// The most viewers at a time.
pub const VIEWERS: usize = 16;

/// The interval between samples.
pub const PERIOD: Duration = Duration::from_secs(1);

/// The most samples that are kept: five minutes.
const HISTORY: usize = 300;

/// How long the sampler goes on without viewers: who reloads the page finds its history.
const LINGER: Duration = Duration::from_mins(1);

/// The pause after a sample is at least this multiple of the time that it took, so that a slow
/// database spends little of its time on them.
const PAUSE_FACTOR: u32 = 20;

/// The longest pause: a viewer sees that the feed goes on.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A read that takes longer is given up: the figures of this process do not wait for it.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The lists of failed requests are read seldom: on a large table they take longest.
const FAILURES_PERIOD: Duration = Duration::from_secs(2);
const FAILURES_PAUSE_FACTOR: u32 = 100;

/// The most failed requests that are shown.
const FAILURES: usize = 20;

/// The most receivers that are shown.
const RECEIVERS: usize = 50;

/// Updates that a viewer may be behind.
const BEHIND: usize = 8;

/// Whose requests a viewer may see: those of one client, or all.
type Whose = Option<ClientName>;

/// The feed of the live page. Samples until it is dropped.
pub struct OverviewFeed {
    shared: Arc<Shared>,
    _sampler: AbortOnDropHandle<()>,
}

struct Shared {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    updates: broadcast::Sender<Arc<Update>>,
    /// A viewer has come.
    came: Notify,
    /// The process ends.
    stopped: CancellationToken,
    /// Cancelled and replaced when the settings are reread: viewers have to authenticate anew.
    access: Live<ViewerAccess>,
}

/// What the settings say of viewers.
struct ViewerAccess {
    replaced: CancellationToken,
    /// Whether clients see the totals of the service: those who may read `/metrics` do.
    clients_see_totals: bool,
}

struct State {
    history: VecDeque<Sample>,
    now: Option<Arc<Now>>,
    viewers: HashMap<Whose, usize>,
    /// When the last viewer left.
    left: Instant,
}

/// What is new each second.
pub struct Update {
    /// The figures.
    pub sample: Sample,
    /// What is there now.
    pub now: Arc<Now>,
}

/// What is there at one moment.
pub struct Now {
    /// Whether the database did not answer. The tables are those of the last answer then.
    pub is_stale: bool,
    /// What is paused.
    pub pauses: Pauses,
    /// The workers.
    pub workers: Vec<(WorkerSeen, Option<WorkerRate>)>,
    /// The receivers of all tenants.
    pub receivers: Vec<ReceiverNow>,
    /// The handlers in the settings.
    pub handlers: Handlers,
    /// What each has to do.
    pub loads: Arc<Option<Loads>>,
    failures: HashMap<Whose, Arc<[RequestSummary]>>,
}

/// A receiver of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverNow {
    /// The client's name, if there are tokens.
    pub tenant: Option<String>,
    /// Scheme, host and port.
    pub origin: String,
    /// The state of its circuit breakers that holds back most. `None` if no worker names it.
    pub breaker: Option<BreakerState>,
    /// The jobs with an attempt under way, in all workers.
    pub jobs: u32,
    /// The jobs that wait for a retry or are parked. `None` if none were counted.
    pub backlog: Option<u32>,
    /// Whether an operator has paused it.
    pub is_paused: bool,
}

/// As many watch as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyViewers;

/// Who watches. Its place is free again when this is dropped.
pub struct Viewer {
    shared: Arc<Shared>,
    whose: Whose,
    access: Arc<ViewerAccess>,
    updates: broadcast::Receiver<Arc<Update>>,
    /// What was there when the viewer came.
    pub history: Vec<Sample>,
    /// The tables then, unless the sampler has just begun.
    pub now: Option<Arc<Now>>,
    _permit: OwnedSemaphorePermit,
}

impl OverviewFeed {
    /// Samples `store` and `metrics` while somebody watches.
    pub fn start(
        store: Store,
        settings: &Settings,
        metrics: Metrics,
        pauses: &PauseWatch,
        handlers: KnownHandlers,
        handler_watch: &HandlerWatch,
    ) -> Self {
        let (updates, _) = broadcast::channel(BEHIND);
        let shared = Arc::new(Shared {
            permits: Arc::new(Semaphore::new(VIEWERS)),
            state: Mutex::new(State {
                history: VecDeque::with_capacity(HISTORY),
                now: None,
                viewers: HashMap::new(),
                left: Instant::now(),
            }),
            updates,
            came: Notify::new(),
            stopped: CancellationToken::new(),
            access: Live::new(ViewerAccess::of(&settings.access)),
        });
        let of_reread = Arc::clone(&shared);
        settings.updates.pass_to(move |settings| {
            let before = of_reread.access.get();
            of_reread.access.set(ViewerAccess::of(&settings.access));
            before.replaced.cancel();
        });
        let sampler = Sampler {
            shared: Arc::clone(&shared),
            store,
            metrics,
            pauses: Box::new(pauses.reader()),
            handlers,
            loads: handler_watch.live(),
            differences: Differences::default(),
            last: Instant::now(),
            read: Overview::default(),
            oldest_due: None,
            failures: HashMap::new(),
            failures_due: Instant::now(),
        };
        Self {
            shared,
            _sampler: AbortOnDropHandle::new(tokio::spawn(sampler.run())),
        }
    }

    /// A viewer who may see what is `whose`: a client's, or all.
    ///
    /// # Errors
    /// [`VIEWERS`] watch already.
    pub fn watch(&self, whose: Option<ClientName>) -> Result<Viewer, TooManyViewers> {
        let permit = Arc::clone(&self.shared.permits).try_acquire_owned();
        let permit = permit.map_err(|_| TooManyViewers)?;
        // Before the state, which can be newer but not older than what it allows.
        let access = self.shared.access.get();
        let mut state = self.shared.state();
        *state.viewers.entry(whose.clone()).or_default() += 1;
        let viewer = Viewer {
            shared: Arc::clone(&self.shared),
            whose,
            access,
            // Under the lock, so that the history and what follows have no gap.
            updates: self.shared.updates.subscribe(),
            history: state.history.iter().cloned().collect(),
            now: state.now.clone(),
            _permit: permit,
        };
        drop(state);
        self.shared.came.notify_one();
        Ok(viewer)
    }

    /// Ends the streams of all viewers, also of those who come from now on.
    pub fn stop(&self) {
        self.shared.stopped.cancel();
    }
}

impl ViewerAccess {
    fn of(settings: &AccessSettings) -> Self {
        Self {
            replaced: CancellationToken::new(),
            clients_see_totals: settings.metrics_token.is_none() && settings.metrics_addr.is_none(),
        }
    }
}

impl Viewer {
    /// The next update. `None` when the viewer has to leave: it was too slow, its access has to be
    /// checked anew, or the process ends.
    pub async fn next(&mut self) -> Option<Arc<Update>> {
        tokio::select! {
            biased;
            () = self.shared.stopped.cancelled() => None,
            () = self.access.replaced.cancelled() => None,
            update = self.updates.recv() => update.ok(),
        }
    }

    /// Whether it sees the requests of all tenants.
    pub fn sees_all(&self) -> bool {
        self.whose.is_none()
    }

    /// Whether it sees the totals of the service.
    pub fn sees_totals(&self) -> bool {
        self.sees_all() || self.access.clients_see_totals
    }

    /// The client whose requests it sees, unless it sees all.
    pub fn client(&self) -> Option<&ClientName> {
        self.whose.as_ref()
    }

    /// The receivers that it may see.
    pub fn receivers<'a>(&self, now: &'a Now) -> impl Iterator<Item = &'a ReceiverNow> {
        let all = self.sees_all();
        let tenant = self.whose.as_ref().map(ToString::to_string);
        let receivers = now.receivers.iter();
        receivers
            .filter(move |it| all || it.tenant == tenant)
            .take(RECEIVERS)
    }

    /// The failed requests that it may see, newest first. `None` if they are not read yet.
    pub fn failures<'a>(&self, now: &'a Now) -> Option<&'a [RequestSummary]> {
        now.failures.get(&self.whose).map(|list| &**list)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(viewers) = state.viewers.get_mut(&self.whose) {
            *viewers -= 1;
            if *viewers == 0 {
                state.viewers.remove(&self.whose);
            }
        }
        state.left = Instant::now();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No change under this lock can be left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose requests are watched now; `None` if nobody has watched for a while.
    fn watched(&self) -> Option<Vec<Whose>> {
        let state = self.state();
        let is_watched = !state.viewers.is_empty() || state.left.elapsed() < LINGER;
        is_watched.then(|| state.viewers.keys().cloned().collect())
    }

    fn publish(&self, update: Update) {
        let mut state = self.state();
        if state.history.len() == HISTORY {
            state.history.pop_front();
        }
        state.history.push_back(update.sample.clone());
        state.now = Some(Arc::clone(&update.now));
        // An error: nobody watches at the moment.
        let _ = self.updates.send(Arc::new(update));
    }
}

struct Sampler {
    shared: Arc<Shared>,
    store: Store,
    metrics: Metrics,
    pauses: Box<dyn Fn() -> Pauses + Send + Sync>,
    handlers: KnownHandlers,
    loads: Live<Option<Loads>>,
    differences: Differences,
    /// When the last sample was taken.
    last: Instant,
    /// What was read last.
    read: Overview,
    oldest_due: Option<Duration>,
    failures: HashMap<Whose, Arc<[RequestSummary]>>,
    failures_due: Instant,
}

impl Sampler {
    async fn run(mut self) {
        loop {
            // Registered before the look, so that a viewer in between is not missed.
            let came = Arc::clone(&self.shared);
            let came = came.came.notified();
            let Some(watched) = self.shared.watched() else {
                // Rates over the time that nobody watched would say nothing.
                self.differences = Differences::default();
                came.await;
                continue;
            };
            let begun = Instant::now();
            let update = self.take(&watched).await;
            self.shared.publish(update);
            let took = begun.elapsed();
            let pause = PERIOD
                .saturating_sub(took)
                .max(took * PAUSE_FACTOR)
                .min(LONGEST_PAUSE);
            sleep(pause).await;
        }
    }

    async fn take(&mut self, watched: &[Whose]) -> Update {
        let read = timeout(READ_TIMEOUT, self.read(watched)).await;
        let is_stale = !matches!(read, Ok(Ok(())));
        let rates = self.differences.of_workers(&self.read.workers);
        let elapsed = self.last.elapsed();
        self.last = Instant::now();
        let figures = self.metrics.live();
        let sample = self
            .differences
            .sample(figures, elapsed, &rates, self.oldest_due);
        let pauses = (self.pauses)();
        let workers = self.read.workers.iter().cloned().zip(rates).collect();
        let now = Now {
            is_stale,
            receivers: receivers(&self.read, &pauses),
            pauses,
            workers,
            handlers: self.handlers.current(),
            loads: self.loads.get(),
            failures: self.failures.clone(),
        };
        Update {
            sample,
            now: Arc::new(now),
        }
    }

    /// Reads the store. What fails is left as it was.
    async fn read(&mut self, watched: &[Whose]) -> Result<(), StoreError> {
        self.read = self.store.overview().await?;
        self.oldest_due = self.store.oldest_due_age().await?;
        let is_new = |whose| !self.failures.contains_key(whose);
        let is_due = self.failures_due <= Instant::now() || watched.iter().any(is_new);
        // Without viewers the last lists stay: who reloads the page finds them.
        if watched.is_empty() || !is_due {
            return Ok(());
        }
        let begun = Instant::now();
        let mut failures = HashMap::new();
        for whose in watched {
            let scope = whose.clone().map_or(Scope::All, Scope::Of);
            let list = self.store.list(scope, failed()).await?;
            failures.insert(whose.clone(), list.requests.into());
        }
        self.failures = failures;
        let pause = FAILURES_PERIOD.max(begun.elapsed() * FAILURES_PAUSE_FACTOR);
        self.failures_due = Instant::now() + pause;
        Ok(())
    }
}

/// The newest failed requests.
fn failed() -> ListPage {
    ListPage {
        filter: RequestFilter {
            status: Some(Status::Failed),
            ..RequestFilter::default()
        },
        before: None,
        limit: FAILURES,
    }
}

/// The receivers that a worker or a backlog names: those that hold back most first.
fn receivers(read: &Overview, pauses: &Pauses) -> Vec<ReceiverNow> {
    let mut all = BTreeMap::new();
    let mut of = |tenant: &Option<String>, origin: &str, change: &dyn Fn(&mut ReceiverNow)| {
        let name = (origin.to_owned(), tenant.clone());
        change(all.entry(name).or_insert_with(|| ReceiverNow {
            tenant: tenant.clone(),
            origin: origin.to_owned(),
            breaker: None,
            jobs: 0,
            backlog: None,
            is_paused: pauses.origins.iter().any(|it| it.as_str() == origin),
        }));
    };
    let reports = read.workers.iter().filter_map(|it| it.report.as_ref());
    for reported in reports.flat_map(|report| &report.receivers) {
        of(&reported.tenant, &reported.origin, &|it| {
            it.breaker = it.breaker.max(Some(reported.breaker));
            it.jobs = it.jobs.saturating_add(reported.jobs);
        });
    }
    for counted in &read.destinations {
        of(&counted.tenant, &counted.origin, &|it| {
            it.backlog = Some(counted.backlog);
        });
    }
    let mut all: Vec<_> = all.into_values().collect();
    // Stable: those of the same rank stay in the order of their names.
    all.sort_by_key(|it| {
        let breaker = it.breaker.unwrap_or(BreakerState::Closed);
        std::cmp::Reverse((breaker, it.backlog.unwrap_or(0), it.jobs))
    });
    all
}

#[cfg(test)]
mod tests {
    use storm_shared::{
        models::{BreakerState, ReceiverReport, WorkerReport},
        services::store::{DestinationStats, Overview, Pauses, WorkerSeen},
    };

    use super::receivers;

    fn worker(receivers: Vec<(Option<&str>, &str, BreakerState, u32)>) -> WorkerSeen {
        let mut report = WorkerReport::new(0);
        let receiver =
            |(tenant, origin, breaker, jobs): (Option<&str>, &str, _, _)| ReceiverReport {
                tenant: tenant.map(str::to_owned),
                origin: origin.to_owned(),
                breaker,
                jobs,
            };
        report.set_receivers(receivers.into_iter().map(receiver).collect());
        WorkerSeen {
            owner: String::new(),
            heartbeat_age_ms: Some(0),
            report: Some(report),
        }
    }

    #[test]
    fn the_workers_and_the_backlogs_are_joined_by_tenant_and_origin_and_trouble_comes_first() {
        let (up, down) = ("http://up.example", "http://down.example");
        let read = Overview {
            workers: vec![
                worker(vec![
                    (None, up, BreakerState::Closed, 3),
                    (Some("one"), down, BreakerState::HalfOpen, 1),
                ]),
                worker(vec![
                    (None, up, BreakerState::Closed, 4),
                    (Some("one"), down, BreakerState::Open, 0),
                ]),
            ],
            destinations: vec![DestinationStats {
                tenant: Some("two".to_owned()),
                origin: down.to_owned(),
                backlog: 9,
            }],
        };
        let pauses = Pauses {
            origins: [down.parse().unwrap()].into_iter().collect(),
            ..Pauses::default()
        };
        let seen: Vec<_> = receivers(&read, &pauses)
            .into_iter()
            .map(|it| {
                (
                    it.tenant,
                    it.origin,
                    it.breaker,
                    it.jobs,
                    it.backlog,
                    it.is_paused,
                )
            })
            .collect();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            seen,
            [
                (
                    text("one"),
                    down.to_owned(),
                    Some(BreakerState::Open),
                    1,
                    None,
                    true
                ),
                (text("two"), down.to_owned(), None, 0, Some(9), true),
                (
                    None,
                    up.to_owned(),
                    Some(BreakerState::Closed),
                    7,
                    None,
                    false
                ),
            ]
        );
    }
}
