//! Pauses: what operators hold back for a while. Value types, no SQL.

use std::collections::HashSet;

use thiserror::Error;

use crate::models::Origin;

/// The most origins that can be paused at a time.
pub const MAX_PAUSED_ORIGINS: usize = 1000;

/// What can be paused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Paused {
    /// All work: no job is claimed.
    Everything,
    /// The callbacks to one origin, of all tenants.
    Origin(Origin),
}

impl Paused {
    /// As the record of what operators do has it: JSON.
    pub(super) fn filter(&self) -> String {
        let filter = match self {
            Self::Everything => serde_json::json!({"everything": true}),
            Self::Origin(origin) => serde_json::json!({"origin": origin.as_str()}),
        };
        filter.to_string()
    }
}

/// A pause in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// What is paused.
    pub what: Paused,
    /// Since when, by the wall clock: RFC 3339, UTC, with milliseconds.
    pub since: String,
    /// The operator who paused it.
    pub operator: String,
}

/// Why something can't be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{MAX_PAUSED_ORIGINS} origins are paused, and no more can be")]
pub struct TooManyPauses;

/// All that is paused at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// Whether everything is.
    pub everything: bool,
    /// The origins that are, whether everything is or not.
    pub origins: HashSet<Origin>,
}

/// What a release of parked jobs has done, and where the next one goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unparked {
    /// The jobs that are due now.
    pub jobs: usize,
    /// After which the next call begins; `None` at the end.
    pub next: Option<UnparkCursor>,
}

/// How far a release of an origin's parked jobs has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnparkCursor {
    /// Which of the walks over the origin's jobs.
    pub(super) lane: usize,
    /// The bytes of the tenant's name; empty for jobs without one.
    pub(super) tenant: Vec<u8>,
    /// The request's id.
    pub(super) id: String,
}

impl FromIterator<Paused> for Pauses {
    fn from_iter<I: IntoIterator<Item = Paused>>(all: I) -> Self {
        let mut pauses = Self::default();
        for what in all {
            match what {
                Paused::Everything => pauses.everything = true,
                Paused::Origin(origin) => {
                    pauses.origins.insert(origin);
                }
            }
        }
        pauses
    }
}
