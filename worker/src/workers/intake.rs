//! The two loops that find jobs to claim: in the notifications, and in the table itself.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use storm_shared::{
    memory::{MemoryBudget, Reservation},
    services::{
        queue::{Entry, JOBS_PER_ENTRY, NotificationReader, QueueStatus},
        store::{Candidate, Store, StoreError},
    },
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    callback_worker::{CallbackWorker, Terms},
    drain::Drain,
    next_due::NextDue,
    pauses::KnownPauses,
    shares::{LongRoom, Shares},
    slots::{Slot, Slots},
    watchdog::Watchdog,
};
use crate::{
    breaker::Admission,
    handlers::{Gate, Handlers},
    metrics::ClaimSource,
};

/// The most jobs claimed in one transaction. It bounds how long other writers wait for the
/// database.
pub(super) const BATCH: usize = 512;

/// The most bytes of inputs and results that one claim reads. It bounds how long other writers wait
/// for the database, and how much of the budget one loop takes while others claim, too.
const CLAIM_BYTES: usize = 4 << 20;

/// The most entries of one read, while no due jobs wait in the table: other workers get the rest of
/// a burst.
const ENTRIES: usize = 64;

/// The pause after the store has failed, so that a broken database is not polled in a busy loop.
pub(super) const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// The shortest pause between two searches of the table: jobs that become due within it are claimed
/// together.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);

/// The table is searched at least this often. With notifications, a search finds the jobs whose
/// notification was lost.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);

/// What all loops that claim jobs need. Each loop has a watchdog of its own.
#[derive(Clone)]
pub(super) struct Intake {
    pub(super) worker: Arc<CallbackWorker>,
    pub(super) store: Store,
    pub(super) slots: Slots,
    pub(super) memory: MemoryBudget,
    pub(super) shares: Shares,
    /// The gate of the handler whose jobs are sought; `None` for the common ones.
    pub(super) gate: Option<Gate>,
    /// How long a job of a handler may be due before it passes the open gate.
    pub(super) park_max: Duration,
    /// Of these, suspected poison jobs are claimed.
    pub(super) handlers: Handlers,
    pub(super) pauses: KnownPauses,
    pub(super) drain: Drain,
    /// How often the table is searched at least.
    pub(super) interval: Duration,
    pub(super) watchdog: Watchdog,
}

