//! The permits of those who wait for results, and each tenant's share of them. Pure arithmetic.

use std::collections::HashMap;

use storm_shared::models::ClientName;

use crate::admission::unreserved;

/// `None` without authentication.
pub(super) type Tenant = Option<ClientName>;

/// Who holds how many permits.
#[derive(Debug)]
pub(super) struct Permits {
    limit: usize,
    /// Whether there are several clients, so that room must be left for the others of them.
    is_shared: bool,
    taken: usize,
    /// Only tenants that hold one.
    by_tenant: HashMap<Tenant, usize>,
}

impl Permits {
    /// `limit` permits that are free, of several clients if they are shared.
    pub(super) fn new(limit: usize, is_shared: bool) -> Self {
        Self {
            limit,
            is_shared,
            taken: 0,
            by_tenant: HashMap::new(),
        }
    }

    /// From now on, the permits are of several clients if they are shared.
    pub(super) fn share(&mut self, is_shared: bool) {
        self.is_shared = is_shared;
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Takes a permit for `tenant`. False if none is free, or few are and the tenant has its share:
    /// the rule of the backlog.
    pub(super) fn take(&mut self, tenant: &Tenant) -> bool {
        let held = self.by_tenant.get(tenant).copied();
        if self.taken >= self.limit {
            return false;
        }
        if self.taken as u64 >= unreserved(self.limit as u64) {
            let tenants = self.by_tenant.len() + usize::from(held.is_none());
            let tenants = tenants.max(1 + usize::from(self.is_shared));
            if held.unwrap_or(0) >= self.limit / tenants {
                return false;
            }
        }
        self.taken += 1;
        match self.by_tenant.get_mut(tenant) {
            Some(held) => *held += 1,
            None => drop(self.by_tenant.insert(tenant.clone(), 1)),
        }
        true
    }

    /// Frees a permit that `tenant` holds.
    pub(super) fn free(&mut self, tenant: &Tenant) {
        let Some(held) = self.by_tenant.get_mut(tenant) else {
            return;
        };
        self.taken -= 1;
        *held -= 1;
        if *held == 0 {
            self.by_tenant.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Permits;

    /// How many permits a tenant takes until it is refused one.
    fn taken(permits: &mut Permits, tenant: &str) -> usize {
        let tenant = Some(tenant.parse().unwrap());
        (0..1000).take_while(|_| permits.take(&tenant)).count()
    }

    #[test]
    fn no_tenant_takes_all_places_and_a_free_place_is_anyones() {
        let mut permits = Permits::new(80, true);
        assert_eq!(taken(&mut permits, "hog"), 70);
        assert_eq!(taken(&mut permits, "other"), 10);
        assert_eq!(taken(&mut permits, "third"), 0, "the limit holds for all");
        for _ in 0..10 {
            permits.free(&Some("hog".parse().unwrap()));
        }
        assert_eq!(taken(&mut permits, "hog"), 0, "it is over its share");
        assert_eq!(taken(&mut permits, "third"), 10);
        assert_eq!(permits.taken(), 80);
    }

    #[test]
    fn without_other_clients_a_tenant_has_all_places_and_gets_them_back() {
        let mut permits = Permits::new(20, false);
        for _ in 0..2 {
            assert_eq!((0..99).filter(|_| permits.take(&None)).count(), 20);
            for _ in 0..20 {
                permits.free(&None);
            }
            assert_eq!((permits.taken(), permits.by_tenant.len()), (0, 0));
        }
        permits.share(true);
        assert_eq!((0..99).filter(|_| permits.take(&None)).count(), 18);
        assert!(!Permits::new(0, false).take(&None));
    }
}
