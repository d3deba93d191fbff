//! A worker's lease on its jobs: its own heartbeat, and lease expiry of workers whose heartbeat
//! stops.
//!
//! One row for each worker holds a counter that every heartbeat increments. No wall clock is
//! compared: each worker judges the others by its own monotonic clock.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use storm_shared::{
    models::{HandlerName, WorkerReport},
    outage::Outage,
    services::store::{Ended, Heartbeat, OpenBreaker, OwnerId, Pauses, Store, StoreError},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{in_hand::InHand, pauses::KnownPauses};
use crate::{breaker::Trouble, handlers::Handlers, metrics::Metrics};

/// The longest interval between two heartbeats. It adds to the time until a dead worker's jobs are
/// reclaimed.
const LONGEST_INTERVAL: Duration = Duration::from_millis(500);

/// Heartbeats within a lease, where that gives a shorter interval.
const HEARTBEATS: u32 = 20;

/// How often a heartbeat brings the worker's report. It is for people, and makes the write larger.
const REPORT_INTERVAL: Duration = Duration::from_millis(900);

/// A worker's right to hold jobs. It lasts as long as heartbeats renew it.
pub struct Lease {
    store: Store,
    length: Duration,
    max_claims: u32,
    in_hand: InHand,
    handlers: Handlers,
    /// Those that the worker's row has.
    served: Mutex<Vec<HandlerName>>,
    /// The circuit breakers that are not closed, as the worker's row has them; `None` if that is
    /// not known.
    reported: Mutex<Option<Vec<(HandlerName, Trouble)>>>,
    pauses: KnownPauses,
    metrics: Metrics,
    state: watch::Sender<State>,
    /// Whether its owner's id is the smallest of all workers, as of the last heartbeat.
    is_first: AtomicBool,
    /// The jobs that were ended in this term, which the heartbeat reports.
    ended: AtomicU64,
    /// The long ones among them.
    ended_long: AtomicU64,
    /// Wakes the quarantine, which claims the jobs of an expired worker.
    reclaimed: Notify,
}

/// What `report` makes, if the last one is old enough. One that could not be written is made up for
/// by the next: its figures only grow.
fn now_and_then(report: impl Fn() -> WorkerReport) -> impl FnMut() -> Option<WorkerReport> {
    let mut last: Option<Instant> = None;
    move || {
        let is_due = last.is_none_or(|last| last.elapsed() >= REPORT_INTERVAL);
        is_due.then(|| {
            last = Some(Instant::now());
            report()
        })
    }
}

struct State {
    term: Term,
    /// Whether the owner has its row in `workers`.
    registered: bool,
    /// When the last successful heartbeat began. Its end may be much later, on a slow disk.
    renewed: Instant,
}

/// One registration of this process. If the lease expires, the process continues with a new
/// term under a new owner id.
#[derive(Clone)]
pub struct Term {
    /// The id under which jobs are claimed.
    pub owner: OwnerId,
    /// Cancelled when the lease has expired and other workers have reclaimed the jobs, just before
    /// these are stopped.
    pub lost: CancellationToken,
}

impl Term {
    fn new() -> Self {
        Self {
            owner: OwnerId::generate(),
            lost: CancellationToken::new(),
        }
    }
}

impl Lease {
    /// A lease that expires `length` after its last heartbeat; `keep` sends them.
    /// `max_claims` (`MAX_CLAIMS`) decides which jobs of other expired workers are poison. Jobs
    /// `in_hand` are stopped when their clients have cancelled them, and when it has expired. The
    /// worker serves `handlers`. `pauses` follows the heartbeats.
    pub fn new(
        store: Store,
        length: Duration,
        max_claims: u32,
        in_hand: InHand,
        handlers: Handlers,
        pauses: KnownPauses,
        metrics: Metrics,
    ) -> Arc<Self> {
        let state = State {
            term: Term::new(),
            registered: false,
            renewed: Instant::now(),
        };
        Arc::new(Self {
            store,
            length,
            max_claims,
            in_hand,
            handlers,
            served: Mutex::default(),
            reported: Mutex::new(Some(Vec::new())),
            pauses,
            metrics,
            state: watch::Sender::new(state),
            is_first: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            ended_long: AtomicU64::new(0),
            reclaimed: Notify::new(),
        })
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.state.borrow().term.clone()
    }

    /// The time since the last heartbeat.
    pub fn age(&self) -> Duration {
        self.state.borrow().renewed.elapsed()
    }

    /// The time after which it expires without a heartbeat.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// What is paused, as of the last heartbeat.
    pub fn pauses(&self) -> Pauses {
        self.pauses.current()
    }

