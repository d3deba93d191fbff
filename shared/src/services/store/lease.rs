//! Who holds jobs: workers and their leases. Pure rules, no SQL.

use std::{fmt, str::FromStr};

use thiserror::Error;
use uuid::Uuid;

use super::{cancel::CancelledClaim, pause::Pauses};

/// The identity of one worker process. A restart gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId(Uuid);

impl OwnerId {
    /// The owner of jobs whose worker is unknown, after an edit by hand or in a restored backup. No
    /// worker has this identity, so nobody renews its lease: it expires, and its jobs are
    /// reclaimed.
    pub const NOBODY: Self = Self(Uuid::nil());

    /// A new identity.
    pub fn generate() -> Self {
        // Random and never reused: a worker that lost its lease must not pass for its successor.
        Self(Uuid::new_v4())
    }

    /// The identity as a UUID.
    #[cfg(feature = "postgres")]
    pub(super) fn uuid(self) -> Uuid {
        self.0
    }

    /// The identity that a UUID is.
    #[cfg(feature = "postgres")]
    pub(super) fn of(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not an [`OwnerId`] as it is displayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("is not an owner id")]
pub struct OwnerIdError;

impl FromStr for OwnerId {
    type Err = OwnerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = text.parse().map(Self).map_err(|_| OwnerIdError)?;
        // Owners are compared as text, so one owner must not have two spellings.
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(OwnerIdError)
        }
    }
}

/// A worker's heartbeat, as an observer read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The worker.
    pub owner: OwnerId,
    /// The number of renewals; negative for a lease that has expired while another program kept
    /// some of its rows locked.
    pub beat: i64,
}

impl Heartbeat {
    /// Whether its worker may still hold jobs.
    pub fn is_lease(&self) -> bool {
        self.beat >= 0
    }
}

/// What a heartbeat has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewal {
    /// The heartbeats of all other workers.
    pub others: Vec<Heartbeat>,
    /// Claims of this worker that were cancelled lately. Several heartbeats in a row name each, in
    /// case the answer to one is lost.
    pub cancelled: Vec<CancelledClaim>,
    /// What is paused.
    pub paused: Pauses,
}

/// The result of a lease expiry: what happened to the worker's jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Jobs that are `PENDING` again.
    pub reclaimed: usize,
    /// Poison jobs, now `FAILED`: none, or the only job that the worker held.
    pub poisoned: usize,
}

/// The number of lost claims from which a suspected poison job is quarantined: it runs alone on
/// its worker, so that it can harm no other job.
pub const fn quarantine_threshold(max_claims: u32) -> u32 {
    // At least 1: at 0, every job would be a suspect and run alone.
    if max_claims > 3 { max_claims - 2 } else { 1 }
}

/// Where the count of lost claims stops when a worker that held `held` jobs loses them.
///
/// A job that the worker held alone may have killed it, and counts up to the loss that makes it a
/// poison job. A job that it held among others may be innocent: its count stops at
/// [`quarantine_threshold`], from which it runs alone. So its last two losses (the last one, if
/// `max_claims` is 2) happen while it runs alone.
pub(super) const fn most_losses(held: u32, max_claims: u32) -> u32 {
    if held == 1 {
        max_claims - 1
    } else {
        quarantine_threshold(max_claims)
    }
}
