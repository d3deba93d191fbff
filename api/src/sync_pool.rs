//! The concurrency limit of `/sync`, and the bounded queue before it.
//!
//! A report blocks its thread, so it runs on one of tokio's blocking threads and never on a thread
//! that serves requests. Two semaphores bound this work: one permit of `slots` for each request
//! that waits or runs, one of `threads` for each that runs. Both are FIFO.

use std::{io, sync::Arc};

use tokio::{
    runtime::{self, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    task::spawn_blocking,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker, task_tracker::TaskTrackerToken};

/// The most threads that `SYNC_THREADS` may ask for.
pub const MAX_THREADS: usize = 1024;

/// Blocking threads beside those of `/sync`: tokio's default number. Name look-ups (of Redis) and
/// the opening of the database use them, and a saturated `/sync` must not delay these.
const OTHER_THREADS: usize = 512;

/// The API's runtime: enough blocking threads for the largest pool. They start on demand.
///
/// # Errors
/// The system refuses a thread.
pub fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(MAX_THREADS + OTHER_THREADS)
        .build()
}

/// Bounds how many requests run and wait.
pub struct SyncPool {
    slots: Arc<Semaphore>,
    threads: Arc<Semaphore>,
    admitted: TaskTracker,
}

/// Why a request was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolRefusal {
    /// Every thread is busy and the queue is full.
    Full,
    /// The pool has been stopped.
    Stopped,
}

/// Why admitted work has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkError {
    /// The work panicked.
    Panicked,
    /// The pool was closed before the work began.
    Closed,
}

/// An admitted request's slot in the pool; dropping it frees the slot.
pub struct Slot {
    permit: OwnedSemaphorePermit,
    threads: Arc<Semaphore>,
    admitted: TaskTrackerToken,
}

impl SyncPool {
    /// A pool in which `threads` requests run at a time, and `queue` more may wait.
    pub fn new(threads: usize, queue: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(threads + queue)),
            threads: Arc::new(Semaphore::new(threads)),
            admitted: TaskTracker::new(),
        }
    }

    /// Admits a request, or refuses it at once.
    ///
    /// # Errors
    /// The queue is full, or the pool has been stopped.
    pub fn admit(&self) -> Result<Slot, PoolRefusal> {
        let permit = Arc::clone(&self.slots).try_acquire_owned();
        let permit = permit.map_err(|error| match error {
            TryAcquireError::NoPermits => PoolRefusal::Full,
            TryAcquireError::Closed => PoolRefusal::Stopped,
        })?;
        Ok(Slot {
            permit,
            threads: Arc::clone(&self.threads),
            admitted: self.admitted.token(),
        })
    }

    /// How many requests have a slot: those that wait and those that run.
    pub fn admitted(&self) -> usize {
        self.admitted.len()
    }

    /// Admits no more requests. Work that waits is still run.
    pub fn stop(&self) {
        self.slots.close();
    }

    /// Stops, drops the work that waits, and returns when the running work has ended.
    pub async fn close(&self) {
        self.stop();
        self.threads.close();
        self.admitted.close();
        // Slots are counted from their admission on. Counting the running work alone would miss
        // work that has its thread's permit and is about to begin.
        self.admitted.wait().await;
    }
}