    /// Whether this worker does what one of them has to do. For a moment two can think so.
    pub(super) fn is_first(&self) -> bool {
        self.is_first.load(Ordering::Relaxed)
    }

    /// Completes when this worker has reclaimed jobs of an expired one, since the last call.
    pub(super) async fn reclaimed(&self) {
        self.reclaimed.notified().await;
    }

    /// Counts a job that has ended.
    pub(super) fn job_ended(&self, is_long: bool) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.ended_long
            .fetch_add(u64::from(is_long), Ordering::Relaxed);
    }

    /// The current term, as soon as its last heartbeat is less than half a lease old. What starts
    /// later could still be under way when another worker expires the lease.
    pub(super) async fn in_force(&self) -> Term {
        let mut state = self.state.subscribe();
        loop {
            {
                // Marked as seen before the check, so that a heartbeat in between ends the wait
                // below. The borrow ends before the wait: it would block the heartbeat's
                // `send_modify`.
                let state = state.borrow_and_update();
                if state.registered && state.renewed.elapsed() < self.length / 2 {
                    return state.term.clone();
                }
            }
            let _ = state.changed().await; // the sender lives in `self`
        }
    }

    /// Waits like [`Lease::in_force`]; false if the lease under which `owner` claimed was lost.
    pub(super) async fn in_force_for(&self, owner: OwnerId) -> bool {
        self.in_force().await.owner == owner
    }

    /// Registers, sends heartbeats until `stop`, some of them with a `report`, and expires the
    /// leases of workers that send none. A heartbeat under way at `stop` is given up: a database
    /// that hangs must not hold the end up.
    pub(super) async fn keep(
        self: Arc<Self>,
        report: impl Fn() -> WorkerReport,
        stop: CancellationToken,
    ) {
        let mut interval = tokio::time::interval((self.length / HEARTBEATS).min(LONGEST_INTERVAL));
        // After a stall, a burst of the missed heartbeats would renew nothing more than one does.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::new(self.length);
        let mut report = now_and_then(report);
        let mut outage = Outage::default();
        while stop.run_until_cancelled(interval.tick()).await.is_some() {
            let heartbeat = Box::pin(self.heartbeat(&mut watch, &mut report));
            let heartbeat = stop.run_until_cancelled(heartbeat);
            let Some(heartbeat) = heartbeat.await else {
                return;
            };
            match heartbeat {
                Ok(()) if outage.recovered() => info!("heartbeats succeed again"),
                Err(error) if outage.failed() => {
                    warn!(%error, "heartbeat failed; no attempt starts once the last one is half a lease old");
                }
                _ => {}
            }
        }
    }

    /// Ends the lease and returns every job that it holds to the table. Returns their number.
    ///
    /// # Errors
    /// The write failed.
    pub(super) async fn deregister(&self) -> Result<usize, StoreError> {
        self.store.deregister(self.term().owner).await
    }

    async fn heartbeat(
        &self,
        watch: &mut Watch,
        report: &mut impl FnMut() -> Option<WorkerReport>,
    ) -> Result<(), StoreError> {
        if !self.state.borrow().registered {
            return self.register().await;
        }
        // Taken before the write: the row counts from its commit, which can be any moment after
        // this.
        let begun = Instant::now();
        let owner = self.term().owner;
        let ended = Ended {
            jobs: self.ended.load(Ordering::Relaxed),
            long_jobs: self.ended_long.load(Ordering::Relaxed),
        };
        let renewed = match report() {
            Some(report) => self.store.renew_and_report(owner, ended, &report).await,
            None => self.store.renew(owner, ended).await,
        };
        let renewal = match renewed {
            Err(StoreError::LeaseLost) => {
                // What cost this worker its lease may have stalled the others, too.
                *watch = Watch::new(self.length);
                // Before the registration, which can fail: the jobs of the old term must stop now.
                self.start_new_term();
                return self.register().await;
            }
            renewal => renewal?,
        };
        self.in_hand.stop(&renewal.cancelled);
        // Before the lease is renewed: an attempt that waits for that must know of it.
        self.note_pauses(renewal.paused);
        let mut others = renewal.others.iter().filter(|other| other.is_lease());
        let is_first = others.all(|other| owner < other.owner);
        self.is_first.store(is_first, Ordering::Relaxed);
        // Before the expiries: the lease is renewed even if one of them fails.
        self.state.send_modify(|state| state.renewed = begun);
        let names = self.handlers.names();
        if *self.served() != names {
            self.register_handlers(owner, names).await?;
        }
        for dead in watch.renewed(begun, renewal.others, Instant::now()) {
            self.expire(dead).await?;
        }
        // Last: no job waits for it.
        self.report_breakers(owner).await
    }

    async fn register(&self) -> Result<(), StoreError> {
        let (owner, begun) = (self.term().owner, Instant::now());
        self.register_handlers(owner, self.handlers.names()).await?;
        // Before the first claim: a worker that starts must not call a paused origin.
        let pauses = self.store.pauses().await?.into_iter();
        self.note_pauses(pauses.map(|pause| pause.what).collect());
        info!(%owner, "registered");
        self.state.send_modify(|state| {
            state.registered = true;
            state.renewed = begun;
        });
        Ok(())
    }

    async fn register_handlers(
        &self,
        owner: OwnerId,
        names: Vec<HandlerName>,
    ) -> Result<(), StoreError> {
        self.store.register(owner, &names).await?;
        *self.served() = names;
        Ok(())
    }

    /// Writes which circuit breakers of handlers are open, if that has changed.
    async fn report_breakers(&self, owner: OwnerId) -> Result<(), StoreError> {
        let troubled = self.handlers.troubled();
        if self.reported().as_ref() == Some(&troubled) {
            return Ok(());
        }
        let now = Instant::now();
        let report = troubled.iter().map(|(handler, trouble)| {
            let breaker = match trouble {
                Trouble::Open { until } => OpenBreaker::Open {
                    probe_in: until.saturating_duration_since(now),
                },
                Trouble::HalfOpen => OpenBreaker::HalfOpen,
            };
            (handler.clone(), breaker)
        });
        // If it fails, its outcome can be unknown. Then the next heartbeat writes anew, also if the
        // breakers are again as they were before.
        *self.reported() = None;
        self.store.report_breakers(owner, report.collect()).await?;
        *self.reported() = Some(troubled);
        Ok(())
    }

    fn reported(&self) -> MutexGuard<'_, Option<Vec<(HandlerName, Trouble)>>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self) -> MutexGuard<'_, Vec<HandlerName>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_pauses(&self, pauses: Pauses) {
        self.metrics.paused(&pauses);
        self.pauses.update(pauses);
    }

    /// Starts a new term after the lease has expired.
    fn start_new_term(&self) {
        self.state.send_modify(|state| {
            let former = std::mem::replace(&mut state.term, Term::new());
            warn!(owner = %former.owner, "lease lost: other workers have reclaimed its jobs");
            former.lost.cancel();
            self.in_hand.lose(former.owner);
            state.registered = false;
            self.ended.store(0, Ordering::Relaxed);
            self.ended_long.store(0, Ordering::Relaxed);
        });
        // The row of the new term begins without any.
        *self.reported() = Some(Vec::new());
        self.metrics.lost_lease();
    }

    async fn expire(&self, dead: Heartbeat) -> Result<(), StoreError> {
        let owner = dead.owner;
        if let Some(expired) = self.store.expire(dead, self.max_claims).await? {
            // What an expiry before this one has left is locked still.
            if !dead.is_lease() && expired.reclaimed + expired.poisoned == 0 {
                return Ok(());
            }
            self.metrics.expired(&expired);
            self.reclaimed.notify_one();
            warn!(
                %owner,
                reclaimed = expired.reclaimed,
                poisoned = expired.poisoned,
                "lease of a silent worker expired: its jobs are PENDING again"
            );
        }
        Ok(())
    }
}

