//! The two loops that find jobs to claim: in the notifications, and in the table itself.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use storm_shared::services::{
    queue::{NotificationReader, QueueStatus},
    store::{Candidate, DueQuery, Store, StoreError},
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    callback_worker::CallbackWorker, drain::Drain, next_due::NextDue, slots::Slots,
    watchdog::Watchdog,
};
use crate::metrics::ClaimSource;

/// The most jobs claimed in one transaction. It bounds how long other writers wait for the
/// database.
pub(super) const BATCH: usize = 512;

/// The pause after the store has failed, so that a broken database is not polled in a busy loop.
pub(super) const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// The shortest pause between two searches of the table: jobs that become due within it are claimed
/// together.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);

/// Longer than any pause.
const LONGEST_PAUSE: Duration = Duration::from_hours(24);

/// When the table is searched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Polling {
    /// At least this often.
    pub interval: Duration,
    /// How old a new job is before a search claims it: the time that its notification has to
    /// arrive.
    pub notification_grace: Duration,
}

impl Polling {
    /// With Redis: a search finds jobs whose notification was lost.
    pub(super) const WITH_NOTIFICATIONS: Self = Self {
        interval: Duration::from_millis(500),
        notification_grace: Duration::from_secs(1),
    };

    /// Without Redis: searches find every job.
    pub(super) fn alone(interval: Duration) -> Self {
        Self {
            interval,
            notification_grace: Duration::ZERO,
        }
    }
}

/// What all loops that claim jobs need. Each loop has a watchdog of its own.
#[derive(Clone)]
pub(super) struct Intake {
    pub(super) worker: Arc<CallbackWorker>,
    pub(super) store: Store,
    pub(super) slots: Slots,
    pub(super) drain: Drain,
    pub(super) polling: Polling,
    pub(super) watchdog: Watchdog,
}

impl Intake {
    /// Waits until at least one slot is free, and returns the number of free slots; or `None` at
    /// shutdown.
    async fn free_slots(&self) -> Option<usize> {
        let one = self.drain.until_shutdown(self.slots.take(1, 1));
        // Released on return: it only shows that a slot was free. If another loop takes it first,
        // the claim waits again.
        let _one = self.watchdog.while_waiting(one).await?;
        Some(self.slots.free() + 1)
    }

    /// Claims all `candidates`, in one transaction for as many as there are free slots at a time.
    async fn claim_all(
        &self,
        candidates: &[Candidate],
        source: ClaimSource,
    ) -> Result<(), StoreError> {
        let mut rest = candidates;
        while !rest.is_empty() {
            let slots = self.drain.until_shutdown(self.slots.take(1, rest.len()));
            let Some(slots) = self.watchdog.while_waiting(slots).await else {
                break; // shutdown: the jobs stay in the table
            };
            let (now, later) = rest.split_at(slots.num_permits());
            self.worker.claim(now, slots, 1, source).await?;
            self.watchdog.tick();
            rest = later;
        }
        Ok(())
    }

    /// Sleeps; `None` at shutdown.
    pub(super) async fn pause(&self, time: Duration) -> Option<()> {
        let sleep = self.drain.until_shutdown(tokio::time::sleep(time));
        self.watchdog.while_waiting(sleep).await
    }
}

/// Claims the jobs that notifications name, as slots are free, until shutdown.
pub(super) async fn from_notifications(intake: Intake, mut reader: NotificationReader) {
    while let Some(free) = intake.free_slots().await {
        // At most as many as slots are free: no other consumer gets these entries. Not cancelled at
        // shutdown: an entry that is read and not returned stays pending until a sweep. The read's
        // `BLOCK` bounds the wait.
        let entries = reader.read(free.min(BATCH)).await;
        intake.watchdog.tick();
        let jobs = entries.iter().filter_map(|entry| entry.job);
        let candidates: Vec<_> = jobs.map(Candidate::notified).collect();
        let claimed = intake.claim_all(&candidates, ClaimSource::Notification);
        if let Err(error) = claimed.await {
            warn!(%error, "claim failed: the notified jobs stay in the table");
            intake.pause(PAUSE_AFTER_ERROR).await;
        }
        // After the claim has committed: a crash in between repeats the notification, whose claim
        // then loses. Entries whose claim lost or failed go too, for the table has the jobs.
        reader.acknowledge(&entries).await;
    }
    reader.close().await;
}

/// Claims due jobs from the table until shutdown: retries and parked jobs whose time has come,
/// jobs given back, and new ones whose notification was dropped, trimmed, flushed or never sent.
///
/// Notes new ones among them in `queue_status`.
pub(super) async fn from_table(
    intake: Intake,
    next_due: NextDue,
    longest_wait: Duration,
    queue_status: Option<Arc<QueueStatus>>,
) {
    let mut changes = next_due.subscribe();
    let mut next_search = Instant::now();
    let mut wake = async |at: &mut Instant| loop {
        tokio::select! {
            () = tokio::time::sleep_until(*at) => return,
            // A job that this worker has settled may be due before the next search.
            _ = changes.changed() => *at = (*at).min(instant_of(*changes.borrow_and_update())),
        }
    };
    loop {
        let woken = intake.drain.until_shutdown(wake(&mut next_search));
        if intake.watchdog.while_waiting(woken).await.is_none() {
            return;
        }
        let latest = Instant::now() + intake.polling.interval;
        let claimed = claim_due(&intake, &next_due, longest_wait, queue_status.as_deref());
        next_search = match claimed.await {
            Ok(due) => {
                let earliest = Instant::now() + SHORTEST_PAUSE;
                // At most an interval from now: `due` is wall-clock time, and the clock can be set
                // back.
                instant_of(due).min(latest).max(earliest)
            }
            Err(error) => {
                warn!(%error, "due jobs could not be claimed from the table");
                Instant::now() + PAUSE_AFTER_ERROR
            }
        };
    }
}

/// Claims everything that is due, and returns when the next job is.
async fn claim_due(
    intake: &Intake,
    next_due: &NextDue,
    longest_wait: Duration,
    queue_status: Option<&QueueStatus>,
) -> Result<Timestamp, StoreError> {
    while let Some(free) = intake.free_slots().await {
        next_due.reset();
        let limit = free.min(BATCH);
        let query = DueQuery {
            notification_grace: intake.polling.notification_grace,
            longest_wait,
            limit,
        };
        let found = intake.store.due_jobs(query).await?;
        if let Some(queue_status) = queue_status
            && found.due.iter().any(Candidate::is_new)
        {
            queue_status.note_new_jobs();
        }
        let count = found.due.len();
        intake.claim_all(&found.due, ClaimSource::Table).await?;
        if count < limit {
            // A job that was settled during the search may be due before those that it found.
            let next = found.next_due.unwrap_or(Timestamp::MAX);
            return Ok(next.min(next_due.earliest()));
        }
        // More may be due than fitted: search again at once.
    }
    Ok(Timestamp::MAX) // shutdown
}

/// `at` on the monotonic clock, a day from now at the latest.
fn instant_of(at: Timestamp) -> Instant {
    let wait = Duration::try_from(at.duration_since(Timestamp::now()));
    Instant::now() + wait.unwrap_or_default().min(LONGEST_PAUSE)
}