impl Slot {
    /// Waits for a thread, then runs `work` on it. Dropping this future abandons work that has not
    /// begun: it never runs. Work that has begun runs to its end and keeps its slot until then.
    ///
    /// # Errors
    /// The work panicked, or the pool was closed before it began.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let thread = self.threads.acquire_owned().await;
        let thread = thread.map_err(|_closed| WorkError::Closed)?;
        let held = (thread, self.permit, self.admitted);
        let running = spawn_blocking(move || {
            // Dropped before the caller gets the result, also by a panic: a client that has its
            // answer and comes again finds its slot free.
            let _held = held;
            work()
        });
        // While the system is out of threads, the work has a permit and still waits for a thread.
        let result = AbortOnDropHandle::new(running).await;
        result.map_err(|error| {
            if error.is_panic() {
                WorkError::Panicked
            } else {
                WorkError::Closed
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use storm_shared::config::Settings;
    use tokio::sync::oneshot;

    use super::{MAX_THREADS, PoolRefusal, Slot, SyncPool, WorkError, runtime};

    /// A slot whose work holds its thread until it is released.
    struct Running {
        task: tokio::task::JoinHandle<Result<(), WorkError>>,
        end: oneshot::Sender<()>,
    }

    impl Running {
        /// Returns when the work has begun.
        async fn begin(slot: Slot) -> Self {
            let (begun, has_begun) = oneshot::channel();
            let (end, ended) = oneshot::channel();
            let task = tokio::spawn(slot.run(move || {
                begun.send(()).unwrap();
                ended.blocking_recv().unwrap();
            }));
            has_begun.await.unwrap();
            Self { task, end }
        }

        async fn end(self) {
            self.end.send(()).unwrap();
            self.task.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_admits_again_when_a_thread_is_free() {
        let pool = SyncPool::new(1, 1);
        let running = Running::begin(pool.admit().unwrap()).await;
        let waiting = pool.admit().unwrap();
        assert_eq!(pool.admit().err(), Some(PoolRefusal::Full));
        running.end().await;
        assert_eq!(waiting.run(|| 2).await, Ok(2));
        assert_eq!(pool.admit().unwrap().run(|| 4).await, Ok(4));
    }

    #[tokio::test]
    async fn without_a_queue_a_slot_is_free_as_soon_as_its_result_is_there() {
        let pool = SyncPool::new(1, 0);
        for turn in 0..1000 {
            assert_eq!(pool.admit().unwrap().run(move || turn).await, Ok(turn));
        }
    }

    #[tokio::test]
    async fn no_more_run_at_a_time_than_there_are_threads_and_waiters_are_served_fifo() {
        let pool = SyncPool::new(1, 3);
        let running = Running::begin(pool.admit().unwrap()).await;
        let (order, served) = std::sync::mpsc::channel();
        let waiting: Vec<_> = (0..3)
            .map(|place| {
                let order = order.clone();
                let work = move || order.send(place).unwrap();
                tokio::spawn(pool.admit().unwrap().run(work))
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(served.try_recv().ok(), None, "the only thread is busy");
        running.end().await;
        for task in waiting {
            task.await.unwrap().unwrap();
        }
        assert_eq!(served.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn abandoned_work_never_runs_and_frees_its_slot() {
        let pool = SyncPool::new(1, 1);
        let running = Running::begin(pool.admit().unwrap()).await;
        let (ran, has_run) = oneshot::channel();
        let abandoned = tokio::spawn(pool.admit().unwrap().run(move || ran.send(())));
        tokio::task::yield_now().await; // it waits for its thread now
        abandoned.abort();
        assert!(abandoned.await.unwrap_err().is_cancelled());
        let waiting = pool.admit().expect("the abandoned request's slot");
        running.end().await;
        assert_eq!(waiting.run(|| 2).await, Ok(2));
        assert!(has_run.await.is_err(), "dropped without having been run");
    }

    #[tokio::test]
    async fn running_work_that_is_abandoned_keeps_its_slot_until_it_ends() {
        let pool = SyncPool::new(1, 0);
        let Running { task, end } = Running::begin(pool.admit().unwrap()).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(pool.admit().err(), Some(PoolRefusal::Full));
        end.send(()).unwrap();
        pool.close().await;
        assert_eq!(pool.admitted(), 0);
    }

    #[tokio::test]
    async fn a_panic_reaches_its_caller_and_costs_no_capacity() {
        let pool = SyncPool::new(1, 0);
        let panics = || -> u32 { panic!("as this test wants") };
        let slot = pool.admit().unwrap();
        assert_eq!(slot.run(panics).await, Err(WorkError::Panicked));
        assert_eq!(pool.admit().unwrap().run(|| 2).await, Ok(2));
    }

    #[tokio::test]
    async fn a_stopped_pool_admits_nothing_and_runs_what_waits() {
        let pool = SyncPool::new(1, 1);
        let running = Running::begin(pool.admit().unwrap()).await;
        let waiting = pool.admit().unwrap();
        pool.stop();
        assert_eq!(pool.admit().err(), Some(PoolRefusal::Stopped));
        running.end().await;
        assert_eq!(waiting.run(|| 2).await, Ok(2));
    }

    #[tokio::test]
    async fn closing_drops_what_waits_and_returns_when_the_running_work_has_ended() {
        let pool = SyncPool::new(1, 1);
        let running = Running::begin(pool.admit().unwrap()).await;
        let waiting = tokio::spawn(pool.admit().unwrap().run(|| 2));
        let closing = async {
            // The waiting work is dropped before the running work has ended.
            assert_eq!(waiting.await.unwrap(), Err(WorkError::Closed));
            assert_eq!(pool.admitted(), 1);
            running.end().await;
        };
        tokio::join!(pool.close(), closing);
        assert_eq!(pool.admitted(), 0);
    }

    #[test]
    fn the_runtime_has_threads_for_a_pool_larger_than_tokios_default() {
        let settings = |threads: usize| {
            let threads = threads.to_string();
            Settings::with([("SYNC_THREADS", threads.as_str())])
        };
        assert!(settings(MAX_THREADS).is_ok());
        assert!(settings(MAX_THREADS + 1).is_err());

        runtime().unwrap().block_on(async {
            let threads = 600; // tokio's default is 512 blocking threads
            let pool = SyncPool::new(threads, 0);
            // It opens when every piece of work has begun.
            let barrier = Arc::new(Barrier::new(threads));
            let all: Vec<_> = (0..threads)
                .map(|_| {
                    let barrier = Arc::clone(&barrier);
                    tokio::spawn(pool.admit().unwrap().run(move || barrier.wait()))
                })
                .collect();
            for task in all {
                task.await.unwrap().unwrap();
            }
        });
    }
}
