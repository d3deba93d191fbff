//! Settings that are accepted and deserve a line in the log at start.

/// A doubtful setting. It names no value: that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The setting, in upper case.
    pub setting: String,
    /// What is wrong with it, and what to change.
    pub problem: String,
}

impl Warning {
    pub(super) fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            setting: setting.into(),
            problem: problem.into(),
        }
    }
}
