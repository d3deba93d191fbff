//! How many jobs are before a new one: pure arithmetic over the jobs that wait for workers.
//!
//! The model: tenants take turns. So a job waits for those of its own tenant that wait already, and
//! for as many of each other tenant, or as many as that has. A short job waits for short ones
//! alone, because long ones leave slots to them; a long job waits for both.

use std::collections::HashMap;

use storm_shared::services::store::{Load, TenantLoad};

use super::ledger::Tenant;

/// The jobs that wait, as of the last count.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_tenant: HashMap<Tenant, TenantLoad>,
    short: Turns,
    all: Turns,
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
        let tenants = load.tenants.values();
        Self {
            short: Turns::of(tenants.clone().map(|it| it.waiting_short as u64)),
            all: Turns::of(tenants.map(all)),
            by_tenant: load.tenants.clone(),
        }
    }

    /// All jobs that wait where a new one does.
    pub(super) fn total(&self, is_long: bool) -> u64 {
        self.turns(is_long).up_to(u64::MAX)
    }

    /// The jobs that should begin before a new one of `tenant`, of which `more` wait than were
    /// counted.
    pub(super) fn before(&self, tenant: &Tenant, is_long: bool, more: u64) -> u64 {
        let own = self.by_tenant.get(tenant).map_or(0, |load| {
            if is_long {
                all(load)
            } else {
                load.waiting_short as u64
            }
        });
        self.turns(is_long).up_to(own + more) + more
    }

    fn turns(&self, is_long: bool) -> &Turns {
        if is_long { &self.all } else { &self.short }
    }
}

fn all(load: &TenantLoad) -> u64 {
    (load.waiting_short + load.waiting_long) as u64
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

    use super::Waiting;

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

    /// The jobs before a new short one, and before a new long one.
    fn before(waiting: &Waiting, name: &str, more: u64) -> [u64; 2] {
        let tenant = Some(name.parse().unwrap());
        [false, true].map(|is_long| waiting.before(&tenant, is_long, more))
    }

    #[test]
    fn a_job_waits_for_its_own_tenants_jobs_and_as_many_of_each_other() {
        let waiting = waiting(&[("hog", 10_000, 0), ("small", 5, 0), ("running", 0, 0)]);
        assert_eq!(before(&waiting, "hog", 0), [10_005; 2]);
        assert_eq!(before(&waiting, "small", 0), [10; 2]);
        assert_eq!(before(&waiting, "small", 3), [16; 2]);
        assert_eq!(before(&waiting, "running", 0), [0; 2]);
        assert_eq!(before(&waiting, "new", 2), [6; 2]);
    }

    #[test]
    fn a_short_job_does_not_wait_for_long_ones() {
        let waiting = waiting(&[("a", 0, 700), ("b", 20, 3)]);
        assert_eq!(before(&waiting, "a", 0), [0, 723]);
        assert_eq!(before(&waiting, "b", 0), [20, 46]);
        assert_eq!([false, true].map(|it| waiting.total(it)), [20, 723]);
    }
}
