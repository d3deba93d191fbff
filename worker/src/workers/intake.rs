//! The two loops that take jobs on: what the notifier rings for, and what the table still holds.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use storm_shared::services::{
    queue::NotificationReader,
    store::{Candidate, DueQuery, StoreError},
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    callback_worker::{CallbackWorker, ClaimSource},
    pulse::Pulse,
};

/// The most jobs claimed in one transaction: it bounds how long others wait for the database.
const BATCH: usize = 512;

/// A pause after the database refused, so that a broken one is not asked in a busy loop.
pub(super) const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// The shortest pause between two looks: what falls due meanwhile is claimed together.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);

/// Longer than any pause.
const FAR: Duration = Duration::from_hours(24);

/// Takes on what the notifier rings for, as far as there is room.
pub async fn from_notifications(
    worker: Arc<CallbackWorker>,
    mut reader: NotificationReader,
    pulse: Pulse,
) {
    while let Some(room) = pulse.during(worker.room()).await {
        let entries = reader.read(room.min(BATCH)).await;
        pulse.beat();
        let jobs = entries.iter().filter_map(|entry| entry.job);
        let candidates = jobs.map(Candidate::notified).collect();
        let taken = worker
            .take_on(candidates, ClaimSource::Notification, &pulse)
            .await;
        if let Err(error) = taken {
            warn!(%error, "jobs could not be claimed; they stay in the table");
            worker
                .unless_told(tokio::time::sleep(PAUSE_AFTER_ERROR))
                .await;
        }
        reader.acknowledge(&entries).await;
    }
    reader.close().await;
}

/// How the table is looked through.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    /// How often, at least.
    pub interval: Duration,
    /// How long the notifier has to ring for a new job before it is taken from the table.
    pub notification_grace: Duration,
}

impl Rounds {
    /// Beside a notifier: what it doesn't ring for is found a second or so later.
    pub const WITH_NOTIFICATIONS: Self = Self {
        interval: Duration::from_millis(500),
        notification_grace: Duration::from_secs(1),
    };

    /// Without one: the table is all there is.
    pub fn alone(interval: Duration) -> Self {
        Self {
            interval,
            notification_grace: Duration::ZERO,
        }
    }
}

/// Takes on what the table holds: jobs that wait no longer, that were given back, and those that nothing rang for (entries that were dropped, trimmed, flushed, or never pushed).
pub async fn from_table(worker: Arc<CallbackWorker>, rounds: Rounds, pulse: Pulse) {
    let mut let_go = worker.next_due.subscribe();
    let mut next_look = Instant::now();
    let mut wake = async |at: &mut Instant| loop {
        tokio::select! {
            () = tokio::time::sleep_until(*at) => return,
            // A job that this worker itself let go of may be due before the next round.
            _ = let_go.changed() => *at = (*at).min(moment(*let_go.borrow_and_update())),
        }
    };
    while pulse
        .during(worker.unless_told(wake(&mut next_look)))
        .await
        .is_some()
    {
        let round = Instant::now() + rounds.interval;
        next_look = match take_due(&worker, rounds, &pulse).await {
            Ok(due) => moment(due).min(round).max(Instant::now() + SHORTEST_PAUSE),
            Err(error) => {
                warn!(%error, "the table could not be looked through");
                Instant::now() + PAUSE_AFTER_ERROR
            }
        };
    }
}

/// Takes on all that is due; returns when the next job that waits is.
async fn take_due(
    worker: &Arc<CallbackWorker>,
    rounds: Rounds,
    pulse: &Pulse,
) -> Result<Timestamp, StoreError> {
    while let Some(room) = pulse.during(worker.room()).await {
        // Before the look: what is let go of during it counts for the next one.
        worker.next_due.send_replace(Timestamp::MAX);
        let limit = room.min(BATCH);
        let query = DueQuery {
            notification_grace: rounds.notification_grace,
            longest_wait: worker.longest_wait,
            limit,
        };
        let backlog = worker.store.due_jobs(query).await?;
        let found = backlog.due.len();
        worker
            .take_on(backlog.due, ClaimSource::Table, pulse)
            .await?;
        if found < limit {
            let next = backlog.next_due.unwrap_or(Timestamp::MAX);
            return Ok(next.min(*worker.next_due.borrow()));
        }
        // There is more than there was room for: the next look need not wait.
    }
    Ok(Timestamp::MAX) // told to end
}

/// When, by the clock that doesn't jump, it will be `at`; a day from now at the latest.
fn moment(at: Timestamp) -> Instant {
    let wait = Duration::try_from(at.duration_since(Timestamp::now()));
    Instant::now() + wait.unwrap_or_default().min(FAR)
}