/// The heartbeats of the other workers, as seen since the last gap in this worker's own.
struct Watch {
    length: Duration,
    last: Option<Instant>,
    /// Each worker's counter, and since when it has had that value.
    seen: HashMap<OwnerId, (i64, Instant)>,
}

impl Watch {
    fn new(length: Duration) -> Self {
        Self {
            length,
            last: None,
            seen: HashMap::new(),
        }
    }

    /// Takes the `others` that a heartbeat, `begun` and done `now`, has found. Returns those whose
    /// counter has not changed for a whole lease, and those that are no lease any more.
    ///
    /// After a gap in the own heartbeats (a stalled database, a suspended process) observation
    /// starts over: the others may not have been able to send theirs either.
    fn renewed(&mut self, begun: Instant, others: Vec<Heartbeat>, now: Instant) -> Vec<Heartbeat> {
        let gap = self
            .last
            .replace(begun)
            .is_none_or(|last| begun - last > self.length / 2);
        if gap {
            self.seen.clear();
        }
        // A worker without a row has expired or left: the rows in `workers` bound this map.
        self.seen
            .retain(|owner, _| others.iter().any(|other| other.owner == *owner));
        others
            .into_iter()
            .filter(|other| {
                if !other.is_lease() {
                    return true;
                }
                let (beat, since) = self.seen.entry(other.owner).or_insert((other.beat, now));
                if *beat != other.beat {
                    (*beat, *since) = (other.beat, now);
                }
                // A counter was read somewhere between `begun` and `now`. Counted from the `now` of
                // its first sight to the `begun` of this one, a silence is never taken for longer
                // than it was.
                begun.saturating_duration_since(*since) >= self.length
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::Connection;
    use storm_shared::{
        config::Settings,
        services::store::{Heartbeat, OwnerId, Store},
    };
    use tempfile::TempDir;
    use tokio::time::Instant;

    use super::{InHand, KnownPauses, Lease, Watch};
    use crate::{
        breaker::Signal,
        delivery::Network,
        handlers::{Handlers, http::HttpClient},
        metrics::Metrics,
    };

    const LEASE: Duration = Duration::from_secs(10);

    /// Heartbeats at these seconds, each seeing that counter of the other worker: the second at
    /// which its lease expires.
    fn expires_at(renewals: impl IntoIterator<Item = (u64, i64)>) -> Option<u64> {
        let mut watch = Watch::new(LEASE);
        let start = Instant::now();
        renewals.into_iter().find_map(|(second, beat)| {
            let at = start + Duration::from_secs(second);
            let owner = OwnerId::NOBODY;
            let dead = watch.renewed(at, vec![Heartbeat { owner, beat }], at);
            (!dead.is_empty()).then_some(second)
        })
    }

    #[tokio::test]
    async fn a_report_of_breakers_whose_outcome_is_unknown_is_written_anew() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("storm.db");
        let url = format!("sqlite:{}", path.display());
        let own = ("HANDLERS__OWN__URL", "http://127.0.0.1:1/");
        let settings = Settings::with([("DB_URL", url.as_str()), own]).unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        let client = HttpClient::new(Network::system(), None).unwrap();
        let handlers = Handlers::without_code(&settings, client).unwrap();
        let lease = Lease::new(
            store.clone(),
            LEASE,
            5,
            InHand::default(),
            handlers.clone(),
            KnownPauses::default(),
            Metrics::new(),
        );
        let name = "own".parse().unwrap();
        let attempt = |signal| {
            let served = handlers.get(&name).unwrap();
            served.gate.begin(true).unwrap().record(signal)
        };
        let db = Connection::open(&path).unwrap();
        let mut watch = Watch::new(LEASE);
        for _ in 0..2 {
            lease.heartbeat(&mut watch, &mut || None).await.unwrap();
        }
        // It fails, and has been committed.
        db.execute_batch(
            "CREATE TRIGGER fails BEFORE UPDATE OF breakers ON workers
                 BEGIN SELECT RAISE(ABORT, 'unknown'); END",
        )
        .unwrap();
        for _ in 0..100 {
            attempt(Signal::Failure);
        }
        lease.heartbeat(&mut watch, &mut || None).await.unwrap_err();
        db.execute_batch("DROP TRIGGER fails; UPDATE workers SET breakers = '{\"own\":1}'")
            .unwrap();
        assert_eq!(attempt(Signal::Success), Some(false));
        lease.heartbeat(&mut watch, &mut || None).await.unwrap();
        let load = store.handlers_load().await.unwrap();
        assert_eq!(load[&name].breakers.state(1), Some("closed"));
    }

    #[test]
    fn a_counter_that_stands_still_for_a_lease_expires() {
        assert_eq!(expires_at((0..20).map(|second| (second, 7))), Some(10));
    }

    #[test]
    fn a_counter_that_moves_within_each_lease_never_expires() {
        let moving = (0..100).map(|second| (second, i64::try_from(second / 9).unwrap()));
        assert_eq!(expires_at(moving), None);
    }

    #[test]
    fn what_an_expired_lease_has_left_is_taken_at_the_next_heartbeat() {
        assert_eq!(expires_at([(0, 7), (1, -1)]), Some(1));
    }

    #[test]
    fn the_lease_runs_from_the_last_change_of_the_counter() {
        let stops = (0..30).map(|second| (second, i64::try_from(second.min(4)).unwrap()));
        assert_eq!(expires_at(stops), Some(14));
    }

    #[test]
    fn after_a_gap_in_its_own_heartbeats_a_worker_observes_a_whole_lease_again() {
        let stalled = (0..9).chain(15..40).map(|second| (second, 7));
        assert_eq!(expires_at(stalled), Some(25));
    }
}
