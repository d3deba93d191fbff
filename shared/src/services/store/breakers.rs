//! The circuit breakers of handlers: each worker has its own of each. Value types, no SQL.

use std::time::Duration;

use jiff::Timestamp;

/// The circuit breaker of a handler in one worker, if it is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenBreaker {
    /// The worker claims none of its jobs.
    Open {
        /// The time until the probe: zero if it is due.
        probe_in: Duration,
    },
    /// The probe is under way.
    HalfOpen,
}

/// The workers that serve a handler, and its circuit breakers in them.
#[derive(Clone, Debug, Default)]
pub(super) struct Serving {
    /// The name, as it is stored.
    pub(super) handler: String,
    pub(super) workers: u32,
    pub(super) breakers: Breakers,
}

/// In how many of the workers that serve a handler its circuit breaker is not known to be closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakers {
    /// Where it is open.
    pub open: u32,
    /// Where its probe is under way.
    pub half_open: u32,
    /// The workers that don't say: those of an earlier release.
    pub unknown: u32,
    /// When the first probe is due of those where it is open, by the wall clock of now.
    pub until: Option<Timestamp>,
}

impl Breakers {
    /// The state in the `workers` that serve the handler: what holds back most of its jobs. `None`
    /// if it is unknown.
    pub fn state(&self, workers: u32) -> Option<&'static str> {
        if self.open > 0 {
            Some("open")
        } else if self.half_open > 0 {
            Some("half-open")
        } else if workers > self.unknown {
            Some("closed")
        } else {
            None
        }
    }

    /// Whether each of the `workers` holds the handler's jobs back.
    pub(super) fn hold_all(&self, workers: u32) -> bool {
        workers > 0 && self.open + self.half_open >= workers
    }
}

#[cfg(test)]
mod tests {
    use super::Breakers;

    #[test]
    fn one_open_breaker_shows_and_nothing_is_said_of_workers_that_do_not_say() {
        for (workers, open, half_open, unknown, state) in [
            (0, 0, 0, 0, None),
            (2, 0, 0, 2, None),
            (2, 0, 0, 1, Some("closed")),
            (3, 0, 1, 1, Some("half-open")),
            (3, 1, 1, 0, Some("open")),
        ] {
            let breakers = Breakers {
                open,
                half_open,
                unknown,
                until: None,
            };
            assert_eq!(breakers.state(workers), state, "{breakers:?}");
        }
    }
}
