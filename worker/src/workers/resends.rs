//! The record of a callback that is sent again within its attempt.

use futures_util::{FutureExt as _, future::BoxFuture};
use storm_shared::services::store::{Claim, Store};
use tracing::debug;

use crate::delivery::Resends;

/// Records resends of the callback of a claimed job.
pub(super) struct ClaimedResends<'a> {
    store: &'a Store,
    claim: Claim,
}

impl<'a> ClaimedResends<'a> {
    pub(super) fn new(store: &'a Store, claim: Claim) -> Self {
        Self { store, claim }
    }
}

impl Resends for ClaimedResends<'_> {
    fn record(&self) -> BoxFuture<'_, bool> {
        let record = self.store.record_resend(self.claim);
        let recorded = record.map(|recorded| match recorded {
            Ok(()) => true,
            Err(error) => {
                let id = self.claim.id;
                debug!(%id, %error, "a resend could not be recorded, so it is not sent");
                false
            }
        });
        recorded.boxed()
    }
}
