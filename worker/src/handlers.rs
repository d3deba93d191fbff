//! The handlers of a worker, by name: what the job pipeline knows of each of them.
//!
//! * [`http`]: the work is a POST to the operator's endpoint. `report`: the built-in one.
//! * `gate`: the circuit breaker of a handler.
//! * `callback_body`: what a callback says of the work.

mod callback_body;
mod gate;
pub mod http;
mod report;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use storm_shared::{
    config::{HandlerKind, HandlerSettings, Settings},
    live::Live,
    memory::MemoryBudget,
    models::{self, HandlerName},
    services::store::{self, Worked},
};
use tokio::sync::watch;
use tracing::{error, warn};

pub(crate) use self::gate::Gate;
use self::{
    http::{HttpClient, HttpEndpoint, HttpHandler},
    report::Report,
};
use crate::{
    breaker::{Admission, Trouble},
    handler::{Context, Failure, Handler, Job, Output},
    room::{Room, WeakRoom},
    schedule::Schedule,
};

/// A handler as the pipeline sees it. Every [`Handler`] is one.
pub(crate) trait Work: Send + Sync {
    /// [`Handler::run`].
    fn run<'a>(
        &'a self,
        job: &'a store::Job,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Output, Failure>>;

    /// How long the work of a job is expected to take, if that is known.
    fn expected(&self, _: &store::Job) -> Option<Duration> {
        None
    }

    /// Whether each attempt gives the same result, and never fails. Then no attempt is recorded,
    /// and the result of quick work can be stored together with its first outcome.
    fn is_deterministic(&self) -> bool {
        false
    }

    /// Whether an attempt ends at its deadline by itself. Then it may wait longer for what this
    /// worker lacks.
    fn keeps_its_deadline(&self) -> bool {
        false
    }

    /// The body of the callback: the same bytes on every attempt and every worker, so that
    /// receivers can compare repeats.
    ///
    /// # Errors
    /// What is stored of the job was edited outside the service.
    fn callback_body(&self, job: &store::Job, worked: &Worked) -> Result<Bytes, models::Failure> {
        Ok(callback_body::of(job, worked))
    }
}

/// Handlers in Rust, by name.
pub(crate) type CodeByName = BTreeMap<HandlerName, Arc<dyn Work>>;

/// The work of a [`Handler`].
pub(crate) struct Code<H> {
    handler: H,
    keeps_its_deadline: bool,
}

impl<H> Code<H> {
    /// Of code that is dropped at its deadline.
    pub(crate) fn new(handler: H) -> Self {
        Self {
            handler,
            keeps_its_deadline: false,
        }
    }
}

impl<H: Handler> Work for Code<H> {
    fn run<'a>(
        &'a self,
        job: &'a store::Job,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Output, Failure>> {
        let seen = as_seen(job);
        // Within the future: a handler can panic before it returns one.
        async move { self.handler.run(&seen, context).await }.boxed()
    }

    fn keeps_its_deadline(&self) -> bool {
        self.keeps_its_deadline
    }
}

fn as_seen(job: &store::Job) -> Job {
    Job {
        id: job.claim.id,
        handler: job.handler.clone(),
        payload: job.input.clone(),
        client: job.created_by.clone(),
    }
}

/// A handler that this worker serves.
pub(crate) struct Served {
    pub(crate) name: HandlerName,
    pub(crate) work: Arc<dyn Work>,
    /// For the jobs whose work runs at a time in this worker: its concurrency.
    pub(crate) room: Room,
    pub(crate) gate: Gate,
    limits: Live<Limits>,
    /// Of an HTTP handler.
    endpoint: Option<(Live<HttpEndpoint>, Arc<Code<HttpHandler>>)>,
}

/// The limits of a handler that can change while its jobs run.
pub(crate) struct Limits {
    /// Time for one attempt.
    pub(crate) timeout: Duration,
    /// When a failed attempt is followed by another one.
    pub(crate) schedule: Schedule,
    /// The bytes of a result of code. That of an endpoint is bounded while it is read.
    max_result: Option<usize>,
}

impl Limits {
    /// `output`, if it is not too large.
    pub(crate) fn check(&self, output: Output) -> Result<Output, Failure> {
        match self.max_result {
            Some(most) if output.as_str().len() > most => Err(Failure::too_large(most)),
            _ => Ok(output),
        }
    }
}

impl Served {
    /// Those of the next attempt.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        self.limits.get()
    }
}

/// The handlers that a worker serves: the report, and those of the settings. Clones share them.
#[derive(Clone)]
pub struct Handlers(Arc<Shared>);

