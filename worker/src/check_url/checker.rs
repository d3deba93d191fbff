//! The check of one URL, shared by both modes of the subcommand.

use std::{sync::Arc, time::Duration};

use storm_shared::{config::CallbackSettings, models::CallbackUrl};
use tokio::time::timeout;

use crate::delivery::{self, Denial, Resolution, SsrfFilter, SystemResolver};

/// The rule for a name without an address, or whose look-up failed or timed out.
pub(super) const UNRESOLVED: &str = "unresolved";

/// A worker's SSRF filter and the timeout of a look-up.
#[derive(Clone)]
pub struct Checker {
    filter: SsrfFilter,
    pub(super) timeout: Duration,
}

/// The result of checking one URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlVerdict {
    /// The worker would dial it.
    Allow,
    /// The worker would refuse it, by the named rule.
    Deny(&'static str),
}

impl Checker {
    /// A checker with the settings of a worker.
    pub fn of(settings: CallbackSettings) -> Self {
        Self::new(
            SsrfFilter {
                policy: settings.policy,
                // In a batch, look-ups wait for threads. A wait must not become a verdict.
                resolver: Arc::new(SystemResolver::patient()),
            },
            settings.timeout,
        )
    }

    /// Checks with `filter`; each look-up has `timeout`.
    pub fn new(filter: SsrfFilter, timeout: Duration) -> Self {
        Self { filter, timeout }
    }

    /// The verdict on `text`.
    pub async fn verdict(&self, text: &str) -> UrlVerdict {
        let url = match CallbackUrl::parse(text) {
            Ok(url) => url,
            Err(error) => return UrlVerdict::Deny(error.name()),
        };
        match self.resolution(&url).await.map(Resolution::into_allowed) {
            Some(Ok(_)) => UrlVerdict::Allow,
            Some(Err(Denial::Refused(refusal))) => UrlVerdict::Deny(refusal.class()),
            Some(Err(Denial::Unresolved(_))) | None => UrlVerdict::Deny(UNRESOLVED),
        }
    }

    /// The resolution of `url`; `None` after a timeout.
    pub(super) async fn resolution(&self, url: &CallbackUrl) -> Option<Resolution> {
        // Every known CallbackUrl has an origin that is valid in HTTP.
        let origin = delivery::origin(url.origin()).ok()?;
        timeout(self.timeout, self.filter.resolve(&origin))
            .await
            .ok()
    }
}
