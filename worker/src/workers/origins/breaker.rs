//! Whether an origin is worth an attempt, by what came of the last ones.

use std::time::Duration;

use hyper::StatusCode;
use tokio::time::Instant;

use crate::delivery::AttemptError;

/// Failures in a row, not one sign of life among them, after which an origin is left alone.
const FAILURES: u32 = 100;

/// How long it is left alone before the first probe, and, as that doubles with every probe that fails,
/// before any other.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a job is put off at a time. It asks again then, for the worker that put it off, and would let it
/// go on, may be gone.
const AT_A_TIME: Duration = Duration::from_secs(30);

/// What an attempt says of its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Sign {
    /// It answers: what it says, a 404 for one, is about the one URL.
    Alive,
    /// It doesn't answer, or only that it can't.
    Failing,
    /// It was never asked.
    Nothing,
}

impl Sign {
    /// What this outcome says.
    pub(in super::super) fn of(answer: &Result<StatusCode, AttemptError>) -> Self {
        match answer {
            Err(AttemptError::Refused(_) | AttemptError::LookupsBusy) => Self::Nothing,
            Ok(_) => Self::Alive,
            Err(AttemptError::Status { status, .. }) if !is_trouble(*status) => Self::Alive,
            Err(_) => Self::Failing,
        }
    }
}

fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
}

/// A circuit breaker; the time is the caller's.
pub(super) struct Breaker {
    state: State,
    failures: u32,
    pause: Duration,
}

enum State {
    /// Attempts are made.
    Closed,
    /// None is, `until` then.
    Open {
        until: Instant,
        /// Whether a job is put off just until then, to be the probe.
        has_probe: bool,
    },
    /// One is on its way.
    Probing,
}

/// What has changed with an attempt's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Opened,
    Closed,
}

