//! Checks the database and Redis once a second while somebody asks for the result.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::services::health::{CheckResult, DEADLINE};

/// The time from one check to the next.
const PERIOD: Duration = Duration::from_secs(1);

/// The checks continue for this long after the last question. Orchestrators ask every few seconds;
/// with checks in between, the answer is at hand, and an outage is known from its beginning. A
/// service that nobody asks makes no checks.
const CHECKED_FOR: Duration = Duration::from_mins(1);

/// An older result is not an answer: wait for the next one. This process may have been suspended.
const FRESH: Duration = Duration::from_secs(3);

/// How long a question waits for the first check, or for the next one.
const WAIT: Duration = DEADLINE.saturating_add(Duration::from_millis(500));

/// The result of the latest checks.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) database: CheckResult,
    pub(super) redis: CheckResult,
    /// When the last successful check of the database began.
    pub(super) last_success: Instant,
    at: Instant,
}

/// The task that makes the checks, and its latest results.
pub(super) struct Observer {
    /// When somebody last asked.
    asked: watch::Sender<Instant>,
    observed: watch::Receiver<Option<Observed>>,
    started: Instant,
    _task: AbortOnDropHandle<()>,
}

/// Makes the checks of the database and of Redis, each within a deadline.
pub(super) trait Checks: Send + 'static {
    /// The results of the database and of Redis.
    fn run(&mut self) -> impl Future<Output = (CheckResult, CheckResult)> + Send;
}

impl Observer {
    /// Starts the task. The database is taken for reachable now.
    pub(super) fn start(checks: impl Checks) -> Self {
        let started = Instant::now();
        let (asked, questions) = watch::channel(started);
        let (sender, observed) = watch::channel(None);
        let task = tokio::spawn(observe(checks, questions, sender, started));
        Self {
            asked,
            observed,
            started,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The latest results. Waits for the next ones if there are none or only old ones.
    pub(super) async fn latest(&self) -> Observed {
        self.asked.send_replace(Instant::now());
        let mut observed = self.observed.clone();
        let is_fresh = |latest: &Option<Observed>| {
            latest
                .as_ref()
                .is_some_and(|latest| latest.at.elapsed() < FRESH)
        };
        if let Ok(Ok(latest)) = timeout(WAIT, observed.wait_for(is_fresh)).await
            && let Some(latest) = &*latest
        {
            return latest.clone();
        }
        // The machine is too busy to make a check in time, or the task has ended.
        let last = self.observed.borrow().clone();
        let late = CheckResult::Failing("no check was made in time".into());
        Observed {
            database: late.clone(),
            redis: late,
            last_success: last.map_or(self.started, |last| last.last_success),
            at: Instant::now(),
        }
    }
}

async fn observe(
    mut checks: impl Checks,
    mut questions: watch::Receiver<Instant>,
    sender: watch::Sender<Option<Observed>>,
    started: Instant,
) {
    let mut last_success = started;
    while questions.changed().await.is_ok() {
        while questions.borrow_and_update().elapsed() < CHECKED_FOR {
            let begun = Instant::now();
            let (database, redis) = checks.run().await;
            if !database.is_failing() {
                last_success = begun;
            }
            sender.send_replace(Some(Observed {
                database,
                redis,
                last_success,
                at: Instant::now(),
            }));
            sleep_until(begun + PERIOD).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use tokio::time::{Instant, sleep};

    use super::{CHECKED_FOR, Checks, Observer};
    use crate::services::health::{CheckResult, DEADLINE};

    /// A database that can be put out of reach, and the number of its checks.
    #[derive(Clone, Default)]
    struct Database {
        hangs: Arc<AtomicBool>,
        checks: Arc<AtomicUsize>,
    }

    impl Checks for Database {
        async fn run(&mut self) -> (CheckResult, CheckResult) {
            self.checks.fetch_add(1, Ordering::Relaxed);
            if self.hangs.load(Ordering::Relaxed) {
                let _ = tokio::time::timeout(DEADLINE, pending::<()>()).await;
                let late = CheckResult::Failing("late".into());
                return (late, CheckResult::None);
            }
            (CheckResult::Ok, CheckResult::None)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_the_database_is_checked_once_a_second() {
        let database = Database::default();
        let observer = Observer::start(database.clone());
        for _ in 0..1000 {
            assert_eq!(observer.latest().await.database, CheckResult::Ok);
            sleep(Duration::from_millis(10)).await;
        }
        let checks = database.checks.load(Ordering::Relaxed);
        assert!((9..=11).contains(&checks), "{checks} in ten seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_nobody_asks_makes_no_checks() {
        let database = Database::default();
        let observer = Observer::start(database.clone());
        sleep(Duration::from_hours(1)).await;
        assert_eq!(database.checks.load(Ordering::Relaxed), 0);
        observer.latest().await;
        sleep(CHECKED_FOR * 2).await;
        let checks = database.checks.load(Ordering::Relaxed);
        sleep(Duration::from_hours(1)).await;
        assert!(database.checks.load(Ordering::Relaxed) <= checks + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_known_from_its_beginning_although_questions_are_rare() {
        let database = Database::default();
        let observer = Observer::start(database.clone());
        observer.latest().await;
        sleep(Duration::from_secs(30)).await;
        database.hangs.store(true, Ordering::Relaxed);
        let outage = Instant::now();
        sleep(Duration::from_secs(20)).await;
        let asked = Instant::now();
        let latest = observer.latest().await;
        assert_ne!(latest.database, CheckResult::Ok);
        let off = outage.saturating_duration_since(latest.last_success);
        assert!(off <= Duration::from_secs(2), "{off:?}");
        assert!(asked.elapsed() < DEADLINE, "the answer was at hand");
    }
}
