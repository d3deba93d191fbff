//! The legal changes of jobs and redeliveries, checked on the recorded history.

use std::collections::BTreeMap;

use proptest::{prelude::*, test_runner::TestCaseResult};
use storm_shared::{
    models::{AttemptClass, EventKind, FailureReason, RequestId, Status, Transition},
    services::store::{OwnerId, Work},
};

use crate::database::{Entry, History, Moment, Parked, Row, Tables};

/// How a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Completed,
    Failed,
    Cancelled,
    Scheduled,
    Parked,
    Poisoned,
    Requeued,
}

/// A claim, and how it ended, if it did.
pub(super) struct Claimed {
    pub(super) id: RequestId,
    pub(super) number: i64,
    pub(super) owner: Option<OwnerId>,
    pub(super) end: Option<End>,
}

/// All attempts: the class of each, and its claim.
type Attempts = BTreeMap<(RequestId, u32), (AttemptClass, i64)>;

/// A change of a request's job or redelivery, and what both were before.
struct Change<'a> {
    id: RequestId,
    job: Option<&'a Row>,
    redelivery: Option<&'a Row>,
    /// The redelivery was cancelled with an earlier change.
    was_cancelled: bool,
    moment: &'a Moment,
}

/// Every claim, in order.
pub(super) fn claims(history: &History, attempts: &Attempts) -> Vec<Claimed> {
    let mut claims: Vec<Claimed> = Vec::new();
    for change in history.iter().flat_map(|(id, it)| changes(*id, it)) {
        let new = &change.moment.row;
        if change.is_claim() {
            claims.push(Claimed {
                id: change.id,
                number: new.claim,
                owner: new.owner,
                end: None,
            });
        } else if let Some(end) = change.end(attempts)
            && let Some(last) = claims.last_mut()
        {
            last.end = Some(end);
        }
    }
    claims
}

/// The number of redeliveries that began.
pub(super) fn redeliveries(history: &History) -> usize {
    let changes = history.iter().flat_map(|(id, it)| changes(*id, it));
    let begun = |it: &Change<'_>| it.moment.work == Work::Redelivery && it.redelivery.is_none();
    changes.filter(begun).count()
}

/// The number of requests that were deleted.
pub(super) fn deletions(history: &History) -> usize {
    let moments = history.values().flatten();
    let deleted = |it: &&Moment| it.work == Work::Job && it.is_deleted;
    moments.filter(deleted).count()
}

/// How many jobs and redeliveries were released that a pause had parked.
pub(super) fn releases(history: &History) -> usize {
    let changes = history.iter().flat_map(|(id, it)| changes(*id, it));
    changes.filter(Change::is_release).count()
}

/// The jobs that were cancelled, and the requests whose redeliveries were, each as often as it was.
pub(super) fn cancelled(history: &History) -> (Vec<RequestId>, Vec<RequestId>) {
    let changes = history.iter().flat_map(|(id, it)| changes(*id, it));
    let cancelled = changes.filter(Change::is_cancel);
    let (jobs, redeliveries): (Vec<_>, Vec<_>) =
        cancelled.partition(|change| change.moment.work == Work::Job);
    let ids = |of: Vec<Change<'_>>| of.iter().map(|change| change.id).collect();
    (ids(jobs), ids(redeliveries))
}

/// Checks that each job and redelivery made only legal changes, and that the events match them.
/// `ever` has the attempts and events of requests that were deleted or erased, too.
pub(super) fn check(history: &History, tables: &Tables, ever: &Tables) -> TestCaseResult {
    let jobs = tables.rows.keys().filter(|(_, work)| *work == Work::Job);
    let is_left = |moments: &Vec<Moment>| {
        let mut jobs = moments.iter().rev().filter(|it| it.work == Work::Job);
        jobs.next().is_some_and(|last| !last.is_deleted)
    };
    let left = history.iter().filter(|(_, moments)| is_left(moments));
    prop_assert!(
        left.map(|(id, _)| id).eq(jobs.map(|(id, _)| id)),
        "the history has exactly the table's requests"
    );
    for (id, moments) in history {
        let attempts = &ever.attempts;
        let events = ever.events.get(id).map_or(&[][..], Vec::as_slice);
        changes(*id, moments)
            .try_for_each(|change| change.is_allowed(attempts))
            .and_then(|()| events_match(*id, moments, attempts, events))
            .map_err(|wrong| with_history(*id, moments, &wrong))?;
    }
    Ok(())
}

