//! An outage: an operation that fails again and again, logged once when it begins and once when it
//! is over.

use std::time::Duration;

use tokio::time::Instant;

/// Whether the last try of an operation failed. A new one has not failed.
#[derive(Debug, Default)]
pub struct Outage {
    quiet_period: Duration,
    /// Of the outage in progress, if there is one.
    last_failure: Option<Instant>,
}

impl Outage {
    /// One that is over only when no try has failed for `quiet_period`. Near a limit, tries fail
    /// and succeed in turns, and the log would have a line for each.
    pub fn with_quiet_period(quiet_period: Duration) -> Self {
        Self {
            quiet_period,
            ..Self::default()
        }
    }

    /// Notes a failure. Returns whether it is the first of an outage, which is the one to log.
    pub fn failed(&mut self) -> bool {
        self.last_failure.replace(Instant::now()).is_none()
    }

    /// Notes a success. Returns whether it ends an outage, which is the one to log.
    pub fn recovered(&mut self) -> bool {
        let is_quiet = |last: &mut Instant| last.elapsed() >= self.quiet_period;
        self.last_failure.take_if(is_quiet).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Outage;

    #[tokio::test(start_paused = true)]
    async fn failures_and_successes_in_turns_are_one_outage_until_the_quiet_period_has_passed() {
        let quiet = Duration::from_secs(10);
        let mut outage = Outage::with_quiet_period(quiet);
        assert!(outage.failed());
        for _ in 0..3 {
            tokio::time::advance(quiet / 2).await;
            assert!(!outage.recovered());
            assert!(!outage.failed());
        }
        tokio::time::advance(quiet).await;
        assert!(outage.recovered());
        assert!(!outage.recovered());
        assert!(outage.failed());
    }

    #[test]
    fn only_the_first_failure_and_the_first_success_after_it_are_changes() {
        let mut outage = Outage::default();
        assert!(!outage.recovered(), "there was none");
        for _ in 0..2 {
            assert!(outage.failed());
            assert!(!outage.failed());
            assert!(outage.recovered());
            assert!(!outage.recovered());
        }
    }
}