struct Shared {
    served: RwLock<BTreeMap<HandlerName, Arc<Served>>>,
    /// Also those of handlers that are gone, while their jobs run: the limit counts those if the
    /// handler comes back.
    rooms: Mutex<BTreeMap<HandlerName, WeakRoom>>,
    code: CodeByName,
    client: HttpClient,
    memory: MemoryBudget,
    /// The slots of this worker: fewer than in its settings, if its descriptors do not suffice.
    slots: usize,
    changes: watch::Sender<()>,
}

/// No report takes longer than a few minutes. Nothing ends one at this time.
const LONGEST_REPORT: Duration = Duration::from_hours(1);

/// The settings name a handler in Rust that this program does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "HANDLERS__{}__KIND: this program has no handler `{handler}` in Rust; register it with \
     `storm_worker::Builder`, or set its `url`",
    handler.as_str().to_uppercase()
)]
pub struct MissingCode {
    handler: HandlerName,
}

impl Handlers {
    /// The report and the handlers of `settings`, none of which is in Rust.
    ///
    /// # Errors
    /// One is.
    pub fn without_code(settings: &Settings, client: HttpClient) -> Result<Self, MissingCode> {
        Self::of(settings, CodeByName::new(), client)
    }

    /// The report and the handlers of `settings`, with `code` for those in Rust.
    ///
    /// # Errors
    /// There is no code for one of them.
    pub(crate) fn of(
        settings: &Settings,
        code: CodeByName,
        client: HttpClient,
    ) -> Result<Self, MissingCode> {
        let missing = settings
            .handlers
            .iter()
            .find(|it| matches!(it.kind, HandlerKind::Rust) && !code.contains_key(&it.name));
        if let Some(missing) = missing {
            let handler = missing.name.clone();
            return Err(MissingCode { handler });
        }
        let handlers = Self(Arc::new(Shared {
            served: RwLock::default(),
            rooms: Mutex::default(),
            code,
            client,
            memory: MemoryBudget::new(settings.memory_budget),
            slots: settings.worker.concurrency as usize,
            changes: watch::Sender::new(()),
        }));
        handlers.update(settings);
        Ok(handlers)
    }

    /// Takes over the handlers of other `settings`. One whose kind stays goes on with its new
    /// limits from the next attempt on. Another one begins anew. Attempts under way end under the
    /// limits with which they began, also of a handler that is gone, and count against the new
    /// concurrency.
    pub(crate) fn update(&self, settings: &Settings) {
        let mut served = self
            .0
            .served
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let share = SlotShare::of(settings, self.0.slots);
        let mut next = BTreeMap::new();
        let report = served.remove(&HandlerName::REPORT);
        let report = report.unwrap_or_else(|| built_in(settings));
        next.insert(HandlerName::REPORT, report);
        for handler in settings.handlers.iter() {
            let before = served.remove(&handler.name);
            let concurrency = share.fit(handler.concurrency as usize);
            let kept = before.filter(|before| before.takes_over(handler, concurrency));
            if let Some(handler) = kept.or_else(|| self.serve(handler, concurrency)) {
                next.insert(handler.name.clone(), handler);
            }
        }
        *served = next;
        drop(served);
        self.0.changes.send_replace(());
    }

    /// The one with this name, if this worker serves it.
    pub(crate) fn get(&self, name: &HandlerName) -> Option<Arc<Served>> {
        let served = self.0.served.read().unwrap_or_else(PoisonError::into_inner);
        served.get(name).cloned()
    }

    /// All but the report, as they are now.
    pub(crate) fn others(&self) -> Vec<Arc<Served>> {
        let served = self.0.served.read().unwrap_or_else(PoisonError::into_inner);
        let all = served.values();
        all.filter(|it| it.name != HandlerName::REPORT)
            .cloned()
            .collect()
    }

    /// The names of all but the report: first of those whose jobs may be claimed, then of those
    /// whose circuit breaker is open.
    pub(crate) fn by_gate(&self) -> (Vec<HandlerName>, Vec<HandlerName>) {
        let (mut pass, mut wait) = (Vec::new(), Vec::new());
        for handler in self.others() {
            let names = match handler.gate.admission() {
                Admission::All | Admission::Probe => &mut pass,
                Admission::Overdue { .. } => &mut wait,
            };
            names.push(handler.name.clone());
        }
        (pass, wait)
    }

    /// The circuit breakers that are not closed, by handler.
    pub(crate) fn troubled(&self) -> Vec<(HandlerName, Trouble)> {
        let others = self.others();
        let troubled = others.iter().filter_map(|it| {
            let trouble = it.gate.trouble()?;
            Some((it.name.clone(), trouble))
        });
        troubled.collect()
    }

