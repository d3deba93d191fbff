//! Deliberate faults: what a broken store might do is logged, and the checker finds it.

use std::collections::BTreeMap;

use super::*;
use crate::chaos::{
    checker::{CheckRule, check},
    history::HistoryLimits,
};

const OTHER: &str = "00000000-0000-4000-8000-000000000000";

/// The waits after failed attempts. The job that waits was tried once.
const RETRY_DELAYS: [Duration; 1] = [Duration::from_hours(1)];

/// What is done, and the rule that it breaks. There is one request for each status; the one that is
/// `FAILED` was erased.
fn faults() -> [(String, CheckRule); 13] {
    let same = |sql: &str| sql.to_owned();
    [
        (
            same("UPDATE requests SET status = 'PROCESSING' WHERE status = 'COMPLETED'"),
            CheckRule::Moves,
        ),
        (
            same("UPDATE requests SET result_payload = '[1]' WHERE status = 'COMPLETED'"),
            CheckRule::Moves,
        ),
        (
            same("UPDATE requests SET attempts = 0 WHERE status = 'PENDING'"),
            CheckRule::Fences,
        ),
        (
            same("UPDATE requests SET claim = claim - 1 WHERE status = 'PROCESSING'"),
            CheckRule::Moves,
        ),
        (
            format!("UPDATE requests SET owner = '{OTHER}' WHERE status = 'PROCESSING'"),
            CheckRule::Moves,
        ),
        (
            same("UPDATE requests SET status = 'FAILED' WHERE status = 'PROCESSING'"),
            CheckRule::Reasons,
        ),
        (
            same("DELETE FROM requests WHERE status = 'PROCESSING'"),
            CheckRule::Retention,
        ),
        (
            format!(
                "UPDATE requests SET status = 'PROCESSING', claim = claim + 1, due = NULL,
                     owner = '{OTHER}' WHERE status = 'PENDING'"
            ),
            CheckRule::Waits,
        ),
        (
            same(
                "UPDATE requests SET due = (SELECT ended FROM requests WHERE status = 'COMPLETED')
                 WHERE status = 'PENDING'",
            ),
            CheckRule::Fences,
        ),
        (
            same(
                "INSERT INTO redeliveries (id, status, claim, due, attempts, attempts_before, parks)
                 SELECT id, 'PENDING', claim, ended, attempts, attempts, parks
                 FROM requests WHERE status = 'COMPLETED'",
            ),
            CheckRule::Named,
        ),
        (
            same(
                "UPDATE requests SET callback_url = 'http://a/' WHERE erased_at IS NOT NULL",
            ),
            CheckRule::Erased,
        ),
        (
            same("INSERT INTO pauses SELECT '', created_at, '' FROM requests LIMIT 1"),
            CheckRule::Pauses,
        ),
        (
            same(
                "INSERT INTO audit (number, at, operator, action, filter, matched, changed, dry_run)
                 SELECT 1000, created_at, 'ops', 'cancel', '{}', 1, 1, CAST(0 AS boolean)
                 FROM requests LIMIT 1",
            ),
            CheckRule::Filters,
        ),
    ]
}

/// A store with one request for each status.
async fn of_each_status(on: Engine) -> Audited {
    let audited = audited(on).await;
    let store = &audited.store;
    accept_and_erase(store).await;
    let url = || Some(CallbackUrl::parse("http://a/").unwrap());
    let report = || Some(WorkResult::of(&expected(&spec())));

    let done = accept(store, url()).await;
    let done = claim(store, OwnerId::generate(), done).await;
    let end = finish(1, AttemptClass::Success, Outcome::Completed);
    store.settle(done, report(), end).await.unwrap();

    let waiting = accept(store, url()).await;
    let waiting = claim(store, OwnerId::generate(), waiting).await;
    let Settlement::Finish { attempt, .. } = finish(1, AttemptClass::Timeout, Outcome::Completed)
    else {
        unreachable!("it is an end")
    };
    let retry = Settlement::Retry {
        attempt: attempt.unwrap(),
        wait: RETRY_DELAYS[0],
    };
    store.settle(waiting, report(), retry).await.unwrap();

    let held = accept(store, url()).await;
    claim(store, OwnerId::generate(), held).await;
    audited
}

/// How often each rule is broken. Nobody has recorded what clients were answered, so some are.
async fn broken(audit: &Audit) -> BTreeMap<CheckRule, usize> {
    let limits = HistoryLimits::new(&RETRY_DELAYS, 8, Vec::new());
    let records = audit.records().await.unwrap();
    check(&records, &limits).by_rule()
}

pub(super) async fn every_deliberate_fault_is_logged_and_found(on: Engine) {
    let mut missed = Vec::new();
    for (fault, rule) in faults() {
        let Audited { audit, .. } = &of_each_status(on).await;
        let before = broken(audit).await;
        audit.execute(&fault).await;
        let after = broken(audit).await;
        if after.get(&rule) <= before.get(&rule) {
            missed.push(format!(
                "{rule}: {fault}: {before:?} before, {after:?} after"
            ));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
