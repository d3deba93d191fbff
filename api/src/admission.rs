//! Admission control for all receivers together: the limit of unfinished jobs (`MAX_BACKLOG`); and
//! when a job that is accepted now should be done.
//!
//! A task counts the unfinished jobs once a second. In between, what this process accepts is added
//! to the last count. So one process never goes over the limit, and several together do by no more
//! than they accept between two counts.

mod drain;

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use storm_shared::{
    outage::Outage,
    services::store::{Load, Store},
};
use tokio::{sync::SetOnce, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use self::drain::{Drain, DrainRate, jobs};
use crate::{counting::keep_counting, metrics::Metrics};

/// The interval between counts.
const PERIOD: Duration = Duration::from_secs(1);

/// The bounds of the time after which a refused client is asked to retry.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));

/// That time if no job ends.
const RETRY_AFTER_STANDSTILL: Duration = Duration::from_mins(1);

/// The longest wait for a worker that is expected of a job.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// Jobs are waiting for workers if it takes them at least this long to begin with all that wait.
const BACKLOGGED: Duration = Duration::from_secs(1);

/// A backlog that is full again within this time has been full all along, for the log.
const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// The unfinished jobs of the store, as this process knows them.
pub struct Admission {
    shared: Arc<Shared>,
    _watch: AbortOnDropHandle<()>,
}

/// The backlog is full: there should be room after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogFull {
    /// From 1 s to 10 min; 1 min if no job ends.
    pub retry_after: Duration,
}

struct Shared {
    limit: u64,
    /// The submissions that this process has ever admitted, but for those that were not stored.
    admitted: AtomicU64,
    /// Those of them whose write is over.
    written: AtomicU64,
    /// Whether a submission was refused since the last count.
    has_refused: AtomicBool,
    last: RwLock<Count>,
    /// Set by the first count.
    is_counted: SetOnce<()>,
}

/// What the log says of the backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Full,
    Recovered,
}

/// What is known from the last count.
#[derive(Clone, Copy)]
struct Count {
    at: Instant,
    unfinished: u64,
    waiting: u64,
    rate: DrainRate,
    /// [`Shared::written`] when it began: it may have missed all later ones.
    written: u64,
}

impl Admission {
    /// Keeps counting the unfinished jobs, of which there may be `limit`, until this value is
    /// dropped. A new job waits for a worker although it is due only after `grace`, the time for
    /// its notification.
    pub fn watch(store: Store, limit: usize, grace: Duration, metrics: Metrics) -> Self {
        let shared = Arc::new(Shared::new(limit as u64));
        let of_task = Arc::clone(&shared);
        let watch = tokio::spawn(async move {
            let mut drain = Drain::new(limit);
            let mut outage = Outage::with_quiet_period(QUIET_PERIOD);
            // Beyond the limit, so that a retry is asked for when there will be room.
            let most = limit.saturating_mul(2);
            let count = || {
                let written = of_task.written.load(Ordering::Acquire);
                let load = store.load(most, grace);
                async move { Ok((written, load.await?)) }
            };
            let update = |(written, load): (u64, Load)| {
                let at = Instant::now();
                let (unfinished, waiting) = (load.unfinished, load.waiting);
                let rate = drain.counted(at, load);
                metrics.counted_backlog(unfinished, rate.per_second());
                of_task.counted(Count {
                    at,
                    unfinished: unfinished as u64,
                    waiting: waiting as u64,
                    rate,
                    written,
                });
                match of_task.change(&mut outage) {
                    Some(Change::Full) => warn!(
                        limit,
                        "the backlog is full: new jobs are refused until some have ended"
                    ),
                    Some(Change::Recovered) => {
                        info!(limit, "the backlog has room again: new jobs are accepted");
                    }
                    None => {}
                }
            };
            keep_counting("the backlog", PERIOD, count, update).await;
        });
        Self {
            shared,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    /// Completes when the unfinished jobs were counted for the first time. No job may be admitted
    /// before: those of an earlier process can fill the backlog.
    pub async fn counted(&self) {
        self.shared.is_counted.wait().await;
    }

    /// Admits a submission, which counts from here on.
    ///
    /// # Errors
    /// The backlog is full.
    pub fn admit(&self) -> Result<Admitted<'_>, BacklogFull> {
        self.shared.admit()
    }
}

impl Shared {
    fn new(limit: u64) -> Self {
        Self {
            limit,
            admitted: AtomicU64::new(0),
            written: AtomicU64::new(0),
            has_refused: AtomicBool::new(false),
            last: RwLock::new(Count {
                at: Instant::now(),
                unfinished: 0,
                waiting: 0,
                rate: DrainRate::default(),
                written: 0,
            }),
            is_counted: SetOnce::new(),
        }
    }

    fn admit(&self) -> Result<Admitted<'_>, BacklogFull> {
        let last = *self.last.read().unwrap_or_else(PoisonError::into_inner);
        let backlog = |admitted: u64| last.unfinished + admitted.saturating_sub(last.written);
        let admitted =
            self.admitted
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |admitted| {
                    (backlog(admitted) < self.limit).then_some(admitted + 1)
                });
        match admitted {
            Ok(admitted) => Ok(Admitted {
                shared: self,
                wait: last.wait(admitted.saturating_sub(last.written), last.at.elapsed()),
                is_stored: true,
            }),
            Err(admitted) => {
                self.has_refused.store(true, Ordering::Relaxed);
                let over = backlog(admitted) - self.limit + 1;
                Err(BacklogFull {
                    retry_after: last.retry_after(over),
                })
            }
        }
    }

    fn counted(&self, count: Count) {
        *self.last.write().unwrap_or_else(PoisonError::into_inner) = count;
        let _ = self.is_counted.set(()); // it may be set already
    }

    /// What has changed, by the submissions that were refused since the last call.
    fn change(&self, outage: &mut Outage) -> Option<Change> {
        if self.has_refused.swap(false, Ordering::Relaxed) {
            outage.failed().then_some(Change::Full)
        } else {
            outage.recovered().then_some(Change::Recovered)
        }
    }
}

impl Count {
    /// How long a new job should wait for a worker, with so many `accepted` by this process since
    /// the count, which is `old`.
    fn wait(&self, accepted: u64, old: Duration) -> Duration {
        let time_for = |jobs| self.rate.time_for(jobs, LONGEST_WAIT).unwrap_or_default();
        let waiting = jobs(self.waiting);
        // Otherwise the workers keep up, and what was accepted since does not wait either.
        let since = if time_for(waiting) >= BACKLOGGED {
            jobs(accepted) - self.rate.within(old)
        } else {
            0.0
        };
        time_for(waiting + since)
    }

    /// When a client should retry that found the backlog `over` the limit by so many jobs.
    fn retry_after(&self, over: u64) -> Duration {
        let (least, most) = RETRY_AFTER;
        let drained = self.rate.time_for(jobs(over), most);
        drained.unwrap_or(RETRY_AFTER_STANDSTILL).max(least)
    }
}

/// A submission that was admitted. It counts as stored, unless it is withdrawn.
pub struct Admitted<'a> {
    shared: &'a Shared,
    wait: Duration,
    is_stored: bool,
}

impl Admitted<'_> {
    /// How long its job should wait for a worker: zero if none wait, or if it is unknown.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// It was not stored.
    pub fn withdraw(mut self) {
        self.is_stored = false;
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if self.is_stored {
            // Release: a count that begins after it, sees its row.
            self.shared.written.fetch_add(1, Ordering::Release);
        } else {
            self.shared.admitted.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