impl Intake {
    /// The result of `event`, for which the loop may wait as long as it takes. `None` at shutdown.
    pub(super) async fn wait_for<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        let event = self.drain.until_shutdown(event);
        self.watchdog.while_waiting(event).await
    }

    /// What the store answers to `search`, or `None` at shutdown: a database that hangs must not
    /// hold that up, and there is nothing to claim any more.
    pub(super) async fn found<T>(
        &self,
        search: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Option<T>, StoreError> {
        self.drain.until_shutdown(search).await.transpose()
    }

    /// Waits until the memory budget has room for a job: another loop may take it first. `None` at
    /// shutdown.
    async fn room(&self) -> Option<()> {
        self.wait_for(self.memory.has_room()).await
    }

    /// Reserves room for a claim, as soon as there is some. `None` at shutdown.
    pub(super) async fn reserve(&self) -> Option<Reservation> {
        loop {
            self.room().await?;
            // Unless another loop has taken it.
            if let Some(memory) = self.memory.reserve_up_to(CLAIM_BYTES) {
                return Some(memory);
            }
        }
    }

    /// Waits until at least one slot is free and the memory budget has room, and returns the number
    /// of free slots; or `None` at shutdown.
    async fn free_slots(&self) -> Option<usize> {
        self.room().await?;
        // Released on return: it only shows that a slot was free. If another loop takes it first,
        // the claim waits again.
        let _one = self.wait_for(self.slots.take(1, 1)).await?;
        Some(self.slots.free() + 1)
    }

    /// Room for up to `jobs` long jobs, when no other loop is taking some. `None` at shutdown.
    async fn room_for_long(&self, jobs: usize) -> Option<LongRoom> {
        self.wait_for(self.shares.turn_for_long(jobs)).await
    }

    /// Waits for a slot and room in the memory budget, and takes slots for up to `jobs` jobs.
    /// `None` at shutdown, or if `long` has less room at the handler after the wait than before.
    async fn slots_for(&self, jobs: usize, long: &mut LongRoom) -> Option<Slot> {
        let slots = async {
            // Memory first: whoever waits for it holds no slots, which the quarantine may collect.
            self.room().await?;
            self.wait_for(self.slots.take(1, jobs)).await
        };
        let mut slots = pin!(slots);
        if let Some(slots) = slots.as_mut().now_or_never() {
            return slots;
        }
        // A suspect that has what this waits for may wait for room at its handler.
        let lent = long.lend();
        let slots = slots.await?;
        long.take_back(lent).then_some(slots)
    }

    /// Claims all `candidates`, in one transaction for as many as there are free slots, and room in
    /// the memory budget, at a time.
    /// Long ones among them take their place in `long`. Returns how many were free to be claimed.
    async fn claim_all(
        &self,
        candidates: &[Candidate],
        mut long: LongRoom,
        (source, are_overdue): (ClaimSource, bool),
    ) -> Result<usize, StoreError> {
        let terms = Terms {
            slots_per_job: 1,
            are_overdue,
            source,
        };
        let (mut rest, mut tried) = (candidates, 0);
        while !rest.is_empty() {
            let Some(slots) = self.slots_for(rest.len(), &mut long).await else {
                break; // the jobs stay in the table
            };
            // Before anything is read: several loops claim at a time.
            let Some(memory) = self.memory.reserve_up_to(CLAIM_BYTES) else {
                continue; // another loop has taken the room
            };
            let now = &rest[..slots.num_permits()];
            let claim = self.worker.claim(now, slots, memory, &mut long, terms);
            let progress = claim.await?;
            self.watchdog.tick();
            tried += progress.tried;
            rest = &rest[progress.passed..];
        }
        Ok(tried)
    }

    fn admission(&self) -> Admission {
        self.gate.as_ref().map_or(Admission::All, Gate::admission)
    }

    /// Sleeps; `None` at shutdown.
    pub(super) async fn pause(&self, time: Duration) -> Option<()> {
        self.wait_for(tokio::time::sleep(time)).await
    }
}

/// Claims the jobs that notifications name, as slots are free, until shutdown.
pub(super) async fn from_notifications(intake: Intake, mut reader: NotificationReader) {
    // What was read, without the jobs that were dealt with.
    let mut entries = Vec::<Entry>::new();
    // How many jobs an entry of the last read had. With many tenants it is one, and reads of a
    // sixteenth of the free slots would keep a small worker from its jobs.
    let mut per_entry = JOBS_PER_ENTRY;
    while let Some(free) = intake.free_slots().await {
        let is_crowded = intake.shares.has_waiting();
        if entries.is_empty() {
            // No more jobs than slots are free, as far as the last read tells, or one entry: no
            // other consumer gets them. While due jobs wait in the table, most are left to it, and
            // those of another tenant may be behind them.
            // Not cancelled at shutdown: an entry that is read and not returned stays pending until
            // a sweep. The read's `BLOCK` bounds the wait.
            let fitting = (free / per_entry).clamp(1, ENTRIES);
            entries = reader.read(if is_crowded { BATCH } else { fitting }).await;
            intake.watchdog.tick();
            // Without those of a neighbour on the same Redis, which have none.
            let jobs = entries.iter().map(|entry| entry.notified.jobs.len());
            let own = jobs.clone().filter(|jobs| *jobs > 0).count();
            if own > 0 {
                per_entry = jobs.sum::<usize>().div_ceil(own);
            }
        }
        // The store would refuse the claim, at the cost of a write; or the handler fails. The jobs
        // stay in the table.
        if intake.pauses.hold_everything() || intake.admission() != Admission::All {
            reader.acknowledge(&entries).await;
            entries.clear();
            continue;
        }
        let most = free.min(BATCH);
        let long = entries.iter().filter(|entry| entry.notified.is_long);
        let long: usize = long.map(|entry| entry.notified.jobs.len()).sum();
        // No more than there are long ones: the search needs the rest.
        let Some(long) = intake.room_for_long(long.min(most)).await else {
            break; // shutdown: the jobs stay in the table
        };
        let notified = entries.iter_mut().map(|entry| &mut entry.notified);
        let candidates = intake.shares.take_notified(notified, most, &long);
        let claimed = intake.claim_all(&candidates, long, (ClaimSource::Notification, false));
        if let Err(error) = claimed.await {
            warn!(%error, "claim failed: the notified jobs stay in the table");
            intake.pause(PAUSE_AFTER_ERROR).await;
        }
        // After the claim has committed: a crash in between repeats the notification, whose claim
        // then loses. Entries whose claims lost or failed go too, for the table has the jobs. Those
        // with jobs that no slot was free for wait for the next ones.
        let is_over = |entry: &mut Entry| is_crowded || entry.notified.jobs.is_empty();
        let over: Vec<_> = entries.extract_if(.., is_over).collect();
        reader.acknowledge(&over).await;
    }
    reader.acknowledge(&entries).await;
    reader.close().await;
}

