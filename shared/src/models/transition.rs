//! The state machine: every legal change of the status of a job or of a redelivery.
//!
//! A write of the store names one of these, and never the statuses themselves.

use super::Status;

/// A legal change of status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// A worker claims it, under the next claim number.
    Claim,
    /// An attempt failed, and another one follows.
    Retry,
    /// No attempt was made: the receiver is overloaded or down, or the worker lacks something.
    Park,
    /// Its worker stopped before it was done.
    GiveBack,
    /// The lease of its worker expired.
    Reclaim,
    /// It is delivered, or has no callback.
    Complete,
    /// It was not, or can't be, delivered.
    Fail,
    /// Its client cancelled it before a worker held it.
    Cancel,
    /// Its client cancelled it while a worker held it.
    Interrupt,
    /// An explicit redelivery of a `FAILED` job succeeded. One that fails changes no status.
    Redeem,
}

impl Transition {
    /// Every transition.
    pub const ALL: [Self; 10] = [
        Self::Claim,
        Self::Retry,
        Self::Park,
        Self::GiveBack,
        Self::Reclaim,
        Self::Complete,
        Self::Fail,
        Self::Cancel,
        Self::Interrupt,
        Self::Redeem,
    ];

    /// The status that it begins in. In another one it changes nothing.
    pub const fn from(self) -> Status {
        match self {
            Self::Claim | Self::Cancel => Status::Pending,
            Self::Retry
            | Self::Park
            | Self::GiveBack
            | Self::Reclaim
            | Self::Complete
            | Self::Fail
            | Self::Interrupt => Status::Processing,
            Self::Redeem => Status::Failed,
        }
    }

    /// The status that it ends in.
    pub const fn to(self) -> Status {
        match self {
            Self::Claim => Status::Processing,
            Self::Retry | Self::Park | Self::GiveBack | Self::Reclaim => Status::Pending,
            Self::Complete | Self::Redeem => Status::Completed,
            Self::Fail | Self::Cancel | Self::Interrupt => Status::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Transition;
    use crate::models::Status::{self, Completed, Failed, Pending, Processing};

    #[test]
    fn only_the_documented_changes_are_legal() {
        let is_legal = |from, to| {
            let is_it = |it: Transition| (it.from(), it.to()) == (from, to);
            Transition::ALL.into_iter().any(is_it)
        };
        let legal: Vec<_> = Status::ALL
            .into_iter()
            .flat_map(|from| Status::ALL.map(|to| (from, to)))
            .filter(|(from, to)| is_legal(*from, *to))
            .collect();
        assert_eq!(
            legal,
            [
                (Pending, Processing),
                (Pending, Failed),
                (Processing, Pending),
                (Processing, Completed),
                (Processing, Failed),
                (Failed, Completed),
            ]
        );
    }
}
