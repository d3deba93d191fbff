//! The unfinished jobs as of the last count, and what this process has admitted since it began:
//! whether a new job has room. Pure arithmetic.

use std::{collections::HashMap, hash::Hash};

use storm_shared::models::ClientName;

use super::lanes::Lane;

/// The tenant of a job. `None` without authentication.
pub(super) type Tenant = Option<ClientName>;

/// The last eighth of the limit is reserved for holders below their share.
const RESERVE: u64 = 8;

/// The part of a `limit` that holders take without regard to their shares.
pub(crate) const fn unreserved(limit: u64) -> u64 {
    limit - limit / RESERVE
}

/// Who holds how much of the backlog: tenants, or handlers.
#[derive(Debug)]
pub(super) struct Ledger<K> {
    limit: u64,
    /// Whether there can be several holders, so that room must be left for the others of them.
    is_shared: bool,
    /// As of the last count.
    unfinished: u64,
    by_holder: HashMap<K, u64>,
    /// Admitted since that count began, or before it and not written when it began.
    own: HashMap<K, Own>,
    /// The sum of what they have admitted.
    admitted: u64,
    /// How many holders are in `own` alone.
    newcomers: u64,
}

/// What this process has admitted of one holder.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    short: Jobs,
    long: Jobs,
}

#[derive(Clone, Copy, Debug, Default)]
struct Jobs {
    admitted: u64,
    /// Those of them whose write is over.
    written: u64,
}

/// What was written when a count began: the count has it, and may have missed all that came later.
pub(super) struct Written<K>(Vec<(K, Own)>);

/// A holder's jobs that were admitted since the count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Since {
    short: u64,
    long: u64,
}

impl Since {
    /// Those of a lane.
    pub(super) fn of(self, lane: Lane) -> u64 {
        lane.part(self.short, self.long)
    }
}

impl Own {
    fn lane(&mut self, is_long: bool) -> &mut Jobs {
        if is_long {
            &mut self.long
        } else {
            &mut self.short
        }
    }

    fn since(&self) -> Since {
        Since {
            short: self.short.admitted,
            long: self.long.admitted,
        }
    }
}

/// There is no room for a job until so many of those before it have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    pub(super) over: u64,
    /// Whether there is room for others: the holder has its share.
    pub(super) is_of_share: bool,
}

impl<K: Clone + Eq + Hash> Ledger<K> {
    /// An empty backlog, in which there may be `limit` jobs, of several holders if it `is_shared`.
    pub(super) fn new(limit: u64, is_shared: bool) -> Self {
        Self {
            limit,
            is_shared,
            unfinished: 0,
            by_holder: HashMap::new(),
            own: HashMap::new(),
            admitted: 0,
            newcomers: 0,
        }
    }

    /// From now on, the limit is of several holders if it `is_shared`.
    pub(super) fn share(&mut self, is_shared: bool) {
        self.is_shared = is_shared;
    }

    /// Whether the limit is of several holders.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Admits a job of `holder`, for which there is room by [`Ledger::check`]. Returns its jobs
    /// that were admitted since the count, before this one.
    pub(super) fn admit(&mut self, holder: &K, is_long: bool) -> Since {
        self.admitted += 1;
        if let Some(own) = self.own.get_mut(holder) {
            let since = own.since();
            own.lane(is_long).admitted += 1;
            return since;
        }
        self.newcomers += u64::from(!self.by_holder.contains_key(holder));
        let mut first = Own::default();
        first.lane(is_long).admitted = 1;
        self.own.insert(holder.clone(), first);
        Since::default()
    }

    /// Whether a job of `holder` has room.
    ///
    /// # Errors
    /// The backlog is full, or nearly, and the holder has its share.
    pub(super) fn check(&self, holder: &K) -> Result<(), NoRoom> {
        let backlog = self.unfinished + self.admitted;
        if backlog >= self.limit {
            let over = backlog - self.limit + 1;
            return Err(NoRoom {
                over,
                is_of_share: false,
            });
        }
        let unreserved = unreserved(self.limit);
        if backlog < unreserved {
            return Ok(());
        }
        let holders = self.holders_with(holder);
        let share = self.limit / holders;
        let held = self.held(holder);
        if held < share {
            return Ok(());
        }
        // It has room again below its share, or once the reserve is free.
        let over = (held - share).saturating_mul(holders);
        Err(NoRoom {
            over: over.min(backlog - unreserved) + 1,
            is_of_share: true,
        })
    }

    /// The holders among which the limit is shared when `holder` asks. One that is alone leaves
    /// room for another, if there are others.
    fn holders_with(&self, holder: &K) -> u64 {
        let is_new = !self.by_holder.contains_key(holder) && !self.own.contains_key(holder);
        let holders = self.by_holder.len() as u64 + self.newcomers + u64::from(is_new);
        holders.max(1 + u64::from(self.is_shared))
    }

    fn held(&self, holder: &K) -> u64 {
        let counted = self.by_holder.get(holder).copied().unwrap_or(0);
        counted
            + self
                .own
                .get(holder)
                .map_or(0, |own| own.since().of(Lane::All))
    }

    /// The write of a job that was admitted is over.
    pub(super) fn written(&mut self, holder: &K, is_long: bool) {
        if let Some(own) = self.own.get_mut(holder) {
            own.lane(is_long).written += 1;
        }
    }

