//! The figures of the live page: one sampler takes them once a second for all who watch.
//!
//! * This file: who watches, what of it they may see, and the history that they begin with.
//! * `sampler`: takes the figures while somebody watches, and for a minute after that. What it
//!   reads of the workers they have written themselves, with their heartbeats. `reads`: what it
//!   reads of the store, beside it. `sample`: the figures of a second. `receivers`: what workers
//!   and backlogs say of these.

mod reads;
mod receivers;
mod sample;
mod sampler;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use storm_shared::{
    config::{AccessSettings, Handlers, Settings},
    live::Live,
    models::{BreakerState, ClientName, RequestSummary},
    services::store::{Pauses, Store, WorkerSeen},
};
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use self::sample::{Percentiles, Sample, WorkerRate};
use self::{reads::StoreReader, sampler::Sampler};
use crate::{
    handler_watch::{HandlerWatch, Loads},
    handlers::KnownHandlers,
    metrics::Metrics,
    pauses::PauseWatch,
};

/// The most viewers at a time who are no operators.
pub const VIEWERS: usize = 56;

/// The most of them who watch as one client: it keeps no other client from watching.
pub const VIEWERS_OF_CLIENT: usize = 8;

/// The most operators who watch at a time, whoever else does.
pub const OPERATORS: usize = 8;

/// The interval between samples.
pub const PERIOD: Duration = Duration::from_secs(1);

/// The most samples that are kept: five minutes.
const HISTORY: usize = 300;

/// How long the sampler goes on without viewers: who reloads the page finds its history.
const LINGER: Duration = Duration::from_mins(1);

/// The most receivers that are shown.
const RECEIVERS: usize = 50;

/// Updates that a viewer may be behind.
const BEHIND: usize = 8;

/// Whose requests a viewer may see: those of one client, or all.
type Whose = Option<ClientName>;

/// The feed of the live page. Samples until it is dropped.
pub struct OverviewFeed {
    shared: Arc<Shared>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

struct Shared {
    state: Mutex<State>,
    updates: broadcast::Sender<Arc<Update>>,
    /// A viewer has come. The sampler waits for it, and the lists of failures.
    came: watch::Sender<()>,
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
    /// How many of the viewers are operators.
    operators: usize,
    /// When the last viewer left; `None` if there was none since the start.
    left: Option<Instant>,
    failures: Failures,
}

/// The newest failed requests of each client that is watched, and of all.
type Failures = HashMap<Whose, Arc<[RequestSummary]>>;

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
    failures: Failures,
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
    is_operator: bool,
    access: Arc<ViewerAccess>,
    updates: broadcast::Receiver<Arc<Update>>,
    /// What was there when the viewer came.
    pub history: Vec<Sample>,
    /// The tables then, unless the sampler has just begun.
    pub now: Option<Arc<Now>>,
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
            state: Mutex::new(State {
                history: VecDeque::with_capacity(HISTORY),
                now: None,
                viewers: HashMap::new(),
                operators: 0,
                left: None,
                failures: Failures::new(),
            }),
            updates,
            came: watch::Sender::new(()),
            stopped: CancellationToken::new(),
            access: Live::new(ViewerAccess::of(&settings.access)),
        });
        let of_reread = Arc::clone(&shared);
        settings.updates.pass_to(move |settings| {
            let before = of_reread.access.get();
            of_reread.access.set(ViewerAccess::of(&settings.access));
            before.replaced.cancel();
        });
        let failures = reads::failures(Arc::clone(&shared), store.clone());
        let sampler = Sampler::new(
            Arc::clone(&shared),
            StoreReader::new(store),
            metrics,
            pauses,
            handlers,
            handler_watch,
        );
        Self {
            shared,
            _tasks: [
                AbortOnDropHandle::new(tokio::spawn(sampler.run())),
                AbortOnDropHandle::new(tokio::spawn(failures)),
            ],
        }
    }

    /// A viewer who may see what a client may, or a caller without a name: then all.
    ///
    /// # Errors
    /// [`VIEWERS`] watch already, or [`VIEWERS_OF_CLIENT`] as this client.
    pub fn watch(&self, whose: Option<ClientName>) -> Result<Viewer, TooManyViewers> {
        self.watch_as(whose, false)
    }

    /// An operator, who may see all.
    ///
    /// # Errors
    /// [`OPERATORS`] watch already.
    pub fn watch_as_operator(&self) -> Result<Viewer, TooManyViewers> {
        self.watch_as(None, true)
    }

    fn watch_as(&self, whose: Whose, is_operator: bool) -> Result<Viewer, TooManyViewers> {
        // Before the state, which can be newer but not older than what it allows.
        let access = self.shared.access.get();
        let mut state = self.shared.state();
        if !state.has_room(&whose, is_operator) {
            return Err(TooManyViewers);
        }
        state.operators += usize::from(is_operator);
        *state.viewers.entry(whose.clone()).or_default() += 1;
        let viewer = Viewer {
            shared: Arc::clone(&self.shared),
            whose,
            is_operator,
            access,
            // Under the lock, so that the history and what follows have no gap.
            updates: self.shared.updates.subscribe(),
            history: state.history.iter().cloned().collect(),
            now: state.now.clone(),
        };
        drop(state);
        self.shared.came.send_replace(());
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

impl State {
    /// Whether one more may watch as this client, or as an operator.
    fn has_room(&self, whose: &Whose, is_operator: bool) -> bool {
        if is_operator {
            return self.operators < OPERATORS;
        }
        let own = self.viewers.get(whose).copied().unwrap_or(0);
        let all: usize = self.viewers.values().sum();
        all - self.operators < VIEWERS && (whose.is_none() || own < VIEWERS_OF_CLIENT)
    }
}

impl Viewer {
    /// What there was before is sent, and needs no more room.
    pub fn has_begun(&mut self) {
        (self.history, self.now) = (Vec::new(), None);
    }

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
        state.operators -= usize::from(self.is_operator);
        if let Some(viewers) = state.viewers.get_mut(&self.whose) {
            *viewers -= 1;
            if *viewers == 0 {
                state.viewers.remove(&self.whose);
            }
        }
        state.left = Some(Instant::now());
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No change under this lock can be left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose requests are watched now; `None` if nobody has watched for a while. Then the history
    /// is too old to be shown.
    fn watched(&self) -> Option<Vec<Whose>> {
        let mut state = self.state();
        let lingers = state.left.is_some_and(|left| left.elapsed() < LINGER);
        if state.viewers.is_empty() && !lingers {
            state.history.clear();
            state.now = None;
            state.failures.clear();
            return None;
        }
        Some(state.viewers.keys().cloned().collect())
    }

    fn set_failures(&self, lists: Failures, watched: &[Whose]) {
        let mut state = self.state();
        // Those of clients that are gone. A list that could not be read stays as it was.
        state.failures.retain(|whose, _| watched.contains(whose));
        state.failures.extend(lists);
    }

    fn add_failures(&self, lists: Failures) {
        self.state().failures.extend(lists);
    }

    /// Who watches, and has no list of failures yet.
    fn without_failures(&self) -> Vec<Whose> {
        let state = self.state();
        let all = state.viewers.keys();
        all.filter(|whose| !state.failures.contains_key(*whose))
            .cloned()
            .collect()
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
