//! The threads that a process needs, and whether the system grants them.

use std::{
    env, fs, io,
    num::NonZeroUsize,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::services::store;

/// tokio's own setting of the runtime's threads.
const WORKERS: &str = "TOKIO_WORKER_THREADS";

/// What a service starts itself: the threads of the store, the one that opens it, and one for the
/// first work, such as a report or a name look-up.
pub(super) const OF_A_SERVICE: usize = store::THREADS + 2;

/// How long the threads of a trial have to leave the system's count.
const LEAVING: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(1);

/// The system grants too few threads.
#[derive(Debug, Error)]
#[error(
    "only {granted} of {needed} further threads can be started ({error}): raise the limit with \
     `ulimit -u`, TasksMax= (systemd) or `pids_limit` (compose)"
)]
pub(super) struct TooFewThreads {
    granted: usize,
    needed: usize,
    error: io::Error,
}

/// [`WORKERS`] is no number of threads.
#[derive(Debug, Error)]
#[error("{WORKERS}={0:?}: use a whole number of 1 or more, or leave it unset")]
pub(super) struct InvalidWorkers(String);

/// The number of the runtime's threads: one a core, unless tokio's setting says otherwise.
///
/// # Errors
/// The setting is invalid, for which tokio would panic.
pub(super) fn workers() -> Result<NonZeroUsize, InvalidWorkers> {
    let Some(value) = env::var_os(WORKERS) else {
        return Ok(thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    };
    let value = value.to_string_lossy();
    value
        .parse()
        .map_err(|_| InvalidWorkers(value.into_owned()))
}

/// Tries whether `needed` further threads can run at a time. They end before this returns.
///
/// tokio and the store's library panic if they get no thread, or wait for one for ever.
///
/// # Errors
/// The system grants fewer.
pub(super) fn try_to_start(needed: usize) -> Result<(), TooFewThreads> {
    let before = running();
    let gate = Mutex::new(());
    let tried = thread::scope(|scope| {
        let closed = gate.lock();
        let tried = (0..needed).try_for_each(|granted| {
            let started = thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()));
            started.map(drop).map_err(|error| TooFewThreads {
                granted,
                needed,
                error,
            })
        });
        drop(closed); // ends them
        tried
    });
    // A thread counts until the kernel has released it, a moment after its end.
    let deadline = Instant::now() + LEAVING;
    while running() > before && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
    tried
}

/// The number of this process's threads. 0 where the system does not tell.
fn running() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::try_to_start;

    #[test]
    fn threads_that_are_granted_are_no_error() {
        try_to_start(0).unwrap();
        try_to_start(20).unwrap();
    }
}