impl Breaker {
    pub(super) const fn closed() -> Self {
        Self {
            state: State::Closed,
            failures: 0,
            pause: FIRST_PAUSE,
        }
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_untroubled(&self) -> bool {
        self.failures == 0 && !self.is_open()
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// How long an attempt has to be put off, whose job can be for `patience` more at the most.
    pub(super) fn put_off(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        if patience.is_zero() {
            return None;
        }
        match &mut self.state {
            State::Closed => None,
            State::Open { until, .. } if *until <= now => None,
            State::Open { until, has_probe } if !*has_probe => {
                *has_probe = true;
                Some(patience.min(*until - now))
            }
            // Unless the probe succeeds before.
            State::Open { .. } | State::Probing => Some(patience.min(AT_A_TIME)),
        }
    }

    /// The same for an attempt that would be made now: if it is, whether it is the probe.
    pub(super) fn begin(&mut self, now: Instant, patience: Duration) -> Result<bool, Duration> {
        if let Some(wait) = self.put_off(now, patience) {
            return Err(wait);
        }
        let is_probe = matches!(self.state, State::Open { until, .. } if until <= now);
        if is_probe {
            self.state = State::Probing;
        }
        Ok(is_probe)
    }

    /// Takes note of what came of an attempt.
    pub(super) fn heard(&mut self, sign: Sign, is_probe: bool, now: Instant) -> Change {
        match sign {
            Sign::Alive => {
                let change = if self.is_open() {
                    Change::Closed
                } else {
                    Change::None
                };
                *self = Self::closed();
                change
            }
            Sign::Failing if is_probe => {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.open(now);
                Change::None
            }
            Sign::Failing => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= FAILURES && matches!(self.state, State::Closed) {
                    self.open(now);
                    return Change::Opened;
                }
                Change::None
            }
            Sign::Nothing => {
                if is_probe {
                    self.probe_is_gone(now);
                }
                Change::None
            }
        }
    }

    /// The probe was not made: the next attempt is one.
    pub(super) fn probe_is_gone(&mut self, now: Instant) {
        if matches!(self.state, State::Probing) {
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

    use super::{AT_A_TIME, Breaker, Change, FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Sign};
    use crate::delivery::AttemptError;

    const PATIENCE: Duration = Duration::from_mins(5);

    fn failing(breaker: &mut Breaker, times: u32, now: Instant) -> Change {
        let mut change = Change::None;
        for _ in 0..times {
            change = breaker.heard(Sign::Failing, false, now);
        }
        change
    }

    #[test]
    fn it_opens_only_after_a_hundred_failures_in_a_row() {
        let (mut breaker, now) = (Breaker::closed(), Instant::now());
        assert_eq!(failing(&mut breaker, FAILURES - 1, now), Change::None);
        assert_eq!(breaker.heard(Sign::Alive, false, now), Change::None);
        assert_eq!(failing(&mut breaker, FAILURES - 1, now), Change::None);
        assert_eq!(breaker.put_off(now, PATIENCE), None);
        assert_eq!(failing(&mut breaker, 1, now), Change::Opened);
        assert!(breaker.put_off(now, PATIENCE).is_some());
    }

    #[test]
    fn one_job_comes_back_as_the_probe_and_all_others_wait_for_what_it_finds() {
        let (mut breaker, now) = (Breaker::closed(), Instant::now());
        failing(&mut breaker, FAILURES, now);
        assert_eq!(breaker.put_off(now, PATIENCE), Some(FIRST_PAUSE));
        assert_eq!(breaker.put_off(now, PATIENCE), Some(AT_A_TIME));
        let less = AT_A_TIME / 2;
        assert_eq!(breaker.put_off(now, less), Some(less));
        let then = now + FIRST_PAUSE;
        assert_eq!(breaker.begin(then, PATIENCE), Ok(true));
        assert_eq!(breaker.begin(then, PATIENCE), Err(AT_A_TIME));
        assert_eq!(breaker.heard(Sign::Alive, true, then), Change::Closed);
        assert_eq!(breaker.begin(then, PATIENCE), Ok(false));
        assert!(breaker.is_untroubled());
    }

    #[test]
    fn each_probe_that_fails_doubles_the_pause_up_to_a_bound() {
        let (mut breaker, mut now) = (Breaker::closed(), Instant::now());
        failing(&mut breaker, FAILURES, now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = breaker.put_off(now, PATIENCE).unwrap();
            pauses.push(pause.as_secs());
            now += pause;
            assert_eq!(breaker.begin(now, PATIENCE), Ok(true));
            assert_eq!(breaker.heard(Sign::Failing, true, now), Change::None);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, LONGEST_PAUSE.as_secs()]);
    }

    #[test]
    fn a_job_whose_patience_is_over_is_let_through_and_is_no_probe() {
        let (mut breaker, now) = (Breaker::closed(), Instant::now());
        failing(&mut breaker, FAILURES, now);
        assert_eq!(breaker.begin(now, Duration::ZERO), Ok(false));
        assert_eq!(breaker.heard(Sign::Failing, false, now), Change::None);
        assert_eq!(breaker.heard(Sign::Alive, false, now), Change::Closed);
    }

    #[test]
    fn a_probe_that_is_cut_off_leaves_it_to_the_next_attempt() {
        let (mut breaker, now) = (Breaker::closed(), Instant::now());
        failing(&mut breaker, FAILURES, now);
        let then = now + FIRST_PAUSE;
        assert_eq!(breaker.begin(then, PATIENCE), Ok(true));
        breaker.probe_is_gone(then);
        assert_eq!(breaker.begin(then, PATIENCE), Ok(true));
        assert_eq!(breaker.heard(Sign::Nothing, true, then), Change::None);
        assert_eq!(breaker.begin(then, PATIENCE), Ok(true));
    }

    #[test]
    fn a_status_that_is_about_the_url_is_a_sign_of_life() {
        for (status, sign) in [
            (200, Sign::Alive),
            (301, Sign::Alive),
            (404, Sign::Alive),
            (410, Sign::Alive),
            (408, Sign::Failing),
            (429, Sign::Failing),
            (500, Sign::Failing),
            (503, Sign::Failing),
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
            assert_eq!(Sign::of(&answer), sign, "{status}");
        }
    }
}
