//! A circuit breaker, of a destination or a handler.

use std::time::Duration;

use hyper::StatusCode;
use tokio::time::Instant;

use crate::delivery::AttemptError;

/// Failures in a row, without a success among them, that open the breaker.
const FAILURES_TO_OPEN: u32 = 100;

/// The time from opening to the first probe. Each failed probe doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a job is parked at a time. It asks again after that: the worker whose probe would
/// release it may have died.
const PARK_TIME: Duration = Duration::from_secs(30);

/// What the result of an attempt says about its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The origin answers. Its status, such as 404, concerns the one URL.
    Success,
    /// The origin does not answer, or answers that it is overloaded or broken.
    Failure,
    /// The origin was not reached for a reason of ours: the SSRF policy, or a shortage.
    Ignored,
}

impl Signal {
    pub(crate) fn of(result: &Result<StatusCode, AttemptError>) -> Self {
        match result {
            Err(AttemptError::Refused(_) | AttemptError::Shortage(_)) => Self::Ignored,
            Ok(_) => Self::Success,
            Err(AttemptError::Status { status, .. }) if !is_overload(*status) => Self::Success,
            Err(_) => Self::Failure,
        }
    }
}

fn is_overload(status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}

/// Which jobs may be claimed, where a breaker is asked before the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// All: the breaker is closed.
    All,
    /// One: it is the probe.
    Probe,
    /// Those that have been due for too long. The probe is due after `probe_in`; `None` while one
    /// is under way.
    Overdue {
        /// The time until then.
        probe_in: Option<Duration>,
    },
}

/// A breaker that is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No attempt passes until the probe is due.
    Open {
        /// When it is.
        until: Instant,
    },
    /// The probe is under way.
    HalfOpen,
}

/// A circuit breaker. It keeps no clock: callers pass the time.
pub(crate) struct Breaker {
    state: State,
    failures: u32,
    pause: Duration,
}

enum State {
    /// Attempts pass.
    Closed,
    /// No attempt passes until then.
    Open {
        until: Instant,
        /// Whether a job is parked exactly until then, to be the probe.
        has_probe: bool,
    },
    /// One attempt, the probe, is under way; no other passes.
    HalfOpen,
}

impl Breaker {
    pub(crate) const fn closed() -> Self {
        Self {
            state: State::Closed,
            failures: 0,
            pause: FIRST_PAUSE,
        }
    }

    /// Whether it equals a new one, so that it can be forgotten.
    pub(crate) fn is_untroubled(&self) -> bool {
        self.failures == 0 && !self.is_open()
    }

