//! What operators have paused, as far as this worker knows.
//!
//! The store itself lets no claim succeed while everything is paused. The callbacks to an origin
//! are held back here, by what the last heartbeat has found: a pause is at most one heartbeat late.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use storm_shared::{models::Origin, services::store::Pauses};
use tokio::sync::Notify;
use tracing::info;

/// The pauses that the last heartbeat has found. Clones share them.
#[derive(Clone, Default)]
pub struct KnownPauses {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    resumption: Notify,
}

#[derive(Default)]
struct State {
    pauses: Pauses,
    /// Origins that are no longer paused, until [`KnownPauses::resumed`] takes them.
    resumed: HashSet<Origin>,
}

impl KnownPauses {
    /// All that is paused.
    pub fn current(&self) -> Pauses {
        self.lock().pauses.clone()
    }

    /// Whether everything is paused.
    pub(super) fn hold_everything(&self) -> bool {
        self.lock().pauses.everything
    }

    /// Whether the callbacks to `origin` are paused.
    pub(super) fn holds(&self, origin: &Origin) -> bool {
        self.lock().pauses.origins.contains(origin)
    }

    /// Takes over what a heartbeat has found.
    pub(super) fn update(&self, pauses: Pauses) {
        let mut state = self.lock();
        if state.pauses == pauses {
            return;
        }
        let before = std::mem::replace(&mut state.pauses, pauses);
        let resumed = before.origins.difference(&state.pauses.origins);
        let resumed: Vec<_> = resumed.cloned().collect();
        for origin in state.pauses.origins.difference(&before.origins) {
            info!(%origin, "paused: callbacks to this origin are parked");
        }
        for origin in &resumed {
            info!(%origin, "resumed: callbacks to this origin continue");
        }
        match (before.everything, state.pauses.everything) {
            (false, true) => info!("everything is paused: no job is claimed"),
            (true, false) => info!("resumed: jobs are claimed again"),
            _ => {}
        }
        state.resumed.extend(resumed);
        drop(state);
        self.shared.resumption.notify_one();
    }

    /// Takes the origins that are no longer paused, once there are some.
    pub(super) async fn resumed(&self) -> HashSet<Origin> {
        loop {
            // Registered before the look, so that a resumption in between is not missed.
            let resumption = self.shared.resumption.notified();
            let resumed = std::mem::take(&mut self.lock().resumed);
            if !resumed.is_empty() {
                return resumed;
            }
            resumption.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change under this lock can be left half done by a panic.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use storm_shared::{
        models::{CallbackUrl, Origin},
        services::store::{Paused, Pauses},
    };

    use super::KnownPauses;

    fn origin(name: &str) -> Origin {
        let url = CallbackUrl::parse(&format!("https://{name}.example")).unwrap();
        url.origin().clone()
    }

    fn paused(names: &[&str]) -> Pauses {
        let origins = names.iter().map(|name| Paused::Origin(origin(name)));
        origins.collect()
    }

    #[test]
    fn every_origin_that_is_resumed_is_named_once() {
        let pauses = KnownPauses::default();
        let resumed = || pauses.resumed().now_or_never();
        pauses.update(paused(&["a", "b", "c"]));
        assert!(pauses.holds(&origin("a")) && !pauses.holds(&origin("d")));
        assert_eq!(resumed(), None);
        pauses.update(paused(&["b", "d"]));
        pauses.update(paused(&["b", "d"]));
        assert_eq!(resumed(), Some(["a", "c"].map(origin).into()));
        assert_eq!(resumed(), None);
        assert!(pauses.holds(&origin("d")) && !pauses.holds(&origin("a")));
    }
}
