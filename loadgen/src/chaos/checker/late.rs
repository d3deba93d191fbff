//! Callbacks that are read later than an attempt may last: a part of the rules `cancels` and
//! `erased`.

use std::time::Duration;

use jiff::Timestamp;

use crate::chaos::history::{Fault, HistoryLimits, Received, WorkRequest};

/// The first of `callbacks` that no attempt explains which had begun before the worker learned of
/// the answer at `answered`.
pub(super) fn first_late<'a>(
    callbacks: impl IntoIterator<Item = &'a Received>,
    answered: Timestamp,
    faults: &[&Fault],
    limits: &HistoryLimits,
) -> Option<&'a Received> {
    let grace = Duration::from_millis(limits.cancel_grace);
    let mut callbacks = callbacks.into_iter();
    callbacks.find(|callback| is_late(callback.at, answered, grace, faults))
}

/// The first request for work that was read so much later than `over` that it must have begun after
/// it.
pub(super) fn first_late_work<'a>(
    requests: &[&'a WorkRequest],
    over: Timestamp,
    grace: u64,
    faults: &[&Fault],
) -> Option<&'a WorkRequest> {
    let grace = Duration::from_millis(grace);
    let mut requests = requests.iter().copied();
    requests.find(|request| is_late(request.at, over, grace, faults))
}

fn is_late(at: Timestamp, after: Timestamp, grace: Duration, faults: &[&Fault]) -> bool {
    // A frozen worker does not learn of it, and sends what it had begun when it goes on.
    let is_frozen = faults.iter().any(|fault| {
        fault.kind == "freeze_worker" && fault.at <= at && at <= fault.healed_at + grace
    });
    at > after + grace && !is_frozen
}
