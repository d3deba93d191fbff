//! Notices a worker whose notifications are all of other stores: it may have another database than
//! the API.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{
    entry::{Entry, Sender},
    status::QueueStatus,
};

/// How long a worker reads only foreign notifications before it says so: those of a neighbour that
/// shares this Redis may come first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches what a worker has read since its start. After the first notification of its own store
/// it is at rest: then an API has the same database, and the others are neighbours.
pub(super) struct ForeignWatch {
    status: Arc<QueueStatus>,
    seen: Seen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    OnlyForeign { since: Instant, told: bool },
    Own,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    OnlyForeign,
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
        let own = entries.iter().any(|entry| entry.job.is_some());
        let Some(change) = self.seen.note(own, foreign > 0, Instant::now()) else {
            return;
        };
        let only_foreign = change == Change::OnlyForeign;
        self.status
            .only_foreign
            .store(only_foreign, Ordering::Relaxed);
        if only_foreign {
            warn!(
                "every notification so far is of another database: if they are of this worker's \
                 API, give both the same DB_URL (a relative path starts at the working directory)"
            );
        } else {
            info!("notifications of this worker's database arrive");
        }
    }
}

impl Seen {
    /// Returns what to tell, if that has changed.
    fn note(&mut self, own: bool, foreign: bool, now: Instant) -> Option<Change> {
        match *self {
            Self::OnlyForeign { told, .. } if own => {
                *self = Self::Own;
                told.then_some(Change::OwnToo)
            }
            Self::Nothing if own => {
                *self = Self::Own;
                None
            }
            Self::Nothing => {
                if foreign {
                    let (since, told) = (now, false);
                    *self = Self::OnlyForeign { since, told };
                }
                None
            }
            Self::OnlyForeign { since, told: false } if now >= since + PATIENCE => {
                *self = Self::OnlyForeign { since, told: true };
                Some(Change::OnlyForeign)
            }
            Self::Own | Self::OnlyForeign { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Change, PATIENCE, Seen};

    #[test]
    fn only_foreign_notifications_are_told_once_and_own_ones_end_it() {
        let (start, mut seen) = (Instant::now(), Seen::Nothing);
        let mut note = |own, foreign, after| seen.note(own, foreign, start + after);
        assert_eq!(note(false, false, Duration::ZERO), None, "nothing was read");
        assert_eq!(note(false, true, PATIENCE), None, "own ones may follow");
        assert_eq!(note(false, false, PATIENCE * 2), Some(Change::OnlyForeign));
        assert_eq!(note(false, true, PATIENCE * 3), None, "told already");
        assert_eq!(note(true, true, PATIENCE * 4), Some(Change::OwnToo));
        for later in 5..9 {
            assert_eq!(note(false, true, PATIENCE * later), None);
        }
    }

    #[test]
    fn a_neighbour_on_the_same_redis_is_no_alarm_if_own_notifications_come_too() {
        let (start, mut seen) = (Instant::now(), Seen::Nothing);
        let mut note = |own, foreign, after| seen.note(own, foreign, start + after);
        assert_eq!(note(false, true, Duration::ZERO), None);
        assert_eq!(note(true, false, PATIENCE / 2), None);
        for later in 1..9 {
            assert_eq!(note(false, true, PATIENCE * later), None);
        }
    }
}
