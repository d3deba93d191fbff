//! The database's last known condition. Logs one line per change instead of one per failure.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
};

use tracing::{info, warn};

use super::Trouble;

/// The result of the last operation.
pub(super) struct Condition {
    warning: &'static str,
    recovery: &'static str,
    trouble: Mutex<Option<Trouble>>,
}

impl Condition {
    /// Starts as healthy. `warning` and `recovery` are the log messages of the two changes.
    pub(super) fn healthy(warning: &'static str, recovery: &'static str) -> Self {
        Self {
            warning,
            recovery,
            trouble: Mutex::new(None),
        }
    }

    /// Records a failure.
    pub(super) fn failed(&self, trouble: Trouble, error: &impl Display) {
        // The same trouble again is in the log already.
        if self.replace(Some(trouble)) != Some(trouble) {
            warn!(trouble = trouble.as_str(), %error, "{}", self.warning);
        }
    }

    /// Records a success.
    pub(super) fn succeeded(&self) {
        if self.replace(None).is_some() {
            info!("{}", self.recovery);
        }
    }

    /// Why the last operation failed, or `None` if it succeeded.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, trouble: Option<Trouble>) -> Option<Trouble> {
        let mut last = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *last, trouble)
    }
}
