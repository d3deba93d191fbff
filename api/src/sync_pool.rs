//! The concurrency limit of `/sync`, and the bounded queue before it.
//!
//! A report blocks its thread, so it runs on a thread of its own and never on one that serves
//! requests. Two semaphores bound this work: one permit of `slots` for each request that waits or
//! runs, one of `running` for each that runs. Both are FIFO.

mod threads;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use self::threads::{StartThread, Threads};

/// Bounds how many requests run and wait.
pub struct SyncPool {
    slots: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// The permits of `running` and of `slots`.
    bounds: (usize, usize),
    admitted: TaskTracker,
    threads: Arc<Threads>,
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
    /// The system refused a thread.
    NoThread,
}

/// An admitted request's slot in the pool; dropping it frees the slot.
pub struct Slot {
    permit: OwnedSemaphorePermit,
    running: Arc<Semaphore>,
    admitted: TaskTrackerToken,
    threads: Arc<Threads>,
}

impl SyncPool {
    /// A pool in which `threads` requests run at a time, and `queue` more may wait.
    pub fn new(threads: usize, queue: usize) -> Self {
        Self::with_threads_of(threads::start, threads, queue)
    }

    fn with_threads_of(start_thread: StartThread, threads: usize, queue: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(threads + queue)),
            running: Arc::new(Semaphore::new(threads)),
            bounds: (threads, threads + queue),
            admitted: TaskTracker::new(),
            threads: Arc::new(Threads::new(start_thread)),
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
            running: Arc::clone(&self.running),
            admitted: self.admitted.token(),
            threads: Arc::clone(&self.threads),
        })
    }

    /// How many requests have a slot: those that wait and those that run.
    pub fn admitted(&self) -> usize {
        self.admitted.len()
    }

    /// The permits of the requests that run, and how many may.
    pub fn running(&self) -> (&Arc<Semaphore>, usize) {
        (&self.running, self.bounds.0)
    }

    /// The permits of the requests that run or wait, and how many may.
    pub fn slots(&self) -> (&Arc<Semaphore>, usize) {
        (&self.slots, self.bounds.1)
    }

    /// Admits no more requests. Work that waits is still run.
    pub fn stop(&self) {
        self.slots.close();
    }

    /// Stops, drops the work that waits, and returns when the running work has ended.
    pub async fn close(&self) {
        self.stop();
        self.running.close();
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
    /// The work panicked, or it never began: the pool was closed, or the system refused a thread.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let running = self.running.acquire_owned().await;
        let running = running.map_err(|_closed| WorkError::Closed)?;
        let held = (running, self.permit, self.admitted);
        let (result, ended) = oneshot::channel();
        // Not `spawn_blocking`: while the system refuses it a thread, tokio keeps the work queued,
        // and with it the permits. Here the refused work is dropped, which frees them.
        let started = self.threads.run(Box::new(move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            // Before the caller gets the result: a client that has its answer and comes again
            // finds its slot free.
            drop(held);
            let _ = result.send(done); // fails if the caller has gone
        }));
        started.ok_or(WorkError::NoThread)?;
        match ended.await {
            Ok(Ok(done)) => Ok(done),
            // The sender is dropped without a result only if the thread dies.
            Ok(Err(_)) | Err(_) => Err(WorkError::Panicked),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Barrier},
    };

    use tokio::sync::oneshot;

    use super::{PoolRefusal, Slot, SyncPool, WorkError};

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

    #[tokio::test]
    async fn work_that_gets_no_thread_fails_at_once_and_frees_its_slot() {
        let none = |_| Err(io::ErrorKind::WouldBlock.into());
        let pool = SyncPool::with_threads_of(none, 1, 0);
        for _ in 0..3 {
            let slot = pool.admit().expect("a free slot");
            assert_eq!(slot.run(|| 2).await, Err(WorkError::NoThread));
        }
        pool.close().await;
    }

    #[tokio::test]
    async fn as_many_run_at_a_time_as_there_are_threads() {
        let threads = 600; // more than tokio's 512 blocking threads
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
    }
}
