//! Callbacks that are read later than an attempt may last: a part of the rules `cancels` and
//! `erased`.

use std::time::Duration;

use jiff::Timestamp;

use crate::chaos::history::{Fault, HistoryLimits, Received};

/// The first of `callbacks` that no attempt explains which had begun before the worker learned of
/// the answer at `answered`.
pub(super) fn first_late<'a>(
    callbacks: impl IntoIterator<Item = &'a Received>,
    answered: Timestamp,
    faults: &[&Fault],
    limits: &HistoryLimits,
) -> Option<&'a Received> {
    let grace = Duration::from_millis(limits.cancel_grace);
    // A frozen worker does not learn of it, and sends what it had begun when it goes on.
    let is_frozen = |callback: &Received| {
        faults.iter().any(|fault| {
            fault.kind == "freeze_worker"
                && fault.at <= callback.at
                && callback.at <= fault.healed_at + grace
        })
    };
    let mut callbacks = callbacks.into_iter();
    callbacks.find(|callback| callback.at > answered + grace && !is_frozen(callback))
}
