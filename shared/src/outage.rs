//! An outage: an operation that fails again and again, logged once when it begins and once when it
//! is over.

use std::mem;

/// Whether the last try of an operation failed. A new one has not failed.
#[derive(Debug, Default)]
pub struct Outage {
    ongoing: bool,
}

impl Outage {
    /// Notes a failure. Returns whether it is the first of an outage, which is the one to log.
    pub fn failed(&mut self) -> bool {
        !mem::replace(&mut self.ongoing, true)
    }

    /// Notes a success. Returns whether it ends an outage, which is the one to log.
    pub fn recovered(&mut self) -> bool {
        mem::take(&mut self.ongoing)
    }
}

#[cfg(test)]
mod tests {
    use super::Outage;

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