fn with_history(id: RequestId, moments: &[Moment], wrong: &TestCaseError) -> TestCaseError {
    let moments: Vec<_> = moments.iter().map(|it| format!("{it:?}")).collect();
    TestCaseError::fail(format!("{id}: {wrong}:\n{}", moments.join("\n")))
}

fn changes(id: RequestId, moments: &[Moment]) -> impl Iterator<Item = Change<'_>> {
    let (mut job, mut redelivery, mut was_cancelled) = (None, None, false);
    moments.iter().map(move |moment| {
        let change = Change {
            id,
            job,
            redelivery,
            was_cancelled,
            moment,
        };
        if moment.work == Work::Redelivery {
            was_cancelled = change.is_cancel();
        }
        let row = (!moment.is_deleted).then_some(&moment.row);
        match moment.work {
            Work::Job => job = row,
            Work::Redelivery => redelivery = row,
        }
        change
    })
}

impl Change<'_> {
    fn old(&self) -> Option<&Row> {
        match self.moment.work {
            Work::Job => self.job,
            Work::Redelivery => self.redelivery,
        }
    }

    fn is_claim(&self) -> bool {
        let is_pending = self.old().is_some_and(|old| old.status == Status::Pending);
        is_pending && self.moment.row.status == Status::Processing
    }

    /// Whether this takes a job, or a redelivery, away from its worker under a new claim number. A
    /// redelivery is deleted with the next change.
    fn is_cancel(&self) -> bool {
        let new = &self.moment.row;
        self.old().is_some_and(|old| {
            let is_unfinished = matches!(old.status, Status::Pending | Status::Processing);
            is_unfinished && !self.moment.is_deleted && new.claim > old.claim && !self.is_claim()
        })
    }

    /// Whether a waiting job changes, and is not cancelled.
    fn is_release(&self) -> bool {
        let new = &self.moment.row;
        self.old().is_some_and(|old| {
            let is_pending = [old, new].map(|row| row.status) == [Status::Pending; 2];
            is_pending && !self.moment.is_deleted && !self.is_cancel()
        })
    }

    /// How a claim ended with this change, if one did.
    fn end(&self, attempts: &Attempts) -> Option<End> {
        let Moment {
            row, is_deleted, ..
        } = self.moment;
        if self.is_cancel() {
            let old = self.old().filter(|old| old.status == Status::Processing);
            return old.map(|_| End::Cancelled);
        }
        // The deletion of a cancelled redelivery.
        if *is_deleted && self.was_cancelled {
            return None;
        }
        let old = self.old().filter(|old| old.status == Status::Processing)?;
        match (row.status, row.failure) {
            (Status::Processing, _) if *is_deleted => {
                Some(end_of_redelivery(self.id, row, attempts))
            }
            (Status::Processing, _) => None,
            (Status::Completed, _) => Some(End::Completed),
            (_, Some(FailureReason::Poison)) => Some(End::Poisoned),
            (Status::Failed, _) => Some(End::Failed),
            _ if row.attempts > old.attempts => Some(End::Scheduled),
            _ if row.parks > old.parks => Some(End::Parked),
            _ => Some(End::Requeued),
        }
    }

    fn is_allowed(&self, attempts: &Attempts) -> TestCaseResult {
        let (work, new) = (self.moment.work, &self.moment.row);
        match (work, self.old()) {
            (Work::Job, None) => {
                prop_assert_eq!((new.status, new.claim), (Status::Pending, 0));
                Ok(())
            }
            (Work::Redelivery, None) => self.is_begun(),
            (Work::Job, Some(old)) if self.moment.is_deleted => {
                prop_assert!(old.is_over, "an unfinished request is deleted");
                prop_assert!(
                    self.redelivery.is_none(),
                    "it is deleted during a redelivery"
                );
                Ok(())
            }
            (Work::Job, Some(old)) if new.is_erased != old.is_erased => self.is_erased(old),
            (Work::Job, Some(old)) if old.is_over => self.is_written_back(old, attempts),
            (Work::Redelivery, Some(_)) if self.moment.is_deleted => self.is_ended(attempts),
            (_, Some(old)) if self.is_cancel() => self.is_taken_away(old),
            (_, Some(old)) if self.is_release() => self.is_released(old),
            (_, Some(old)) => self.is_step(old, attempts),
        }
    }

    /// A redelivery begins where its job has stopped, and with a new series.
    fn is_begun(&self) -> TestCaseResult {
        let (new, job) = (&self.moment.row, self.job.unwrap());
        prop_assert!(job.is_over && job.result.is_some(), "nothing to redeliver");
        prop_assert!(!job.is_erased, "erased");
        prop_assert_eq!((new.status, new.owner), (Status::Pending, None));
        prop_assert_eq!(
            (new.claim, new.attempts, new.parks),
            (job.claim, job.attempts, job.parks),
            "its counts go on"
        );
        prop_assert_eq!((new.attempts_before, new.lost_claims), (job.attempts, 0));
        Ok(())
    }

    /// A cancelled job has ended. A cancelled redelivery is about to be deleted. Nothing else
    /// changes.
    fn is_taken_away(&self, old: &Row) -> TestCaseResult {
        let mut expected = Row {
            claim: old.claim + 1,
            owner: None,
            ..old.clone()
        };
        if self.moment.work == Work::Job {
            expected.status = Status::Failed;
            expected.failure = Some(FailureReason::Cancelled);
            (expected.due, expected.parked, expected.is_over) = (None, None, true);
        }
        prop_assert_eq!(&self.moment.row, &expected, "cancelled");
        Ok(())
    }

    /// Only what a pause has parked is made due, and not before its origin is resumed. Nothing else
    /// changes.
    fn is_released(&self, old: &Row) -> TestCaseResult {
        let new = &self.moment.row;
        prop_assert_eq!(old.parked, Some(Parked::ByPause), "not parked by a pause");
        prop_assert!(!self.moment.is_origin_paused, "its origin is paused");
        // Or at the same time: the tables say it to the millisecond, and the engine is more exact.
        prop_assert!(new.due <= old.due, "it is due later");
        let expected = Row {
            due: new.due,
            parked: Some(Parked::Since),
            ..old.clone()
        };
        prop_assert_eq!(new, &expected, "released");
        Ok(())
    }

    /// The outcome of an erased job stays.
    fn is_erased(&self, old: &Row) -> TestCaseResult {
        prop_assert!(old.is_over, "an unfinished job is erased");
        prop_assert!(
            self.redelivery.is_none(),
            "it is erased during a redelivery"
        );
        let expected = Row {
            result: None,
            is_erased: true,
            ..old.clone()
        };
        prop_assert_eq!(&self.moment.row, &expected, "erased");
        Ok(())
    }

    /// A job that has ended changes only with the end of its redelivery.
    fn is_written_back(&self, old: &Row, attempts: &Attempts) -> TestCaseResult {
        let new = &self.moment.row;
        let Some(redelivery) = self.redelivery else {
            return Err(TestCaseError::fail("a finished job changes"));
        };
        prop_assert!(self.was_cancelled || redelivery.status == Status::Processing);
        prop_assert_eq!(counts(new), counts(redelivery));
        prop_assert_eq!(&new.result, &old.result);
        prop_assert_eq!((new.due, new.is_over), (None, true));
        let redeemed = (Transition::Redeem.from(), Transition::Redeem.to());
        if self.was_cancelled {
            prop_assert_eq!((new.status, new.failure), (old.status, old.failure));
        } else if (old.status, new.status) == redeemed {
            let end = end_of_redelivery(self.id, redelivery, attempts);
            prop_assert_eq!(end, End::Completed);
        } else {
            prop_assert_eq!(new.status, old.status);
        }
        prop_assert_eq!(new.failure.is_some(), new.status == Status::Failed);
        Ok(())
    }

    /// A redelivery that is over has left its counts and its outcome to its job.
    fn is_ended(&self, attempts: &Attempts) -> TestCaseResult {
        let (row, job) = (&self.moment.row, self.job.unwrap());
        prop_assert_eq!(counts(job), counts(row));
        if self.was_cancelled {
            return Ok(());
        }
        prop_assert_eq!(row.status, Status::Processing, "deleted unclaimed");
        let end = end_of_redelivery(self.id, row, attempts);
        prop_assert!(job.status == Status::Completed || end != End::Completed);
        if let Some(failure) = job.failure {
            prop_assert_eq!(failure == FailureReason::Poison, end == End::Poisoned);
        }
        Ok(())
    }

    /// The same rules for a job and a redelivery until they end.
    fn is_step(&self, old: &Row, attempts: &Attempts) -> TestCaseResult {
        let new = &self.moment.row;
        let is_it = |it: Transition| (it.from(), it.to()) == (old.status, new.status);
        prop_assert!(
            Transition::ALL.into_iter().any(is_it)
                || (old.status, new.status) == (Status::Processing, Status::Processing),
            "from {} to {}",
            old.status,
            new.status
        );
        let is_claim = self.is_claim();
        prop_assert!(
            !(is_claim && self.moment.is_paused),
            "claimed while everything is paused"
        );
        prop_assert_eq!(
            new.claim,
            old.claim + i64::from(is_claim),
            "its fencing token"
        );
        prop_assert!(new.attempts >= old.attempts, "its attempts decrease");
        prop_assert_eq!(new.attempts_before, old.attempts_before);
        let end = self.end(attempts);
        match end {
            None | Some(End::Requeued) => prop_assert_eq!(new.parked, old.parked),
            Some(End::Parked) => prop_assert!(new.parked.is_some(), "parked since when?"),
            Some(_) => prop_assert_eq!(new.parked, None, "parked for ever"),
        }
        let is_cleared = new.lost_claims == 0 && matches!(end, Some(End::Scheduled));
        prop_assert!(
            is_cleared
                || (0..=1).contains(&(i64::from(new.lost_claims) - i64::from(old.lost_claims))),
            "its lost claims"
        );
        prop_assert!(
            old.result.is_none() || new.result == old.result,
            "its result changes"
        );
        // A poison redelivery loses its owner before it is deleted.
        let is_poison = new.failure == Some(FailureReason::Poison)
            || (self.moment.work == Work::Redelivery
                && new.status == Status::Processing
                && new.owner.is_none());
        if is_poison {
            prop_assert_eq!(self.moment.beside_it, 0, "poison although among others");
            prop_assert!(new.lost_claims >= 2, "poison too early");
        }
        prop_assert_eq!(
            new.owner.is_none(),
            new.status == Status::Pending || is_poison,
            "only what its worker holds or has ended has an owner"
        );
        prop_assert!(
            is_claim || new.owner.is_none() || new.owner == old.owner,
            "its owner changes"
        );
        let is_over = matches!(new.status, Status::Completed | Status::Failed);
        prop_assert_eq!(new.is_over, is_over);
        prop_assert_eq!(new.failure.is_some(), new.status == Status::Failed);
        prop_assert_eq!(
            new.due.is_some(),
            new.status == Status::Pending,
            "only what is PENDING has a due time"
        );
        Ok(())
    }
}