    /// The names of all but the report, as they are now.
    pub(crate) fn names(&self) -> Vec<HandlerName> {
        let others = self.others();
        others.iter().map(|it| it.name.clone()).collect()
    }

    /// How many jobs of all of them may run at a time.
    pub(crate) fn concurrency(&self) -> usize {
        self.others().iter().map(|it| it.room.permits()).sum()
    }

    /// Tells when they have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// The worker's memory budget, in which results count while they are read.
    pub(crate) fn memory(&self) -> &MemoryBudget {
        &self.0.memory
    }

    /// The body of a job's callback. Any worker can make it, also one that does not serve the
    /// job's handler.
    ///
    /// # Errors
    /// What is stored of the job was edited outside the service.
    pub(crate) fn callback_body(
        &self,
        job: &store::Job,
        worked: &Worked,
    ) -> Result<Bytes, models::Failure> {
        match self.get(&job.handler) {
            Some(served) => served.work.callback_body(job, worked),
            None => Ok(callback_body::of(job, worked)),
        }
    }

    fn code_of(&self, name: &HandlerName) -> Option<&Arc<dyn Work>> {
        let code = self.0.code.get(name);
        if code.is_none() {
            // Only of settings that were reread: at the start it is an error.
            let handler = name.clone();
            error!(error = %MissingCode { handler }, "a handler is not served");
        }
        code
    }

    /// The room of a handler that begins anew, which its jobs of before may hold in part.
    fn room_of(&self, name: &HandlerName, concurrency: usize) -> Room {
        let rooms = self.0.rooms.lock();
        let mut rooms = rooms.unwrap_or_else(PoisonError::into_inner);
        rooms.retain(|_, room| room.upgrade().is_some());
        let before = rooms.get(name).and_then(WeakRoom::upgrade);
        let room = before.unwrap_or_else(|| Room::new(concurrency));
        room.resize(concurrency);
        rooms.insert(name.clone(), room.downgrade());
        room
    }

    fn serve(&self, settings: &HandlerSettings, concurrency: usize) -> Option<Arc<Served>> {
        let endpoint = endpoint(settings).map(|endpoint| {
            let endpoint = Live::new(endpoint);
            let handler = HttpHandler::new(
                self.0.client.clone(),
                endpoint.clone(),
                concurrency,
                self.0.memory.clone(),
            );
            let work = Code {
                handler,
                keeps_its_deadline: true,
            };
            (endpoint, Arc::new(work))
        });
        let work: Arc<dyn Work> = match &endpoint {
            Some((_, work)) => Arc::clone(work) as _,
            None => Arc::clone(self.code_of(&settings.name)?),
        };
        Some(Arc::new(Served {
            name: settings.name.clone(),
            work,
            room: self.room_of(&settings.name, concurrency),
            gate: Gate::new(),
            limits: Live::new(limits_of(settings)),
            endpoint,
        }))
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handlers").field(&self.names()).finish()
    }
}

impl Served {
    /// Takes over `settings` if it need not begin anew for that.
    fn takes_over(&self, settings: &HandlerSettings, concurrency: usize) -> bool {
        let now = endpoint(settings);
        if now.is_some() != self.endpoint.is_some() {
            return false;
        }
        self.room.resize(concurrency);
        if let (Some((endpoint, work)), Some(now)) = (&self.endpoint, now) {
            endpoint.set(now);
            work.handler.keep_at_most(concurrency);
        }
        self.limits.set(limits_of(settings));
        true
    }
}

/// The half of a worker's slots that is for the work of handlers.
struct SlotShare {
    half: usize,
    handlers: usize,
    /// What their settings say in total.
    concurrency: usize,
}

impl SlotShare {
    /// Warns if the worker has fewer slots than `settings` need.
    fn of(settings: &Settings, slots: usize) -> Self {
        let handlers = settings.handlers.iter();
        let share = Self {
            half: slots / 2,
            handlers: handlers.len(),
            concurrency: handlers.map(|it| it.concurrency as usize).sum(),
        };
        if !share.suffices() {
            warn!(
                slots,
                concurrency = share.concurrency,
                "this worker has fewer slots than twice the concurrency of its handlers, which is \
                 lowered in proportion"
            );
        }
        share
    }

    fn suffices(&self) -> bool {
        self.concurrency <= self.half
    }

    /// What a handler may run at a time of the `concurrency` in its settings: at least one job, and
    /// all of them together at most half of the slots, if that is one for each.
    fn fit(&self, concurrency: usize) -> usize {
        if self.suffices() {
            return concurrency;
        }
        let shared = self.half.saturating_sub(self.handlers);
        let wanted = (self.concurrency - self.handlers).max(1);
        1 + (concurrency - 1) * shared / wanted
    }
}

