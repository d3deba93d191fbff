//! The tables of what is claimed.

use crate::services::store::Work;

/// SQL for the rows that workers hold.
pub(super) const IS_CLAIMED: &str = "status = 'PROCESSING'";

/// SQL for the rows of `workers` that are leases. One that has expired is kept, with this beat, as
/// long as another program has locked a row of its worker: an expiry of that one reclaims the rest.
pub(super) const HAS_LEASE: &str = "beat <> -1";
pub(super) const EXPIRED: i64 = -1;

/// SQL that selects the one row, named `it`, on which the claim in `$1` to `$3` is held: its id,
/// owner and number. A row that was returned keeps its claim number until its next claim, but no
/// owner.
///
/// `|| ''`: the planner would take the index of all that the owner holds, while that is small.
pub(super) const IS_HELD: &str =
    "it.id = $1 AND it.owner = $2 AND it.claim = $3 AND it.status || '' = 'PROCESSING'";

/// SQL for whether the work itself has failed for good, so that the callback says so.
pub(super) const WORK_FAILED: &str =
    "coalesce(failure_reason IN ('work_failed', 'work_timed_out'), false)";

/// SQL for the result of the row `it` that gets `value`, unless it has a result, or its work has
/// failed.
pub(super) fn kept_result(value: &str) -> String {
    format!(
        "CASE WHEN it.result_payload IS NULL AND NOT {WORK_FAILED} THEN {value}::json
              ELSE it.result_payload END"
    )
}

/// SQL for what `column`, the reason or the detail of a failure, is in a request that fails for
/// `value`: why its work failed stays the reason.
pub(super) fn failed_for(column: &str, value: &str) -> String {
    format!("CASE WHEN {WORK_FAILED} THEN {column} ELSE {value} END")
}

/// The table that holds `work`. Both tables have the columns that transitions change.
pub(super) const fn table(work: Work) -> &'static str {
    match work {
        Work::Job => "requests",
        Work::Redelivery => "redeliveries",
    }
}
