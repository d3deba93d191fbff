//! Errors of the store.

use std::sync::Arc;

use thiserror::Error;

/// Why a store operation failed. Cheap to clone: all writes of a failed group commit share one.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// The write queue (`DB_WRITE_QUEUE`) or the read queue is full.
    #[error("too many database operations are queued")]
    QueueFull,
    /// The row has a newer fencing token, was released, or is finished.
    #[error("the claim on this row was lost")]
    ClaimLost,
    /// The worker's lease expired, and its jobs were reclaimed.
    #[error("the worker's lease was lost")]
    LeaseLost,
    /// The store was closed, because the process shuts down or a database thread ended.
    #[error("the store is closed")]
    Closed,
    /// The place that `DB_URL` names holds no database of this service, or one with a schema that
    /// it doesn't support. The text names the place, the problem, and what to do about it.
    #[error("{0}")]
    Unusable(String),
    /// The database failed, and nothing was written that its next start would find.
    #[error("{message}")]
    Failed {
        /// What an operator can do about it.
        trouble: Trouble,
        /// The database's own words. They can contain paths and SQL: for the log only.
        message: Arc<str>,
    },
    /// The commit failed in a way that leaves its outcome unknown: the write may be in the
    /// database, now or after the next start. No later error tells, only a repeat that succeeds.
    #[error("it is unknown whether this was committed: {message}")]
    Indeterminate {
        /// What an operator can do about it.
        trouble: Trouble,
        /// As that of [`StoreError::Failed`].
        message: Arc<str>,
    },
}

impl StoreError {
    /// The state of the database, if the error says something about it.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Failed { trouble, .. } | Self::Indeterminate { trouble, .. } => Some(*trouble),
            _ => None,
        }
    }

    /// Whether the write may have been committed all the same.
    pub fn is_indeterminate(&self) -> bool {
        matches!(self, Self::Indeterminate { .. })
    }
}

/// Database failures, by what an operator can do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Another process holds the database's lock.
    Busy,
    /// The disk is full, a quota is used up, or a file reached its size limit.
    Full,
    /// The file or its directory is not writable.
    ReadOnly,
    /// The file is damaged.
    Corrupt,
    /// The open file was deleted, renamed or replaced.
    Moved,
    /// The store was moved to another database: nothing is written to this one any more.
    Migrated,
    /// Another I/O error.
    Io,
    /// The server does not answer, or accepts no connection.
    Unreachable,
    /// Any other error; the log has the database's message.
    Other,
}

impl Trouble {
    /// Every trouble.
    pub(super) const ALL: [Self; 9] = [
        Self::Busy,
        Self::Full,
        Self::ReadOnly,
        Self::Corrupt,
        Self::Moved,
        Self::Migrated,
        Self::Io,
        Self::Unreachable,
        Self::Other,
    ];

    /// The name in `/healthz`, in the log and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "locked",
            Self::Full => "full",
            Self::ReadOnly => "read-only",
            Self::Corrupt => "corrupt",
            Self::Moved => "file moved or deleted",
            Self::Migrated => "migrated to another database",
            Self::Io => "failing",
            Self::Unreachable => "unreachable",
            Self::Other => "unavailable",
        }
    }

    /// Whether the condition can clear without a change to the file, so that retrying makes sense.
    pub(super) fn may_pass(self) -> bool {
        match self {
            Self::Busy | Self::Full | Self::ReadOnly | Self::Io | Self::Unreachable => true,
            Self::Corrupt | Self::Moved | Self::Migrated | Self::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{StoreError, Trouble};

    #[test]
    fn a_full_queue_and_a_lost_claim_are_no_database_trouble() {
        assert_eq!(StoreError::QueueFull.trouble(), None);
        assert_eq!(StoreError::ClaimLost.trouble(), None);
        let full = StoreError::Failed {
            trouble: Trouble::Full,
            message: "database or disk is full".into(),
        };
        assert_eq!(full.trouble(), Some(Trouble::Full));
    }
}