/// Claims due jobs from the table until shutdown: retries and parked jobs whose time has come,
/// jobs given back, and new ones whose notification was dropped, trimmed, flushed or never sent.
///
/// Notes new ones among them in `queue_status`.
pub(super) async fn from_table(
    intake: Intake,
    next_due: NextDue,
    queue_status: Option<Arc<QueueStatus>>,
) {
    let mut changes = next_due.subscribe();
    let mut next_search = Instant::now();
    let mut wake = async |at: &mut Instant| loop {
        tokio::select! {
            () = tokio::time::sleep_until(*at) => return,
            // A job that this worker has settled may be due before the next search.
            _ = changes.changed() => {
                let due = *changes.borrow_and_update();
                *at = due.map_or(*at, |due| due.min(*at));
            }
        }
    };
    loop {
        if intake.wait_for(wake(&mut next_search)).await.is_none() {
            return;
        }
        let latest = Instant::now() + intake.interval;
        let claimed = claim_due(&intake, &next_due, queue_status.as_deref());
        next_search = match claimed.await {
            Ok(due) => {
                let next = due.map_or(latest, |due| due.min(latest));
                next.max(Instant::now() + SHORTEST_PAUSE)
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
    queue_status: Option<&QueueStatus>,
) -> Result<Option<Instant>, StoreError> {
    while let Some(free) = intake.free_slots().await {
        next_due.reset();
        let admission = intake.admission();
        let limit = match admission {
            Admission::Probe => 1,
            _ => free.min(BATCH),
        };
        let Some(long) = intake.room_for_long(limit).await else {
            break; // shutdown
        };
        let searched = Instant::now();
        let mut capacity = intake.shares.capacity(limit, &long);
        let limit = capacity.jobs;
        if limit == 0 {
            return Ok(None); // whatever makes room wakes the search
        }
        if let Admission::Overdue { probe_in } = admission {
            capacity.overdue_by = intake.park_max;
            if let Some(wait) = probe_in {
                next_due.lower_to(searched + wait);
            }
        }
        let are_overdue = matches!(admission, Admission::Overdue { .. });
        let Some(found) = intake.found(intake.store.due_jobs(capacity)).await? else {
            break; // shutdown
        };
        intake
            .shares
            .note_waiting(found.waiting, found.long_jobs_wait);
        if let Some(queue_status) = queue_status
            && found.due.iter().any(Candidate::is_new)
        {
            queue_status.note_new_jobs();
        }
        let count = found.due.len();
        let claimed = intake.claim_all(&found.due, long, (ClaimSource::Table, are_overdue));
        let tried = claimed.await?;
        if count < limit || admission == Admission::Probe {
            // A job that was settled during the search may be due before those that it found.
            let found = found.next_due.map(|wait| searched + wait);
            return Ok(found.into_iter().chain(next_due.earliest()).min());
        }
        if tried == 0 {
            // Another loop claims them, or they still run: somebody edited their rows. The next
            // search finds the same ones.
            intake.pause(SHORTEST_PAUSE).await;
        }
        // More may be due than fitted: search again at once.
    }
    Ok(None) // shutdown
}
