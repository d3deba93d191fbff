//! The retry schedule: after which failed attempts another one follows, and when.

use std::time::Duration;

use storm_shared::config::RetrySettings;

use crate::delivery::AttemptError;

/// Delays, their jitter, and the longest `Retry-After`: those of callbacks, or of a handler.
pub(crate) struct Schedule(RetrySettings);

impl Schedule {
    pub(crate) fn new(settings: &RetrySettings) -> Self {
        Self(settings.clone())
    }

    /// The wait after the `nth` failed callback attempt (from 1) of a series, or `None` if no retry
    /// follows.
    pub(crate) fn after(&self, nth: u32, error: &AttemptError) -> Option<Duration> {
        if error.class().is_final() {
            return None;
        }
        self.wait(nth, error.retry_after())
    }

    /// The wait after the `nth` failed attempt (from 1) of a series, or `None` if there were
    /// enough. It is the delay with its jitter, or the time that was `requested` where that is
    /// later.
    pub(crate) fn wait(&self, nth: u32, requested: Option<Duration>) -> Option<Duration> {
        let nth = usize::try_from(nth).unwrap_or(usize::MAX);
        let delay = self.0.delays.get(nth.checked_sub(1)?)?;
        // The configured delay is the minimum, so the jitter only lengthens it.
        let delay = delay.mul_f64(1.0 + self.0.jitter * fastrand::f64());
        let requested = requested.unwrap_or_default();
        Some(delay.max(requested.min(self.0.retry_after_max)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::StatusCode;
    use storm_shared::config::Settings;

    use super::Schedule;
    use crate::delivery::AttemptError;

    fn schedule(overrides: &[(&str, &str)]) -> Schedule {
        let settings = Settings::with(overrides.iter().copied()).unwrap();
        Schedule::new(&settings.callback.retry)
    }

    fn status(code: u16, retry_after: Option<u64>) -> AttemptError {
        AttemptError::Status {
            status: StatusCode::from_u16(code).unwrap(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn waits(schedule: &Schedule, error: &AttemptError) -> Vec<u64> {
        (1..10)
            .map_while(|nth| schedule.after(nth, error))
            .map(|wait| wait.as_secs())
            .collect()
    }

    #[test]
    fn every_status_but_410_is_retried_after_exactly_2_4_and_8_seconds() {
        let schedule = schedule(&[]);
        for code in [301, 308, 400, 401, 404, 409, 429, 500, 503] {
            assert_eq!(waits(&schedule, &status(code, None)), [2, 4, 8]);
        }
        assert!(waits(&schedule, &status(410, None)).is_empty());
    }

    #[test]
    fn the_wait_is_the_later_of_the_delay_and_a_bounded_retry_after() {
        let schedule = schedule(&[("CALLBACK_RETRY_AFTER_MAX", "1m")]);
        for (asked, wait) in [(0, 2), (1, 2), (3, 3), (60, 60), (61, 60), (u64::MAX, 60)] {
            let error = status(503, Some(asked));
            assert_eq!(schedule.after(1, &error), Some(Duration::from_secs(wait)));
        }
    }

    #[test]
    fn jitter_only_lengthens_a_wait_up_to_its_share() {
        let schedule = schedule(&[("CALLBACK_RETRY_JITTER", "0.5")]);
        let waits: Vec<_> = (0..1000)
            .map(|_| schedule.after(1, &status(500, None)).unwrap())
            .collect();
        let (shortest, longest) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!(*shortest >= Duration::from_secs(2) && *longest <= Duration::from_secs(3));
        assert!(longest.abs_diff(*shortest) > Duration::from_millis(500));
    }
}
