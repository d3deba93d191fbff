//! What a search has found, for those that follow it within a moment.
//!
//! A claimed job leaves an entry in its index until the server has vacuumed it. A busy service has
//! hundreds of thousands of them before its due jobs, and each search would step over all. So while
//! there is a backlog, a search begins where the one before it has found jobs. One that finds fewer
//! than it seeks, and one in each second, looks at everything.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use crate::services::store::Sought;

/// How long searches rely on the last one that has looked at everything. For so long, they don't
/// see jobs of other tenants.
pub(super) const WHOLE_EACH: Duration = Duration::from_secs(1);

/// The claims from which on a process relies on anything: fewer leave little to step over.
const BUSY: u64 = 1000;

/// What is known of each kind of search.
#[derive(Default)]
pub(super) struct Known {
    /// Jobs that this process has claimed.
    claimed: AtomicU64,
    searches: Mutex<HashMap<Sought, Seen>>,
}

/// What is known of the searches of a kind.
#[derive(Clone, Default)]
pub(super) struct Seen {
    /// The tenant that was served last: the next search begins after it.
    pub(super) last: String,
    /// The last search that has looked at everything.
    pub(super) whole: Option<Whole>,
}

/// What a search has found that has looked at everything.
#[derive(Clone)]
pub(super) struct Whole {
    pub(super) at: Instant,
    /// The tenants that have due jobs.
    pub(super) tenants: Vec<String>,
    /// Before these times, none is due: of each lane, by its number, and tenant. By the server's
    /// clock.
    pub(super) marks: HashMap<(usize, String), SystemTime>,
    /// Whether long jobs are due.
    pub(super) has_long: bool,
}

impl Known {
    /// Counts jobs that were claimed.
    pub(super) fn note_claimed(&self, jobs: usize) {
        let jobs = u64::try_from(jobs).unwrap_or(u64::MAX);
        self.claimed.fetch_add(jobs, Ordering::Relaxed); // the number alone matters
    }

    /// What is known for a search now.
    pub(super) fn of(&self, sought: &Sought) -> Seen {
        let mut seen = self.lock().get(sought).cloned().unwrap_or_default();
        let is_busy = self.claimed.load(Ordering::Relaxed) >= BUSY;
        let holds = |whole: &Whole| is_busy && whole.at.elapsed() < WHOLE_EACH;
        seen.whole = seen.whole.filter(holds);
        seen
    }

    pub(super) fn note(&self, sought: &Sought, seen: Seen) {
        self.lock().insert(sought.clone(), seen);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Sought, Seen>> {
        self.searches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Instant};

    use super::{BUSY, Known, Seen, WHOLE_EACH, Whole};
    use crate::services::store::Sought;

    fn whole(at: Instant) -> Seen {
        Seen {
            last: "a".to_owned(),
            whole: Some(Whole {
                at,
                tenants: Vec::new(),
                marks: HashMap::new(),
                has_long: false,
            }),
        }
    }

    #[test]
    fn only_a_busy_process_relies_on_its_last_search_and_for_a_moment_only() {
        let known = Known::default();
        let is_known = |at| {
            known.note(&Sought::Common, whole(at));
            let search = known.of(&Sought::Common);
            assert_eq!(search.last, "a", "whose turn it is holds on");
            search.whole.is_some()
        };
        known.note_claimed(usize::try_from(BUSY).unwrap() - 1);
        assert!(!is_known(Instant::now()));
        known.note_claimed(1);
        assert!(is_known(Instant::now() + WHOLE_EACH));
        let before = Instant::now().checked_sub(WHOLE_EACH).unwrap();
        assert!(!is_known(before));
        let other = Sought::WorkOf("pdf".parse().unwrap());
        assert!(known.of(&other).whole.is_none());
    }
}
