//! A handler's circuit breaker: whether its jobs may be claimed, and their attempts made.
//!
//! While it is open, its jobs stay in the table, where they cost nothing. One is claimed when the
//! probe is due. A job that has been due for longer than `CALLBACK_PARK_MAX` passes it, so that
//! every job gets its attempts.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::breaker::{Admission, Breaker, Signal, Trouble};

/// How long a job waits that was claimed before others have opened the breaker. It stays in the
/// table after that, and the search finds it as soon as the breaker is closed.
const AGAIN: Duration = Duration::from_secs(1);

/// The breaker of a handler in this worker. Clones share it.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Mutex<Breaker>>);

impl Gate {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Breaker::closed())))
    }

    /// Which jobs may be claimed now.
    pub(crate) fn admission(&self) -> Admission {
        self.lock().admission(Instant::now())
    }

    /// What the breaker holds back; `None` while it is closed.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.lock().trouble()
    }

    /// Begins an attempt, or returns how long its job waits: others have opened the breaker since
    /// it was claimed. A job that `is_overdue` passes.
    pub(crate) fn begin(&self, is_overdue: bool) -> Result<Attempt, Duration> {
        let budget = if is_overdue {
            Duration::ZERO
        } else {
            Duration::MAX
        };
        let begun = self.lock().begin(Instant::now(), budget);
        let is_probe = begun.map_err(|wait| wait.min(AGAIN))?;
        Ok(Attempt {
            gate: self.clone(),
            is_probe,
            is_recorded: false,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        // No change under this lock can be left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that has passed the gate.
pub(crate) struct Attempt {
    gate: Gate,
    is_probe: bool,
    is_recorded: bool,
}

impl Attempt {
    /// Records what the attempt says about its handler. Returns whether the breaker is open since
    /// then, if that has changed.
    pub(crate) fn record(mut self, signal: Signal) -> Option<bool> {
        self.is_recorded = true;
        let mut breaker = self.gate.lock();
        let was_open = breaker.is_open();
        breaker.record(signal, self.is_probe, Instant::now());
        Some(breaker.is_open()).filter(|is_open| *is_open != was_open)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_probe && !self.is_recorded {
            self.gate.lock().probe_cut_off(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Gate;
    use crate::breaker::{Admission, Signal};

    fn fail(gate: &Gate) -> Option<bool> {
        gate.begin(true).ok()?.record(Signal::Failure)
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_gate_of_failures_admits_one_probe_at_a_time_and_what_is_overdue() {
        let gate = Gate::new();
        let changes: Vec<_> = (0..101).filter_map(|_| fail(&gate)).collect();
        assert_eq!(changes, [true]);
        assert!(matches!(
            gate.admission(),
            Admission::Overdue { probe_in: Some(wait) } if wait == Duration::from_secs(1)
        ));
        for _ in 0..2 {
            assert_eq!(gate.begin(false).err(), Some(Duration::from_secs(1)));
        }
        assert!(gate.begin(true).is_ok(), "overdue");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(gate.admission(), Admission::Probe);
        let probe = gate.begin(false).unwrap();
        assert_eq!(gate.admission(), Admission::Overdue { probe_in: None });
        drop(probe);
        assert_eq!(gate.admission(), Admission::Probe, "it was cut off");
        let probe = gate.begin(false).unwrap();
        assert_eq!(probe.record(Signal::Success), Some(false));
        assert_eq!(gate.admission(), Admission::All);
    }
}