    /// Open or half-open.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// Whether it is open or half-open; `None` while it is closed.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        match self.state {
            State::Closed => None,
            State::Open { until, .. } => Some(Trouble::Open { until }),
            State::HalfOpen => Some(Trouble::HalfOpen),
        }
    }

    /// Which jobs may be claimed now.
    pub(crate) fn admission(&self, now: Instant) -> Admission {
        match self.state {
            State::Closed => Admission::All,
            State::Open { until, .. } if until <= now => Admission::Probe,
            State::Open { until, .. } => Admission::Overdue {
                probe_in: Some(until - now),
            },
            State::HalfOpen => Admission::Overdue { probe_in: None },
        }
    }

    /// How long to park a job that may be parked for `budget` more, or `None` if it may pass.
    pub(crate) fn park(&mut self, now: Instant, budget: Duration) -> Option<Duration> {
        // `CALLBACK_PARK_MAX` is used up. The job gets its attempt, so that every job ends.
        if budget.is_zero() {
            return None;
        }
        match &mut self.state {
            State::Closed => None,
            State::Open { until, .. } if *until <= now => None,
            State::Open { until, has_probe } if !*has_probe => {
                // Only one job comes back at that moment: all others would find the probe under way
                // and be parked again.
                *has_probe = true;
                Some(budget.min(*until - now))
            }
            // A successful probe releases it earlier.
            State::Open { .. } | State::HalfOpen => Some(budget.min(PARK_TIME)),
        }
    }

    /// Begins an attempt and returns whether it is the probe, or how long to park its job.
    pub(crate) fn begin(&mut self, now: Instant, budget: Duration) -> Result<bool, Duration> {
        if let Some(wait) = self.park(now, budget) {
            return Err(wait);
        }
        let is_probe = matches!(self.state, State::Open { until, .. } if until <= now);
        if is_probe {
            self.state = State::HalfOpen;
        }
        Ok(is_probe)
    }

    /// Records the result of an attempt.
    pub(crate) fn record(&mut self, signal: Signal, is_probe: bool, now: Instant) {
        match signal {
            // Not only the probe's: any answer proves that the origin lives.
            Signal::Success => *self = Self::closed(),
            Signal::Failure if is_probe => {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.open(now);
            }
            Signal::Failure => {
                self.failures = self.failures.saturating_add(1);
                // Attempts that were under way when it opened still fail. They must not extend the
                // pause.
                if self.failures >= FAILURES_TO_OPEN && !self.is_open() {
                    self.open(now);
                }
            }
            Signal::Ignored if is_probe => self.probe_cut_off(now),
            Signal::Ignored => {}
        }
    }

    /// The probe ended without a result: the next attempt is the probe.
    pub(crate) fn probe_cut_off(&mut self, now: Instant) {
        if matches!(self.state, State::HalfOpen) {
            self.state = State::Open {
                until: now,
                has_probe: false,
            };
        }
    }

    fn open(&mut self, now: Instant) {
        self.state = State::Open {
            until: now + self.pause,
            has_probe: false,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::StatusCode;
    use tokio::time::Instant;

    use super::{Breaker, FAILURES_TO_OPEN, FIRST_PAUSE, LONGEST_PAUSE, PARK_TIME, Signal};
    use crate::delivery::{AttemptError, Shortage};

    const BUDGET: Duration = Duration::from_mins(5);

    fn fail(breaker: &mut Breaker, times: u32, now: Instant) {
        for _ in 0..times {
            breaker.record(Signal::Failure, false, now);
        }
    }

    #[test]
    fn it_opens_only_after_a_hundred_failures_in_a_row() {
        let (mut breaker, now) = (Breaker::closed(), Instant::now());
        fail(&mut breaker, FAILURES_TO_OPEN - 1, now);
        breaker.record(Signal::Success, false, now);
        fail(&mut breaker, FAILURES_TO_OPEN - 1, now);
        assert!(!breaker.is_open());
        assert_eq!(breaker.park(now, BUDGET), None);
        fail(&mut breaker, 1, now);
        assert!(breaker.is_open());
        assert!(breaker.park(now, BUDGET).is_some());
    }

    #[test]
    fn one_job_is_the_probe_and_all_others_stay_parked_until_it_succeeds() {
        let (mut breaker, now) = (Breaker::closed(), Instant::now());
        fail(&mut breaker, FAILURES_TO_OPEN, now);
        assert_eq!(breaker.park(now, BUDGET), Some(FIRST_PAUSE));
        assert_eq!(breaker.park(now, BUDGET), Some(PARK_TIME));
        let less = PARK_TIME / 2;
        assert_eq!(breaker.park(now, less), Some(less));
        let then = now + FIRST_PAUSE;
        assert_eq!(breaker.begin(then, BUDGET), Ok(true));
        assert_eq!(breaker.begin(then, BUDGET), Err(PARK_TIME));
        assert!(breaker.is_open(), "half-open");
        breaker.record(Signal::Success, true, then);
        assert!(!breaker.is_open());
        assert_eq!(breaker.begin(then, BUDGET), Ok(false));
        assert!(breaker.is_untroubled());
    }

    #[test]
    fn each_failed_probe_doubles_the_pause_up_to_a_bound() {
        let (mut breaker, mut now) = (Breaker::closed(), Instant::now());
        fail(&mut breaker, FAILURES_TO_OPEN, now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = breaker.park(now, BUDGET).unwrap();
            pauses.push(pause.as_secs());
            now += pause;
            assert_eq!(breaker.begin(now, BUDGET), Ok(true));
            breaker.record(Signal::Failure, true, now);
            assert!(breaker.is_open());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, LONGEST_PAUSE.as_secs()]);
    }

    #[test]
    fn a_job_without_park_budget_passes_an_open_breaker_and_is_no_probe() {
        let (mut breaker, now) = (Breaker::closed(), Instant::now());
        fail(&mut breaker, FAILURES_TO_OPEN, now);
        assert_eq!(breaker.begin(now, Duration::ZERO), Ok(false));
        breaker.record(Signal::Failure, false, now);
        assert!(breaker.is_open());
        breaker.record(Signal::Success, false, now);
        assert!(!breaker.is_open());
    }

    #[test]
    fn after_a_probe_that_is_cut_off_the_next_attempt_is_the_probe() {
        let (mut breaker, now) = (Breaker::closed(), Instant::now());
        fail(&mut breaker, FAILURES_TO_OPEN, now);
        let then = now + FIRST_PAUSE;
        assert_eq!(breaker.begin(then, BUDGET), Ok(true));
        breaker.probe_cut_off(then);
        assert_eq!(breaker.begin(then, BUDGET), Ok(true));
        breaker.record(Signal::Ignored, true, then);
        assert!(breaker.is_open());
        assert_eq!(breaker.begin(then, BUDGET), Ok(true));
    }

    /// Another job's success has closed the breaker while the probe was under way.
    #[test]
    fn a_probe_that_fails_after_a_success_opens_the_breaker_again() {
        let (mut breaker, now) = (Breaker::closed(), Instant::now());
        fail(&mut breaker, FAILURES_TO_OPEN, now);
        assert_eq!(breaker.begin(now + FIRST_PAUSE, BUDGET), Ok(true));
        breaker.record(Signal::Success, false, now);
        breaker.record(Signal::Failure, true, now);
        assert!(breaker.is_open());
    }

    #[test]
    fn a_status_about_the_url_is_no_failure_of_the_origin() {
        for (status, signal) in [
            (200, Signal::Success),
            (301, Signal::Success),
            (404, Signal::Success),
            (410, Signal::Success),
            (408, Signal::Failure),
            (429, Signal::Failure),
            (500, Signal::Failure),
            (503, Signal::Failure),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = if status.is_success() {
                Ok(status)
            } else {
                Err(AttemptError::Status {
                    status,
                    retry_after: None,
                })
            };
            assert_eq!(Signal::of(&answer), signal, "{status}");
        }
    }

    #[test]
    fn a_shortage_of_ours_neither_opens_nor_closes_the_breaker() {
        let lacking = Signal::of(&Err(AttemptError::Shortage(Shortage::Descriptors)));
        let (mut breaker, now) = (Breaker::closed(), Instant::now());
        fail(&mut breaker, FAILURES_TO_OPEN - 1, now);
        for _ in 0..FAILURES_TO_OPEN {
            breaker.record(lacking, false, now);
        }
        assert!(!breaker.is_open());
        fail(&mut breaker, 1, now);
        assert!(breaker.is_open(), "the failures before it still count");
        breaker.record(lacking, false, now);
        assert!(breaker.is_open());
    }
}
