//! The labels of the metrics.

use prometheus_client::encoding::EncodeLabelSet;

use crate::delivery::Shortage;

/// How a claimed job was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimSource {
    /// By a notification.
    Notification,
    /// By a search of the table.
    Table,
    /// By the search for suspected poison jobs.
    Quarantine,
}

/// Why a job was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkReason {
    /// The circuit breaker of its destination is open.
    OriginDown,
    /// Its destination, or its tenant, holds as many slots as it may.
    OriginBusy,
    /// An operator has paused its origin.
    Paused,
    /// This worker lacked what its attempt needs.
    Shortage(Shortage),
}

// All label values but a handler's are `&'static str`: only the code can name one, so the number of
// time series is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct SourceLabel {
    pub(super) source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    pub(super) why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AttemptLabel {
    pub(super) class: &'static str,
}

/// There are as many handlers as the settings, or a program's code, name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WorkLabel {
    pub(super) handler: String,
    pub(super) class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RuleLabel {
    pub(super) rule: &'static str,
}

impl ClaimSource {
    pub(super) const ALL: [Self; 3] = [Self::Notification, Self::Table, Self::Quarantine];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Notification => "notification",
            Self::Table => "table",
            Self::Quarantine => "quarantine",
        }
    }
}

impl ParkReason {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::OriginDown => "origin_down",
            Self::OriginBusy => "origin_busy",
            Self::Paused => "paused",
            Self::Shortage(shortage) => shortage.name(),
        }
    }
}
