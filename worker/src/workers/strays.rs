//! The loop that returns jobs to the table which the lease holds and the worker does not have.
//!
//! The lease goes on, so nobody else would ever reclaim them. It comes to that when the database
//! goes back behind a settlement that this worker has seen committed: a standby is promoted that
//! did not have it yet, or a copy is restored. Such a job is run again, and may be delivered again:
//! nobody knows of the first time any more.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::join_all;
use storm_shared::{
    models::RequestId,
    services::store::{Claim, OwnerId, Settlement, Store, StoreError},
};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::{drain::Drain, in_hand::InHand, lease::Lease};

/// Returns such jobs until shutdown. It looks for them as often as the lease is long: they wait for
/// no longer than those of a worker that has crashed.
pub(super) async fn release(store: Store, lease: Arc<Lease>, in_hand: InHand, drain: Drain) {
    let strays = Strays {
        store,
        lease,
        in_hand,
    };
    let length = strays.lease.length();
    while drain.until_shutdown(sleep(length)).await.is_some() {
        let Some(released) = drain.until_shutdown(strays.release()).await else {
            return;
        };
        match released {
            Ok(0) => {}
            Ok(jobs) => warn!(
                jobs,
                "the database holds jobs for this worker that it has ended or never had: they are \
                 PENDING again (was a standby promoted, or a copy restored?)"
            ),
            // The heartbeat says that the database fails. The next look finds them.
            Err(error) => debug!(%error, "the jobs that the lease holds can't be read"),
        }
    }
}

struct Strays {
    store: Store,
    lease: Arc<Lease>,
    in_hand: InHand,
}

impl Strays {
    /// Returns how many jobs it has returned.
    async fn release(&self) -> Result<usize, StoreError> {
        let owner = self.lease.in_force().await.owner;
        let seen: HashSet<(RequestId, i64)> = self.find(owner).await?.map(key).collect();
        if seen.is_empty() {
            return Ok(0);
        }
        // Most of these have ended while they were read. What has not may end just now: a release
        // names the claim, and changes nothing once that has ended.
        let strays = self.find(owner).await?;
        let strays = strays.filter(|claim| seen.contains(&key(*claim)));
        let release = |claim| self.store.settle(claim, None, Settlement::GiveBack);
        let released = join_all(strays.map(release)).await;
        Ok(released.iter().filter(|done| done.is_ok()).count())
    }

    /// The claims that the lease holds, without those of jobs in hand.
    async fn find(&self, owner: OwnerId) -> Result<impl Iterator<Item = Claim>, StoreError> {
        // First the table: a claim is in hand before it is made, and until its end is committed.
        let held = self.store.claims_of(owner).await?;
        Ok(self.in_hand.without(held))
    }
}

fn key(claim: Claim) -> (RequestId, i64) {
    (claim.id, claim.number)
}