/// Every claim that may cause a duplicate delivery has one event, in order, under its number.
fn events_match(
    id: RequestId,
    moments: &[Moment],
    attempts: &Attempts,
    events: &[Entry],
) -> TestCaseResult {
    let mut events = events.iter();
    for change in changes(id, moments) {
        let (Some(old), Some(end)) = (change.old(), change.end(attempts)) else {
            continue;
        };
        let new = &change.moment.row;
        let may_be: &[EventKind] = match end {
            // No event: a success, or no attempt.
            End::Completed | End::Parked | End::Cancelled => continue,
            End::Failed if last_attempt(id, new, attempts).is_none() => continue,
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

/// What a redelivery leaves to its request.
fn counts(row: &Row) -> (i64, Option<OwnerId>, u32, u32, u32) {
    (
        row.claim,
        row.owner,
        row.attempts,
        row.lost_claims,
        row.parks,
    )
}

/// How the claim on a redelivery, as it was last, ended.
fn end_of_redelivery(id: RequestId, last: &Row, attempts: &Attempts) -> End {
    match last_attempt(id, last, attempts) {
        _ if last.owner.is_none() => End::Poisoned,
        Some(AttemptClass::Success) => End::Completed,
        _ => End::Failed,
    }
}

/// The class of the last attempt, if its claim made one.
fn last_attempt(id: RequestId, row: &Row, attempts: &Attempts) -> Option<AttemptClass> {
    let (class, claim) = attempts.get(&(id, row.attempts))?;
    (*claim == row.claim).then_some(*class)
}
