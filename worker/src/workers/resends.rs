//! The record of a callback that is sent again within its attempt.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::{FutureExt as _, future::BoxFuture};
use storm_shared::services::store::{Claim, Store};
use tracing::debug;

use crate::delivery::Resends;

/// Records resends of the callback of a claimed job.
pub(super) struct ClaimedResends<'a> {
    store: &'a Store,
    claim: Claim,
    count: AtomicU32,
}

impl<'a> ClaimedResends<'a> {
    pub(super) fn new(store: &'a Store, claim: Claim) -> Self {
        Self {
            store,
            claim,
            count: AtomicU32::new(0),
        }
    }
}

impl Resends for ClaimedResends<'_> {
    fn record(&self) -> BoxFuture<'_, bool> {
        // Relaxed: an attempt records one resend at a time.
        let count = self.count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let record = self.store.record_resend(self.claim, count);
        let recorded = record.map(|recorded| match recorded {
            Ok(()) => true,
            // Also if the outcome is unknown: a resend that is recorded and not made does no harm.
            Err(error) => {
                let id = self.claim.id;
                debug!(%id, %error, "a resend could not be recorded, so it is not sent");
                false
            }
        });
        recorded.boxed()
    }
}
