//! Notices a worker whose notifications are all of other stores: it may have another database than
//! the API, from its start or since one of the two was restarted.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    entry::{Entry, Sender},
    status::QueueStatus,
};

/// How long a new worker reads only foreign notifications before it says so: those of a neighbour
/// that shares this Redis may come first.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same for a worker that has read a notification of its own store before. The log says it in
/// minutes.
const SILENCE: Duration = Duration::from_mins(10);

/// Watches what a worker has read. Foreign notifications are those of a neighbour as long as own
/// ones come too: then an API has the same database.
pub(super) struct ForeignWatch {
    status: Arc<QueueStatus>,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Own,
    /// Only foreign ones, from the first one after the last own one.
    Foreign {
        since: Instant,
        after_own: bool,
        told: bool,
    },
}

/// What was read, or came up meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct News {
    own: bool,
    foreign: bool,
    /// The table had a job that its API has notified of: the notification was lost.
    new_jobs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    OnlyForeign,
    NoMoreOwn,
    OwnToo,
}

impl ForeignWatch {
    pub(super) fn new(status: Arc<QueueStatus>) -> Self {
        Self {
            status,
            seen: Seen::Nothing,
        }
    }

    /// Notes what was read, which may be nothing.
    pub(super) fn note(&mut self, entries: &[Entry]) {
        let foreign = |entry: &&Entry| entry.sender == Sender::Foreign;
        let foreign = entries.iter().filter(foreign).count();
        self.status.foreign.add(foreign);
        let malformed = entries.iter().filter(|entry| entry.is_malformed());
        self.status.malformed.add(malformed.count());
        let news = News {
            own: entries.iter().any(|entry| !entry.notified.jobs.is_empty()),
            foreign: foreign > 0,
            new_jobs: self.status.new_jobs.swap(false, Ordering::Relaxed),
        };
        if let Some(change) = self.seen.note(news, Instant::now()) {
            let only_foreign = change != Change::OwnToo;
            self.status
                .only_foreign
                .store(only_foreign, Ordering::Relaxed);
            change.log();
        }
    }
}

impl Seen {
    /// Returns what to tell, if that has changed.
    fn note(&mut self, news: News, now: Instant) -> Option<Change> {
        if news.own {
            let told = matches!(self, Self::Foreign { told: true, .. });
            *self = Self::Own;
            return told.then_some(Change::OwnToo);
        }
        match self {
            Self::Nothing | Self::Own if news.foreign => {
                *self = Self::Foreign {
                    since: now,
                    after_own: *self == Self::Own,
                    told: false,
                };
                None
            }
            Self::Nothing | Self::Own | Self::Foreign { told: true, .. } => None,
            Self::Foreign {
                since,
                after_own: false,
                told,
            } => {
                *told = now >= *since + PATIENCE;
                told.then_some(Change::OnlyForeign)
            }
            Self::Foreign { .. } if news.new_jobs => {
                *self = Self::Own;
                None
            }
            Self::Foreign { since, told, .. } => {
                // Only while foreign ones come: an hour without jobs is no sign of anything.
                *told = news.foreign && now >= *since + SILENCE;
                told.then_some(Change::NoMoreOwn)
            }
        }
    }
}

impl Change {
    fn log(self) {
        match self {
            Self::OnlyForeign => warn!(
                "every notification so far is of another database; if this worker's API sent them, \
                 give both the same DB_URL (a relative path starts at the working directory)"
            ),
            Self::NoMoreOwn => warn!(
                "no notification of this database for 10 minutes, while those of another one \
                 arrive; if this worker's API sent those, give both the same DB_URL (a relative \
                 path starts at the working directory)"
            ),
            Self::OwnToo => info!("notifications of this worker's database arrive"),
        }
    }
}

#[cfg(test)]
mod tests;
