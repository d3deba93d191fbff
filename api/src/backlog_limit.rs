//! Admission control for each destination: the backlog limit (`MAX_PARKED_PER_ORIGIN`).
//!
//! A destination is a tenant's origin. Its backlog is its jobs that are parked or have a scheduled
//! attempt. New jobs for a destination whose backlog has reached the limit are refused with `503`,
//! so that one dead receiver cannot fill the database. Other tenants' jobs for the same origin are
//! accepted.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use storm_shared::{
    models::{ClientName, Destination},
    services::store::Store,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::polling::{Pace, poll};

use crate::app::App;

/// The interval between counts. A backlog can exceed the limit by the jobs accepted in between.
const PERIOD: Duration = Duration::from_millis(250);

/// The destinations whose backlog had reached the limit at the last count.
pub struct BacklogLimit {
    full: Arc<RwLock<HashSet<Destination>>>,
    _watch: AbortOnDropHandle<()>,
}

impl BacklogLimit {
    /// Keeps finding the destinations with a backlog of at least `limit` jobs, until this value is
    /// dropped.
    pub fn watch(store: Store, limit: usize) -> Self {
        let full = Arc::default();
        let known = Arc::clone(&full);
        // In the background: a count at each accept would be a cost of every job.
        let watch = tokio::spawn(async move {
            let count = || store.destinations_over_limit(limit);
            let update = |full: Vec<_>| update(&known, full.into_iter().collect(), limit);
            poll(
                "the receivers' backlogs",
                Pace::of_counts(PERIOD),
                count,
                update,
            )
            .await;
        });
        Self {
            full,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    /// Whether the backlog of `destination` is full.
    pub fn is_full(&self, destination: &Destination) -> bool {
        // The set is only ever replaced as a whole, so a poisoned lock still guards a complete one.
        let full = self.full.read().unwrap_or_else(PoisonError::into_inner);
        full.contains(destination)
    }
}

/// What a page of redeliveries may add to the backlogs. They are only recounted at intervals, so a
/// single page could exceed the limit: the page's own requests are counted as well.
pub struct PageLimit<'a> {
    app: &'a App,
    so_far: HashMap<Destination, usize>,
}

impl<'a> PageLimit<'a> {
    /// Of a page that has none yet.
    pub fn of(app: &'a App) -> Self {
        Self {
            app,
            so_far: HashMap::new(),
        }
    }

    /// Counts one more, and returns whether the backlog of `destination` has room for it.
    pub fn has_room(&mut self, destination: &Destination) -> bool {
        let so_far = self.so_far.entry(destination.clone()).or_insert(0);
        *so_far += 1;
        let limit = self.app.settings.callback.max_parked;
        *so_far <= limit && !self.app.backlog_limit.is_full(destination)
    }
}

fn update(known: &RwLock<HashSet<Destination>>, full: HashSet<Destination>, limit: usize) {
    let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
    for Destination { tenant, origin } in full.difference(&known) {
        let tenant = tenant.as_ref().map(ClientName::as_str); // no field without one
        warn!(%origin, tenant, limit, "this origin's backlog is full: new jobs for it are refused");
    }
    *known = full;
}