/// The report.
fn built_in(settings: &Settings) -> Arc<Served> {
    Arc::new(Served {
        name: HandlerName::REPORT,
        work: Arc::new(Report),
        room: Room::new(settings.worker.concurrency as usize),
        gate: Gate::new(),
        limits: Live::new(Limits {
            timeout: LONGEST_REPORT,
            schedule: Schedule::new(&settings.callback.retry),
            max_result: None,
        }),
        endpoint: None,
    })
}

fn limits_of(settings: &HandlerSettings) -> Limits {
    let is_code = matches!(settings.kind, HandlerKind::Rust);
    Limits {
        timeout: settings.timeout,
        schedule: Schedule::new(&settings.retry),
        max_result: is_code.then_some(settings.max_result),
    }
}

fn endpoint(settings: &HandlerSettings) -> Option<HttpEndpoint> {
    match &settings.kind {
        HandlerKind::Rust => None,
        HandlerKind::Http(http) => Some(HttpEndpoint {
            url: http.url.clone(),
            headers: http.headers.clone(),
            signer: http.signer.clone(),
            max_result: settings.max_result,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use storm_shared::config::Settings;

    use super::{Handlers, http::HttpClient};
    use crate::delivery::Network;

    /// The concurrency of each handler in a worker that has `slots` slots, after a reread, too.
    fn concurrency(slots: u32) -> Vec<usize> {
        let settings = Settings::with([
            ("WORKER_CONCURRENCY", "1000"),
            ("HANDLERS__A__URL", "http://127.0.0.1:1/"),
            ("HANDLERS__A__CONCURRENCY", "400"),
            ("HANDLERS__B__URL", "http://127.0.0.1:1/"),
            ("HANDLERS__B__CONCURRENCY", "1"),
            ("HANDLERS__C__URL", "http://127.0.0.1:1/"),
            ("HANDLERS__C__CONCURRENCY", "99"),
        ]);
        let settings = settings.unwrap();
        let mut shrunk = settings.clone();
        shrunk.worker.concurrency = slots;
        let client = HttpClient::new(Network::system(), None).unwrap();
        let handlers = Handlers::without_code(&shrunk, client).unwrap();
        let now = || {
            handlers
                .others()
                .iter()
                .map(|it| it.room.permits())
                .collect()
        };
        let at_start: Vec<_> = now();
        handlers.update(&settings);
        assert_eq!(at_start, now(), "the slots of the process count");
        at_start
    }

    #[tokio::test]
    async fn handlers_get_half_of_the_slots_that_there_are_and_each_at_least_one() {
        assert_eq!(concurrency(1000), [400, 1, 99]);
        assert_eq!(concurrency(100), [38, 1, 10]);
        for slots in [6, 7, 30, 999] {
            let fitted = concurrency(slots);
            assert!(
                fitted.iter().sum::<usize>() <= slots as usize / 2,
                "{fitted:?}"
            );
        }
        assert_eq!(concurrency(2), [1, 1, 1]);
    }

    /// The handler `own` with this concurrency; none, if that is zero.
    fn own(concurrency: usize) -> Settings {
        let concurrency_text = concurrency.to_string();
        let own = [
            ("HANDLERS__OWN__URL", "http://127.0.0.1:1/"),
            ("HANDLERS__OWN__CONCURRENCY", concurrency_text.as_str()),
        ];
        let own = if concurrency == 0 {
            &own[..0]
        } else {
            &own[..]
        };
        Settings::with(own.iter().copied()).unwrap()
    }

    #[tokio::test]
    async fn what_runs_counts_against_the_concurrency_that_a_reread_sets() {
        let client = HttpClient::new(Network::system(), None).unwrap();
        let handlers = Handlers::without_code(&own(4), client).unwrap();
        let name = "own".parse().unwrap();
        let free = || {
            let served = handlers.get(&name).unwrap();
            served.room.take_up_to(usize::MAX).count()
        };
        let before = handlers.get(&name).unwrap();
        let mut held = before.room.take_up_to(3);
        handlers.update(&own(2));
        let after = handlers.get(&name).unwrap();
        assert!(Arc::ptr_eq(&before, &after), "it goes on");
        assert_eq!(free(), 0);
        drop(held.split(2));
        assert_eq!(free(), 1);
        handlers.update(&own(6));
        assert_eq!(free(), 5);
        // Also of a handler that is removed and comes back while its job runs.
        drop((before, after));
        handlers.update(&own(0));
        assert!(handlers.get(&name).is_none());
        handlers.update(&own(2));
        assert_eq!(free(), 1);
        drop(held);
        assert_eq!(free(), 2);
    }
}
