//! Whether the database does what it is asked: one line in the log for each change.

use std::{
    fmt::Display,
    sync::{Mutex, PoisonError},
};

use tracing::{info, warn};

use super::Trouble;

/// How it went last.
pub(super) struct Condition {
    warning: &'static str,
    relief: &'static str,
    trouble: Mutex<Option<Trouble>>,
}

impl Condition {
    /// One that is taken to be good; what the log says when it turns bad, and when that is over.
    pub(super) fn good(warning: &'static str, relief: &'static str) -> Self {
        Self {
            warning,
            relief,
            trouble: Mutex::new(None),
        }
    }

    /// Takes note that it failed.
    pub(super) fn failed(&self, trouble: Trouble, error: &impl Display) {
        if self.replace(Some(trouble)) != Some(trouble) {
            warn!(trouble = trouble.as_str(), %error, "{}", self.warning);
        }
    }

    /// Takes note that it did not.
    pub(super) fn went_well(&self) {
        if self.replace(None).is_some() {
            info!("{}", self.relief);
        }
    }

    /// What was wrong the last time.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, trouble: Option<Trouble>) -> Option<Trouble> {
        let mut last = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *last, trouble)
    }
}
