//! The worker's lease: its heartbeat, what may be done while that is fresh, and the watch on others.

use std::{collections::HashMap, sync::Arc, time::Duration};

use storm_shared::{
    outage::Outage,
    services::store::{Heartbeat, OwnerId, Store, StoreError},
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// The longest time between two renewals. It is a part of what passes before a dead worker's jobs go on.
const LONGEST_BEAT: Duration = Duration::from_millis(500);

/// Renewals in a lease, where that is less.
const BEATS: u32 = 20;

/// A worker's right to hold jobs, renewed until it is given up.
pub struct Lease {
    store: Store,
    length: Duration,
    max_claims: u32,
    metrics: Metrics,
    state: watch::Sender<State>,
}

struct State {
    term: Term,
    /// Whether its owner is among the workers yet.
    entered: bool,
    /// When the last write that succeeded was begun: the entry, or a renewal.
    renewed: Instant,
}

/// The time from a worker's entry among the workers to its death, if others declare it dead: it comes
/// back as somebody else.
#[derive(Clone)]
pub struct Term {
    /// Who claims.
    pub owner: OwnerId,
    /// Cancelled when it was declared dead: its jobs are others' now.
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
    /// A lease that ends after `length` unless it is renewed. [`Lease::keep`] does that, and takes their
    /// jobs from others whose lease has ended; `max_claims` judges those.
    pub fn new(store: Store, length: Duration, max_claims: u32, metrics: Metrics) -> Arc<Self> {
        let state = State {
            term: Term::new(),
            entered: false,
            renewed: Instant::now(),
        };
        Arc::new(Self {
            store,
            length,
            max_claims,
            metrics,
            state: watch::Sender::new(state),
        })
    }

    /// The present term.
    pub fn term(&self) -> Term {
        self.state.borrow().term.clone()
    }

    /// How long ago the lease was last renewed.
    pub fn age(&self) -> Duration {
        self.state.borrow().renewed.elapsed()
    }

    /// How long it lasts without being renewed.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// The present term, once its last renewal is less than half a lease old: before that, others
    /// might come to think that this worker is dead while what it begins now is under way.
    pub(super) async fn in_force(&self) -> Term {
        let mut state = self.state.subscribe();
        loop {
            {
                let state = state.borrow_and_update();
                if state.entered && state.renewed.elapsed() < self.length / 2 {
                    return state.term.clone();
                }
            }
            let _ = state.changed().await; // its sender is `self`
        }
    }

    /// The same for what `owner` holds. Never, once it was declared dead.
    pub(super) async fn in_force_for(&self, owner: OwnerId) {
        if self.in_force().await.owner != owner {
            std::future::pending::<()>().await;
        }
    }

    /// Enters among the workers, renews the lease until `given_up`, and declares those dead who don't renew theirs.
    pub async fn keep(self: Arc<Self>, given_up: CancellationToken) {
        let mut beat = tokio::time::interval((self.length / BEATS).min(LONGEST_BEAT));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::new(self.length);
        let mut outage = Outage::default();
        while given_up.run_until_cancelled(beat.tick()).await.is_some() {
            match self.beat(&mut watch).await {
                Ok(()) if outage.recovered() => info!("the lease is renewed again"),
                Err(error) if outage.failed() => {
                    warn!(%error, "the lease can't be renewed; no callback is begun after half a lease");
                }
                _ => {}
            }
        }
    }

    /// Gives back every job that is held, and the lease. Returns how many jobs there were.
    ///
    /// # Errors
    /// The write failed.
    pub(super) async fn resign(&self) -> Result<usize, StoreError> {
        self.store.resign(self.term().owner).await
    }

    async fn beat(&self, watch: &mut Watch) -> Result<(), StoreError> {
        if !self.state.borrow().entered {
            return self.enter().await;
        }
        let begun = Instant::now();
        let others = match self.store.renew(self.term().owner).await {
            Err(StoreError::LeaseLost) => {
                *watch = Watch::new(self.length);
                self.begin_anew();
                return self.enter().await;
            }
            others => others?,
        };
        self.state.send_modify(|state| state.renewed = begun);
        for dead in watch.renewed(begun, others, Instant::now()) {
            self.expire(dead).await?;
        }
        Ok(())
    }

    async fn enter(&self) -> Result<(), StoreError> {
        let (owner, begun) = (self.term().owner, Instant::now());
        self.store.register(owner).await?;
        info!(%owner, "among the workers");
        self.state.send_modify(|state| {
            state.entered = true;
            state.renewed = begun;
        });
        Ok(())
    }

    /// It was declared dead, and goes on as somebody else.
    fn begin_anew(&self) {
        self.state.send_modify(|state| {
            let former = std::mem::replace(&mut state.term, Term::new());
            warn!(owner = %former.owner, "declared dead: its jobs are others' now");
            former.lost.cancel();
            state.entered = false;
        });
    }

    async fn expire(&self, dead: Heartbeat) -> Result<(), StoreError> {
        let owner = dead.owner.clone();
        if let Some(expired) = self.store.expire(dead, self.max_claims).await? {
            self.metrics.expired(&expired);
            warn!(
                owner,
                returned = expired.returned,
                condemned = expired.condemned,
                "a worker was silent for a whole lease: its jobs go on elsewhere"
            );
        }
        Ok(())
    }
}

/// What was seen of the other workers' heartbeats since this worker's own has had no gap.
struct Watch {
    length: Duration,
    last: Option<Instant>,
    /// Each worker's count, and since when it stands there.
    seen: HashMap<String, (i64, Instant)>,
}

impl Watch {
    fn new(length: Duration) -> Self {
        Self {
            length,
            last: None,
            seen: HashMap::new(),
        }
    }

    /// Takes note of a renewal of its own, `begun` and done `now`, which found these `others`. Tells
    /// which of them have stood still for a whole lease.
    ///
    /// After a gap in its own renewals (a stalled database, a freeze) what it saw before counts for
    /// nothing: the others may not have been able to renew either.
    fn renewed(&mut self, begun: Instant, others: Vec<Heartbeat>, now: Instant) -> Vec<Heartbeat> {
        let gap = self
            .last
            .replace(begun)
            .is_none_or(|last| begun - last > self.length / 2);
        if gap {
            self.seen.clear();
        }
        self.seen
            .retain(|owner, _| others.iter().any(|other| other.owner == *owner));
        others
            .into_iter()
            .filter(|other| {
                let (beat, since) = self
                    .seen
                    .entry(other.owner.clone())
                    .or_insert((other.beat, now));
                if *beat != other.beat {
                    (*beat, *since) = (other.beat, now);
                }
                begun.saturating_duration_since(*since) >= self.length
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storm_shared::services::store::Heartbeat;
    use tokio::time::Instant;

    use super::Watch;

    const LEASE: Duration = Duration::from_secs(10);

    /// Renewals at these seconds, each seeing the other worker's count there: the second at which it
    /// was declared dead.
    fn declared_dead(renewals: impl IntoIterator<Item = (u64, i64)>) -> Option<u64> {
        let mut watch = Watch::new(LEASE);
        let start = Instant::now();
        renewals.into_iter().find_map(|(second, beat)| {
            let at = start + Duration::from_secs(second);
            let owner = "other".to_owned();
            let dead = watch.renewed(at, vec![Heartbeat { owner, beat }], at);
            (!dead.is_empty()).then_some(second)
        })
    }

    #[test]
    fn a_count_that_stands_still_for_a_lease_is_a_dead_worker() {
        assert_eq!(declared_dead((0..20).map(|second| (second, 7))), Some(10));
    }

    #[test]
    fn a_count_that_moves_now_and_then_is_a_live_one() {
        let moving = (0..100).map(|second| (second, i64::try_from(second / 9).unwrap()));
        assert_eq!(declared_dead(moving), None);
    }

    #[test]
    fn a_dead_count_is_waited_for_from_where_it_last_moved() {
        let stops = (0..30).map(|second| (second, i64::try_from(second.min(4)).unwrap()));
        assert_eq!(declared_dead(stops), Some(14));
    }

    #[test]
    fn after_a_gap_of_its_own_a_worker_watches_for_a_whole_lease_again() {
        let stalled = (0..9).chain(15..40).map(|second| (second, 7));
        assert_eq!(declared_dead(stalled), Some(25));
    }
}
