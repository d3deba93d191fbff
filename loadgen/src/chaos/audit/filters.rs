//! Which changes an operator's action by filter has made.
//!
//! One transaction makes the changes of a page and then its record in the store's audit. `SQLite`
//! has one writer, so they have consecutive numbers: the changes of a record are the last ones
//! before it, as many as it counts.

use storm_shared::models::{RequestId, Status};

use crate::chaos::history::{FilterAction, RowKind, Transition};

/// A change, with its number.
pub(super) type Numbered = (i64, Transition);

/// Marks the changes that belong to the record with this `number`, which counts `changed` of them.
/// Returns their requests in the order of the changes: fewer than `changed` if there are not so
/// many.
pub(super) fn mark(
    moves: &mut [Numbered],
    number: i64,
    action: FilterAction,
    changed: u64,
) -> Vec<RequestId> {
    let mut end = moves.partition_point(|(of, _)| *of < number);
    let mut last = number;
    let mut ids = Vec::new();
    while (ids.len() as u64) < changed {
        let Some(length) = length_of_last(&moves[..end], last, action) else {
            break;
        };
        let part = &mut moves[end - length..end];
        for (_, moved) in part.iter_mut() {
            moved.by_filter = true;
        }
        last = part[0].0;
        ids.push(part[0].1.id);
        end -= length;
    }
    ids.reverse();
    ids
}

/// How many of the last `moves` are one `action`, right before the change with this `number`.
fn length_of_last(moves: &[Numbered], number: i64, action: FilterAction) -> Option<usize> {
    let is_whole = |length: usize| {
        let part = moves.len().checked_sub(length).map(|from| &moves[from..])?;
        let numbers = part.iter().map(|(of, _)| *of);
        let id = part[0].1.id;
        let is_one = part.iter().all(|(_, moved)| moved.id == id)
            && numbers.eq(number - i64::try_from(length).ok()?..number);
        let moves: Vec<_> = part.iter().map(|(_, moved)| moved).collect();
        let fits = match (action, moves.as_slice()) {
            (FilterAction::Redeliver, [begun]) => is_beginning(begun),
            (FilterAction::Cancel, [end]) => is_end_of_job(end),
            (FilterAction::Cancel, [taken, job, end]) => is_end_of_redelivery(taken, job, end),
            _ => false,
        };
        (is_one && fits).then_some(length)
    };
    is_whole(1).or_else(|| is_whole(3))
}

fn is_beginning(moved: &Transition) -> bool {
    moved.kind == RowKind::Redelivery && moved.before.is_none()
}

/// The row has the next claim number, and no owner.
fn is_taken_away(moved: &Transition) -> bool {
    let before = moved.before.as_ref();
    moved.after.owner.is_none()
        && before.is_some_and(|before| moved.after.claim == before.claim + 1)
}

fn is_unfinished(status: Status) -> bool {
    matches!(status, Status::Pending | Status::Processing)
}

fn is_end_of_job(moved: &Transition) -> bool {
    let before = moved.before.as_ref().map(|before| before.status);
    moved.kind == RowKind::Job
        && before.is_some_and(is_unfinished)
        && moved.after.status == Status::Failed
        && is_taken_away(moved)
}

/// The row of the redelivery is taken away, its job gets what it has counted, and it is deleted.
fn is_end_of_redelivery(taken: &Transition, job: &Transition, end: &Transition) -> bool {
    let kinds = [taken, job, end].map(|moved| moved.kind);
    kinds == [RowKind::Redelivery, RowKind::Job, RowKind::Redelivery]
        && is_unfinished(taken.after.status)
        && is_taken_away(taken)
        && end.before.as_ref() == Some(&taken.after)
        && !is_unfinished(end.after.status)
}
