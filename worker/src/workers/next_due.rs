//! When the next job that this worker settled becomes due.

use tokio::{sync::watch, time::Instant};

/// The earliest due time of the jobs that this worker has returned to the table since it last
/// searched it; `None` if there are none. It wakes the search before its interval is over. Clones
/// share it.
#[derive(Clone)]
pub(super) struct NextDue(watch::Sender<Option<Instant>>);

impl NextDue {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// A job in the table is due at `due`.
    pub(super) fn lower_to(&self, due: Instant) {
        self.0.send_if_modified(|next| {
            let earlier = next.is_none_or(|next| due < next);
            if earlier {
                *next = Some(due);
            }
            earlier
        });
    }

    /// Starts over. Called before a search, so that a job returned during it counts for the next.
    pub(super) fn reset(&self) {
        self.0.send_replace(None);
    }

    /// The earliest due time.
    pub(super) fn earliest(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// Notifies of every change.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Instant>> {
        self.0.subscribe()
    }
}
