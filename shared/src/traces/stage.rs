//! The steps of a job's way that are spans.

/// A step, by which its span is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The API stores a submission.
    Accept,
    /// A worker claims the job.
    Claim,
    /// An attempt at its work.
    Run,
    /// An attempt at its callback.
    Attempt,
    /// The worker stores how the claim ends.
    Settle,
}

impl Stage {
    /// The name of its span.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Claim => "claim",
            Self::Run => "run",
            Self::Attempt => "attempt",
            Self::Settle => "settle",
        }
    }
}
