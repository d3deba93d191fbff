//! The legal transitions of a row, checked on the recorded history.

use std::collections::BTreeMap;

use proptest::{prelude::*, test_runner::TestCaseResult};
use storm_shared::{
    models::{EventKind, FailureReason, RequestId, Status, Transition},
    services::store::OwnerId,
};

use crate::database::{History, Moment, Row};

/// How a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Completed,
    Failed,
    Scheduled,
    Parked,
    Poisoned,
    Requeued,
}

/// Every claim, in order, and how it ended, if it did.
pub(super) fn claims(history: &History) -> Vec<(RequestId, i64, Option<OwnerId>, Option<End>)> {
    let mut claims = Vec::new();
    for (id, moments) in history {
        for (old, new) in changes(moments) {
            if old.status == Status::Pending {
                claims.push((*id, new.claim, new.owner, None));
            } else if new.status != Status::Processing
                && let Some(last) = claims.last_mut()
            {
                last.3 = Some(end(old, new));
            }
        }
    }
    claims
}

/// Checks that each job made only legal transitions, and that its events match them.
pub(super) fn check(history: &History, rows: &BTreeMap<RequestId, Row>) -> TestCaseResult {
    prop_assert!(
        history.keys().eq(rows.keys()),
        "the history has exactly the table's rows"
    );
    for (id, moments) in history {
        let first = &moments[0].row;
        prop_assert_eq!((first.status, first.claim), (Status::Pending, 0));
        for (moment, (old, new)) in moments[1..].iter().zip(changes(moments)) {
            is_allowed(old, new)
                .and_then(|()| is_poison_justified(moment))
                .map_err(|wrong| with_history(*id, moments, &wrong))?;
        }
        events_match(moments, &rows[id]).map_err(|wrong| with_history(*id, moments, &wrong))?;
    }
    Ok(())
}

fn with_history(id: RequestId, moments: &[Moment], wrong: &TestCaseError) -> TestCaseError {
    let moments: Vec<_> = moments.iter().map(|it| format!("{it:?}")).collect();
    TestCaseError::fail(format!("{id}: {wrong}:\n{}", moments.join("\n")))
}

fn changes(moments: &[Moment]) -> impl Iterator<Item = (&Row, &Row)> {
    moments.windows(2).map(|pair| (&pair[0].row, &pair[1].row))
}

fn is_allowed(old: &Row, new: &Row) -> TestCaseResult {
    let is_claimed = old.status == Status::Pending;
    prop_assert!(
        !matches!(old.status, Status::Completed | Status::Failed),
        "a finished job changes"
    );
    let is_it = |it: Transition| (it.from(), it.to()) == (old.status, new.status);
    prop_assert!(
        Transition::ALL.into_iter().any(is_it)
            || (old.status, new.status) == (Status::Processing, Status::Processing),
        "from {} to {}",
        old.status,
        new.status
    );
    prop_assert_eq!(
        new.claim,
        old.claim + i64::from(is_claimed),
        "its fencing token"
    );
    prop_assert!(new.attempts >= old.attempts, "its attempts decrease");
    let is_cleared = new.lost_claims == 0 && matches!(end(old, new), End::Scheduled | End::Parked);
    prop_assert!(
        is_cleared || (0..=1).contains(&(i64::from(new.lost_claims) - i64::from(old.lost_claims))),
        "its lost claims"
    );
    prop_assert!(
        old.result.is_none() || new.result == old.result,
        "its result changes"
    );
    let is_poison = new.failure == Some(FailureReason::Poison);
    prop_assert_eq!(
        new.owner.is_none(),
        new.status == Status::Pending || is_poison,
        "only a job that its worker holds or has ended has an owner"
    );
    prop_assert!(
        is_claimed || new.owner.is_none() || new.owner == old.owner,
        "its owner changes"
    );
    let is_over = matches!(new.status, Status::Completed | Status::Failed);
    prop_assert_eq!(new.is_over, is_over);
    prop_assert_eq!(new.failure.is_some(), new.status == Status::Failed);
    prop_assert_eq!(
        new.due.is_some(),
        new.status == Status::Pending,
        "only a PENDING job has a due time"
    );
    Ok(())
}

/// A job is poison only if its worker held no other job, and not at its first lost claim.
fn is_poison_justified(Moment { row, beside_it }: &Moment) -> TestCaseResult {
    if row.failure == Some(FailureReason::Poison) {
        prop_assert_eq!(*beside_it, 0, "poison although among others");
        prop_assert!(row.lost_claims >= 2, "poison too early");
    }
    Ok(())
}

/// Every claim that may cause a duplicate delivery has one event, in order, under its number.
fn events_match(moments: &[Moment], row: &Row) -> TestCaseResult {
    let mut events = row.events.iter();
    for (old, new) in changes(moments) {
        let may_be: &[EventKind] = match end(old, new) {
            _ if old.status != Status::Processing || new.status == Status::Processing => continue,
            // No event: a success, or no attempt.
            End::Completed | End::Parked => continue,
            End::Failed if new.failure != Some(FailureReason::CallbackFailed) => continue,
            End::Failed | End::Scheduled => &[EventKind::AttemptFailed],
            End::Poisoned => &[EventKind::ClaimLost],
            End::Requeued if new.lost_claims > old.lost_claims => &[EventKind::ClaimLost],
            // A loss among other jobs is not counted at the quarantine threshold.
            End::Requeued if old.lost_claims > 0 => &[EventKind::ClaimLost, EventKind::GivenBack],
            End::Requeued => &[EventKind::GivenBack],
        };
        let event = events.next();
        prop_assert!(
            event.is_some_and(|(kind, claim, _)| may_be.contains(kind) && *claim == old.claim),
            "claim {} ended and the event is {event:?}",
            old.claim
        );
    }
    prop_assert_eq!(events.next(), None, "there are no other events");
    Ok(())
}

fn end(old: &Row, new: &Row) -> End {
    match (new.status, new.failure) {
        (Status::Completed, _) => End::Completed,
        (_, Some(FailureReason::Poison)) => End::Poisoned,
        (Status::Failed, _) => End::Failed,
        _ if new.attempts > old.attempts => End::Scheduled,
        _ if new.parks > old.parks => End::Parked,
        _ => End::Requeued,
    }
}
