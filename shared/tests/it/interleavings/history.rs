//! What may become of a row, whoever did it: read from what the triggers wrote down.

use std::collections::BTreeMap;

use proptest::{prelude::*, test_runner::TestCaseResult};
use storm_shared::models::{EventKind, FailureReason, RequestId, Status};

use super::model::Row;

/// A row after a change of it.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) row: Row,
    /// How many other jobs its owner held just then.
    beside_it: u32,
}

impl Moment {
    pub(super) fn new(row: Row, beside_it: u32) -> Self {
        Self { row, beside_it }
    }
}

/// The history of each job.
pub(super) type History = BTreeMap<RequestId, Vec<Moment>>;

/// How a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Completed,
    Failed,
    Waits,
    Parked,
    Condemned,
    Returned,
}

/// Every claim, in order, and how it ended, if it has.
pub(super) fn claims(history: &History) -> Vec<(RequestId, i64, Option<String>, Option<End>)> {
    let mut claims = Vec::new();
    for (id, moments) in history {
        for (old, new) in changes(moments) {
            if old.status == Status::Pending {
                claims.push((*id, new.claim, new.owner.clone(), None));
            } else if new.status != Status::Processing
                && let Some(last) = claims.last_mut()
            {
                last.3 = Some(end(old, new));
            }
        }
    }
    claims
}

/// Checks that each job went only where it may, and that its events say why.
pub(super) fn check(history: &History, rows: &BTreeMap<RequestId, Row>) -> TestCaseResult {
    prop_assert!(
        history.keys().eq(rows.keys()),
        "each row has its history, no other has"
    );
    for (id, moments) in history {
        let first = &moments[0].row;
        prop_assert_eq!((first.status, first.claim), (Status::Pending, 0));
        for (moment, (old, new)) in moments[1..].iter().zip(changes(moments)) {
            is_allowed(old, new)
                .and_then(|()| is_just(moment))
                .map_err(|wrong| told_with(*id, moments, &wrong))?;
        }
        are_told(moments, &rows[id]).map_err(|wrong| told_with(*id, moments, &wrong))?;
    }
    Ok(())
}

fn told_with(id: RequestId, moments: &[Moment], wrong: &TestCaseError) -> TestCaseError {
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
        "what is over changes"
    );
    prop_assert!(
        old.status.may_become(new.status)
            || (old.status, new.status) == (Status::Processing, Status::Processing),
        "from {} to {}",
        old.status,
        new.status
    );
    prop_assert_eq!(new.claim, old.claim + i64::from(is_claimed), "its claims");
    prop_assert!(new.attempts >= old.attempts, "its attempts fall");
    let is_cleared = new.lost_claims == 0 && matches!(end(old, new), End::Waits | End::Parked);
    prop_assert!(
        is_cleared || (0..=1).contains(&(i64::from(new.lost_claims) - i64::from(old.lost_claims))),
        "its lost claims"
    );
    prop_assert!(
        old.result.is_none() || new.result == old.result,
        "its result changes"
    );
    prop_assert_eq!(
        new.owner.is_some(),
        new.status != Status::Pending,
        "who waits is nobody's"
    );
    prop_assert!(
        is_claimed || new.owner.is_none() || new.owner == old.owner,
        "its owner changes"
    );
    let is_over = matches!(new.status, Status::Completed | Status::Failed);
    prop_assert_eq!(new.is_over, is_over);
    prop_assert_eq!(new.failure.is_some(), new.status == Status::Failed);
    prop_assert_eq!(
        new.waits_until.is_some(),
        new.status == Status::Pending,
        "who waits has a time"
    );
    Ok(())
}

/// A job is poison only where nothing else can have killed its worker, and not the first time.
fn is_just(Moment { row, beside_it }: &Moment) -> TestCaseResult {
    if row.failure == Some(FailureReason::Poison) {
        prop_assert_eq!(*beside_it, 0, "condemned beside others");
        prop_assert!(row.lost_claims >= 2, "condemned too early");
    }
    Ok(())
}

/// A claim that ended otherwise than well has one event, in its turn and under its number.
fn are_told(moments: &[Moment], row: &Row) -> TestCaseResult {
    let mut events = row.events.iter();
    for (old, new) in changes(moments) {
        let may_be: &[EventKind] = match end(old, new) {
            _ if old.status != Status::Processing || new.status == Status::Processing => continue,
            // Nobody was called.
            End::Completed | End::Parked => continue,
            End::Failed if new.failure != Some(FailureReason::CallbackFailed) => continue,
            End::Failed | End::Waits => &[EventKind::AttemptFailed],
            End::Condemned => &[EventKind::ClaimLost],
            End::Returned if new.lost_claims > old.lost_claims => &[EventKind::ClaimLost],
            // Where it couldn't be condemned, for it was not alone, the loss is not counted.
            End::Returned if old.lost_claims > 0 => &[EventKind::ClaimLost, EventKind::GivenBack],
            End::Returned => &[EventKind::GivenBack],
        };
        let event = events.next();
        prop_assert!(
            event.is_some_and(|(kind, claim, _)| may_be.contains(kind) && *claim == old.claim),
            "claim {} ended and the event is {event:?}",
            old.claim
        );
    }
    prop_assert_eq!(events.next(), None, "nothing else happened");
    Ok(())
}

fn end(old: &Row, new: &Row) -> End {
    match (new.status, new.failure) {
        (Status::Completed, _) => End::Completed,
        (_, Some(FailureReason::Poison)) => End::Condemned,
        (Status::Failed, _) => End::Failed,
        _ if new.attempts > old.attempts => End::Waits,
        _ if new.parks > old.parks => End::Parked,
        _ => End::Returned,
    }
}
