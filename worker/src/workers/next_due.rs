//! When the next job that this worker settled becomes due.

use jiff::Timestamp;
use tokio::sync::watch;

/// The earliest due time of the jobs that this worker has returned to the table since it last
/// searched it. It wakes the search before its interval is over. Clones share it.
#[derive(Clone)]
pub(super) struct NextDue(watch::Sender<Timestamp>);

impl NextDue {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Timestamp::MAX))
    }

    /// A job in the table is due at `due`.
    pub(super) fn lower_to(&self, due: Timestamp) {
        self.0.send_if_modified(|next| {
            let earlier = due < *next;
            *next = due.min(*next);
            earlier
        });
    }

    /// Starts over. Called before a search, so that a job returned during it counts for the next.
    pub(super) fn reset(&self) {
        self.0.send_replace(Timestamp::MAX);
    }

    /// The earliest due time; [`Timestamp::MAX`] if there is none.
    pub(super) fn earliest(&self) -> Timestamp {
        *self.0.borrow()
    }

    /// Notifies of every change.
    pub(super) fn subscribe(&self) -> watch::Receiver<Timestamp> {
        self.0.subscribe()
    }
}
