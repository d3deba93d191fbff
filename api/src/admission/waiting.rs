//! How many jobs are before a new one: pure arithmetic over the jobs that wait for workers.
//!
//! The model: tenants take turns. So a job waits for those of its own tenant that wait already, and
//! for as many of each other tenant, or as many as that has. A short job waits for short ones
//! alone, because long ones leave slots to them. A long job waits for both to begin, and for long
//! ones to leave it one of their slots.

use std::collections::HashMap;

use storm_shared::services::store::{Load, TenantLoad};

use super::{lanes::Lane, ledger::Tenant};

/// The jobs that wait, as of the last count.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_tenant: HashMap<Tenant, TenantLoad>,
    all: Turns,
    short: Turns,
    long: Turns,
}

/// The waiting jobs of the tenants that take turns.
#[derive(Debug, Default)]
struct Turns {
    /// Of each tenant, the fewest first.
    each: Vec<u64>,
    /// The sums of `each` up to and without an index.
    sums: Vec<u64>,
}

impl Waiting {
    pub(super) fn of(load: &Load) -> Self {
        let turns = |lane: Lane| Turns::of(load.tenants.values().map(|it| lane.waiting(it)));
        Self {
            all: turns(Lane::All),
            short: turns(Lane::Short),
            long: turns(Lane::Long),
            by_tenant: load.tenants.clone(),
        }
    }

    /// All jobs of a lane that wait.
    pub(super) fn total(&self, lane: Lane) -> u64 {
        self.turns(lane).up_to(u64::MAX)
    }

    /// The jobs of a lane that should begin before a new one of `tenant`, of which `more` wait than
    /// were counted.
    pub(super) fn before(&self, tenant: &Tenant, lane: Lane, more: u64) -> u64 {
        let own = self.by_tenant.get(tenant);
        let own = own.map_or(0, |load| lane.waiting(load));
        self.turns(lane).up_to(own + more) + more
    }

    fn turns(&self, lane: Lane) -> &Turns {
        match lane {
            Lane::All => &self.all,
            Lane::Short => &self.short,
            Lane::Long => &self.long,
        }
    }
}

impl Turns {
    fn of(each: impl Iterator<Item = u64>) -> Self {
        let mut each: Vec<u64> = each.filter(|waiting| *waiting > 0).collect();
        each.sort_unstable();
        let add = |sum: &mut u64, waiting: &u64| {
            let before = *sum;
            *sum += waiting;
            Some(before)
        };
        Self {
            sums: each.iter().scan(0, add).collect(),
            each,
        }
    }

    /// The jobs of all tenants, up to `most` of each.
    fn up_to(&self, most: u64) -> u64 {
        let below = self.each.partition_point(|waiting| *waiting < most);
        match self.sums.get(below) {
            Some(sum) => sum + most * (self.each.len() - below) as u64,
            None => self.each.iter().sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::services::store::{Load, TenantLoad};

    use super::{Lane, Waiting};

    /// Short and long jobs that wait, of each tenant.
    fn waiting(each: &[(&str, usize, usize)]) -> Waiting {
        let of = |&(name, waiting_short, waiting_long): &(&str, usize, usize)| {
            let load = TenantLoad {
                unfinished: waiting_short + waiting_long,
                waiting_short,
                waiting_long,
            };
            (Some(name.parse().unwrap()), load)
        };
        Waiting::of(&Load {
            tenants: each.iter().map(of).collect(),
            ..Load::default()
        })
    }

    const LANES: [Lane; 3] = [Lane::Short, Lane::Long, Lane::All];

    /// The short jobs before a new one, the long ones, and both.
    fn before(waiting: &Waiting, name: &str, more: u64) -> [u64; 3] {
        let tenant = Some(name.parse().unwrap());
        LANES.map(|lane| waiting.before(&tenant, lane, more))
    }

    #[test]
    fn a_job_waits_for_its_own_tenants_jobs_and_as_many_of_each_other() {
        let waiting = waiting(&[("hog", 10_000, 0), ("small", 5, 0), ("running", 0, 0)]);
        assert_eq!(before(&waiting, "hog", 0), [10_005, 0, 10_005]);
        assert_eq!(before(&waiting, "small", 0), [10, 0, 10]);
        assert_eq!(before(&waiting, "small", 3), [16, 3, 16]);
        assert_eq!(before(&waiting, "running", 0), [0; 3]);
        assert_eq!(before(&waiting, "new", 2), [6, 2, 6]);
    }

    #[test]
    fn short_and_long_jobs_are_before_those_of_their_own_lane() {
        let waiting = waiting(&[("a", 0, 700), ("b", 20, 3)]);
        assert_eq!(before(&waiting, "a", 0), [0, 703, 723]);
        assert_eq!(before(&waiting, "b", 0), [20, 6, 46]);
        assert_eq!(LANES.map(|lane| waiting.total(lane)), [20, 703, 723]);
    }
}
