//! The threads on which the reports of `/sync` run.

use std::{
    io,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use storm_shared::outage::Outage;
use tracing::{info, warn};

/// A piece of work that needs a thread of its own.
pub(super) type Work = Box<dyn FnOnce() + Send>;

/// Runs a piece of work on a new thread, or drops it if the system has no thread.
pub(super) type StartThread = fn(Work) -> io::Result<()>;

/// A lack of threads is over when every thread has started for this long.
const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// Starts threads, and logs once that the system refuses them.
pub(super) struct Threads {
    start: StartThread,
    outage: Mutex<Outage>,
}

impl Threads {
    pub(super) fn new(start: StartThread) -> Self {
        Self {
            start,
            outage: Mutex::new(Outage::with_quiet_period(QUIET_PERIOD)),
        }
    }

    /// Runs `work` on a new thread. If there is none, drops `work` and returns `None`.
    pub(super) fn run(&self, work: Work) -> Option<()> {
        let started = (self.start)(work);
        // No change under this lock can be left half done by a panic.
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        match started {
            Ok(()) => {
                if outage.recovered() {
                    info!("threads for /sync can be started again");
                }
                Some(())
            }
            Err(error) => {
                if outage.failed() {
                    warn!(
                        %error,
                        "no thread can be started, so /sync answers 503; raise ulimit -u, or \
                         TasksMax= (systemd)"
                    );
                }
                None
            }
        }
    }
}

/// A thread costs some 20 microseconds, and a report takes 10 milliseconds at least.
pub(super) fn start(work: Work) -> io::Result<()> {
    thread::Builder::new()
        .name("sync".to_owned())
        .spawn(work)
        .map(drop)
}
