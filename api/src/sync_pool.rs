//! The threads behind `/sync`: a fixed number, and a bounded queue before them.
//!
//! The work blocks its thread, so it has threads of its own: whatever happens here, the runtime's
//! threads and what they serve go on. The queue is our own rather than a channel because tickets in
//! it can be abandoned: those are never run, and make room when the queue is full.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

/// A fixed number of threads, and the queue before them.
pub struct SyncPool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Why a ticket was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolRefusal {
    /// Every thread is busy and every waiting place taken.
    Full,
    /// The pool takes no more.
    Stopped,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Rung for each ticket, and when the pool stops.
    bell: Condvar,
}

struct Queue {
    tickets: VecDeque<Box<dyn Ticket>>,
    /// Threads that run nothing.
    idle: usize,
    /// Tickets that may wait beside those that an idle thread is about to take.
    places: usize,
    stopped: bool,
}

impl SyncPool {
    /// Starts `threads` threads (`sync-0` and on) with `places` waiting places before them.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(threads: usize, places: usize) -> io::Result<Self> {
        let queue = Queue {
            tickets: VecDeque::new(),
            idle: threads,
            places,
            stopped: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            bell: Condvar::new(),
        });
        // Made before its threads: if one is refused, dropping the pool stops the others.
        let pool = Self {
            shared,
            threads: Mutex::default(),
        };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = thread::Builder::new()
                .name(format!("sync-{number}"))
                .spawn(move || run(&shared))?;
            pool.threads().push(thread);
        }
        Ok(pool)
    }

    /// Queues `work` for the next free thread. Its result, or its panic, comes through the receiver;
    /// dropping or closing that abandons work that has not begun. The receiver fails when the pool
    /// is closed before the work's turn.
    ///
    /// # Errors
    /// No place is left, or the pool has stopped.
    pub fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<thread::Result<T>>, PoolRefusal> {
        let (answer, result) = oneshot::channel();
        let mut queue = self.shared.queue();
        if queue.stopped {
            return Err(PoolRefusal::Stopped);
        }
        if queue.is_full() {
            queue.tickets.retain(|ticket| !ticket.is_abandoned());
        }
        if queue.is_full() {
            return Err(PoolRefusal::Full);
        }
        queue.tickets.push_back(Box::new(Pending { work, answer }));
        drop(queue);
        self.shared.bell.notify_one();
        Ok(result)
    }

    /// Tickets that no thread has taken yet.
    pub fn waiting(&self) -> usize {
        self.shared.queue().tickets.len()
    }

    /// Takes no more tickets. Those in the queue are still run.
    pub fn stop(&self) {
        self.shared.queue().stopped = true;
        self.shared.bell.notify_all();
    }

    /// Stops, drops what waits, and returns when every thread has ended.
    pub async fn close(&self) {
        self.stop();
        let dropped = std::mem::take(&mut self.shared.queue().tickets);
        drop(dropped);
        let threads = std::mem::take(&mut *self.threads());
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join(); // it catches its work's panics, and has no others
            }
        });
        let _ = joined.await;
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SyncPool {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// No work is ever run, and nothing can panic, under this lock.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next ticket that somebody waits for; none when the pool has stopped and is empty.
    fn next(&self) -> Option<Box<dyn Ticket>> {
        let mut queue = self.queue();
        loop {
            match queue.tickets.pop_front() {
                Some(ticket) if ticket.is_abandoned() => {}
                Some(ticket) => {
                    queue.idle -= 1;
                    return Some(ticket);
                }
                None if queue.stopped => return None,
                None => {
                    queue = self
                        .bell
                        .wait(queue)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Queue {
    fn is_full(&self) -> bool {
        self.tickets.len() >= self.idle + self.places
    }
}

fn run(shared: &Shared) {
    while let Some(ticket) = shared.next() {
        ticket.run(&|| shared.queue().idle += 1);
    }
}

/// Queued work, whatever it returns.
trait Ticket: Send {
    /// Whether nobody waits for the result any more.
    fn is_abandoned(&self) -> bool;
    /// Does the work, and frees its thread before anyone hears the result: who then comes again
    /// finds a place.
    fn run(self: Box<Self>, free: &dyn Fn());
}

struct Pending<F, T> {
    work: F,
    answer: oneshot::Sender<thread::Result<T>>,
}

impl<F: FnOnce() -> T + Send, T: Send> Ticket for Pending<F, T> {
    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    fn run(self: Box<Self>, free: &dyn Fn()) {
        // The work is gone after a panic, so nobody can see what it left half done.
        let result = catch_unwind(AssertUnwindSafe(self.work));
        free();
        let _ = self.answer.send(result); // or it was abandoned meanwhile
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::{PoolRefusal, SyncPool};

    /// Work that holds its thread until it is told; it says when it begins.
    fn gate() -> (impl FnOnce() + Send, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (begun, has_begun) = mpsc::channel();
        let (open, opened) = mpsc::channel();
        let work = move || {
            begun.send(()).unwrap();
            opened.recv().unwrap();
        };
        (work, has_begun, open)
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_a_freed_thread_takes_again() {
        let pool = SyncPool::start(1, 1).unwrap();
        let (work, has_begun, open) = gate();
        let running = pool.submit(work).unwrap();
        has_begun.recv().unwrap();
        let waiting = pool.submit(|| 2).unwrap();
        assert_eq!(pool.submit(|| 3).unwrap_err(), PoolRefusal::Full);
        open.send(()).unwrap();
        running.await.unwrap().unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 2);
        assert_eq!(pool.submit(|| 4).unwrap().await.unwrap().unwrap(), 4);
    }

    #[tokio::test]
    async fn without_waiting_places_a_thread_is_free_as_soon_as_its_result_is_heard() {
        let pool = SyncPool::start(1, 0).unwrap();
        for turn in 0..1000 {
            assert_eq!(
                pool.submit(move || turn).unwrap().await.unwrap().unwrap(),
                turn
            );
        }
    }

    #[tokio::test]
    async fn abandoned_work_is_not_run_and_makes_room() {
        let pool = SyncPool::start(1, 1).unwrap();
        let (work, has_begun, open) = gate();
        let running = pool.submit(work).unwrap();
        has_begun.recv().unwrap();
        let (ran, has_run) = mpsc::channel();
        drop(pool.submit(move || ran.send(())).unwrap());
        let waiting = pool.submit(|| 2).expect("the abandoned ticket's place");
        open.send(()).unwrap();
        running.await.unwrap().unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 2);
        assert!(has_run.recv().is_err(), "dropped without having been run");
    }

    #[tokio::test]
    async fn a_panic_reaches_its_caller_and_costs_no_thread() {
        let pool = SyncPool::start(1, 0).unwrap();
        let panics = || -> u32 { panic!("as this test wants") };
        assert!(pool.submit(panics).unwrap().await.unwrap().is_err());
        assert_eq!(pool.submit(|| 2).unwrap().await.unwrap().unwrap(), 2);
    }

    #[tokio::test]
    async fn a_stopped_pool_takes_nothing_and_runs_what_waits() {
        let pool = SyncPool::start(1, 1).unwrap();
        let (work, has_begun, open) = gate();
        let running = pool.submit(work).unwrap();
        has_begun.recv().unwrap();
        let waiting = pool.submit(|| 2).unwrap();
        pool.stop();
        assert_eq!(pool.submit(|| 3).unwrap_err(), PoolRefusal::Stopped);
        open.send(()).unwrap();
        running.await.unwrap().unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 2);
    }

    #[tokio::test]
    async fn a_closed_pool_answers_what_waits_and_ends_its_threads() {
        let pool = SyncPool::start(1, 1).unwrap();
        let (work, has_begun, open) = gate();
        let running = pool.submit(work).unwrap();
        has_begun.recv().unwrap();
        let waiting = pool.submit(|| 2).unwrap();
        let closing = async {
            // Only what waits is dropped: that comes before the running work's end.
            waiting.await.unwrap_err();
            open.send(()).unwrap();
        };
        tokio::join!(pool.close(), closing);
        running.await.unwrap().unwrap();
        assert!(pool.threads().is_empty());
    }
}