    /// A job that was admitted was not stored.
    pub(super) fn withdraw(&mut self, holder: &K, is_long: bool) {
        if let Some(own) = self.own.get_mut(holder) {
            own.lane(is_long).admitted -= 1;
            self.admitted -= 1;
        }
    }

    /// A count begins: to hand in with its result.
    pub(super) fn begin(&self) -> Written<K> {
        let own = self.own.iter();
        Written(own.map(|(holder, own)| (holder.clone(), *own)).collect())
    }

    /// Takes the result of a count: all unfinished jobs, and those of each holder that has some.
    pub(super) fn counted(
        &mut self,
        written: Written<K>,
        unfinished: usize,
        by_holder: impl Iterator<Item = (K, usize)>,
    ) {
        self.unfinished = unfinished as u64;
        self.by_holder = by_holder.map(|(one, jobs)| (one, jobs as u64)).collect();
        for (holder, mut written) in written.0 {
            if let Some(own) = self.own.get_mut(&holder) {
                for is_long in [false, true] {
                    let (jobs, counted) = (own.lane(is_long), written.lane(is_long).written);
                    jobs.admitted -= counted;
                    jobs.written -= counted;
                    self.admitted -= counted;
                }
            }
        }
        self.own.retain(|_, own| own.since().of(Lane::All) > 0);
        let newcomers = self
            .own
            .keys()
            .filter(|holder| !self.by_holder.contains_key(*holder));
        self.newcomers = newcomers.count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::{ClientName, Ledger, NoRoom, Tenant};

    fn name(name: &str) -> ClientName {
        name.parse().unwrap()
    }

    /// A ledger that has counted so many jobs of each tenant.
    fn ledger(limit: u64, counted: &[(&str, usize)]) -> Ledger<Tenant> {
        let mut ledger = Ledger::new(limit, true);
        count(&mut ledger, counted);
        ledger
    }

    fn count(ledger: &mut Ledger<Tenant>, counted: &[(&str, usize)]) {
        let unfinished = counted.iter().map(|(_, jobs)| jobs).sum();
        let of_each = counted.iter();
        let of_each = of_each.map(|(tenant, jobs)| (Some(name(tenant)), *jobs));
        let written = ledger.begin();
        ledger.counted(written, unfinished, of_each);
    }

    /// How many jobs of a tenant are admitted until one is refused.
    fn admitted(ledger: &mut Ledger<Tenant>, tenant: &str) -> u64 {
        let tenant = Some(name(tenant));
        let mut admitted = 0;
        while ledger.check(&tenant).is_ok() {
            ledger.admit(&tenant, false);
            ledger.written(&tenant, false);
            admitted += 1;
        }
        admitted
    }

    #[test]
    fn no_tenant_fills_the_backlog_so_that_another_has_no_room() {
        let mut ledger = ledger(800, &[]);
        assert_eq!(admitted(&mut ledger, "hog"), 700);
        assert_eq!(admitted(&mut ledger, "other"), 100);
        assert_eq!(admitted(&mut ledger, "third"), 0, "the limit holds for all");
        // As the jobs of the one end, the other gets all of its room, up to its share.
        for (hog, other) in [(650, 100), (600, 150), (500, 250)] {
            count(&mut ledger, &[("hog", hog), ("other", other)]);
            assert_eq!(admitted(&mut ledger, "hog"), 0);
            assert_eq!(admitted(&mut ledger, "other"), 50);
        }
    }

    #[test]
    fn tenants_share_the_limit_equally_past_seven_eighths_of_it() {
        let third = [("a", 300), ("b", 250), ("c", 249)];
        let mut ledger = ledger(900, &third);
        assert_eq!(admitted(&mut ledger, "a"), 0);
        assert_eq!(admitted(&mut ledger, "b"), 50);
        assert_eq!(admitted(&mut ledger, "c"), 51);
        // Below, nobody has a share.
        count(&mut ledger, &[("a", 600), ("b", 1)]);
        assert_eq!(admitted(&mut ledger, "a"), 900 - 112 - 601);
    }

    #[test]
    fn without_other_clients_a_tenant_has_the_whole_limit() {
        let mut ledger = Ledger::<Tenant>::new(800, false);
        for _ in 0..800 {
            ledger.check(&None).unwrap();
            ledger.admit(&None, false);
        }
        assert!(ledger.check(&None).is_err());
    }

    #[test]
    fn a_refused_tenant_is_told_how_many_jobs_have_to_end() {
        let over = |counted: &[(&str, usize)]| {
            let ledger = ledger(800, counted);
            ledger.check(&Some(name("a"))).unwrap_err()
        };
        let no_room = |over, is_of_share| NoRoom { over, is_of_share };
        assert_eq!(over(&[("a", 900)]), no_room(101, false));
        assert_eq!(over(&[("a", 410), ("b", 300)]), no_room(11, true));
        assert_eq!(over(&[("a", 402), ("b", 390)]), no_room(5, true));
    }

    #[test]
    fn what_is_in_flight_when_a_count_begins_is_added_to_it() {
        let mut ledger = Ledger::new(10, false);
        for _ in 0..3 {
            ledger.admit(&None, false);
        }
        ledger.written(&None, false);
        count(&mut ledger, &[]);
        assert_eq!(ledger.admitted, 2);
        ledger.withdraw(&None, false);
        ledger.written(&None, false);
        assert_eq!(ledger.admitted, 1, "the count did not see it");
        count(&mut ledger, &[]);
        assert_eq!((ledger.admitted, ledger.own.len()), (0, 0));
    }
}
