//! Rule `moves`: rows change only by the transitions of the contract.

#[cfg(test)]
mod tests;

use storm_shared::models::Status;

use super::{
    fences,
    index::JobHistory,
    is_final,
    series::{Series, is_cancel},
};
use crate::chaos::history::{HistoryLimits, RowKind, RowState, Transition};

pub(super) fn check(job: &JobHistory<'_>, _: &HistoryLimits) -> Vec<String> {
    if job.own.moves.is_empty() {
        let unrecorded = "it has a row and no recorded transition";
        return job.row.map(|_| unrecorded.to_owned()).into_iter().collect();
    }
    let wrong = |series| {
        let found = wrong_series(series, job).into_iter();
        found.map(|what| series.name(&what))
    };
    job.series().flat_map(wrong).collect()
}

fn wrong_series(series: &Series<'_>, job: &JobHistory<'_>) -> Vec<String> {
    // Nothing after a fenced write can be judged. The rule `fences` reports that write itself.
    let past = fences::first_fenced_write(series);
    let judged = &series.moves[..past.unwrap_or(series.moves.len())];

    let mut found = Vec::new();
    if let Some(first) = judged.first() {
        found.extend(match series.kind {
            RowKind::Job => wrong_insert(first, job.is_sync()),
            RowKind::Redelivery => wrong_beginning(first, series),
        });
    }
    found.extend(
        judged
            .windows(2)
            .filter_map(|pair| missing_transition(&pair[0], &pair[1])),
    );
    // What the end of a redelivery changes in its job is judged with the redelivery.
    let is_own =
        |moved: &&Transition| !job.redeliveries.iter().any(|it| it.has_written_back(moved));
    let own = judged.iter().map(AsRef::as_ref).filter(is_own);
    // A redelivery that tells of a failure has no result.
    let tells_failure = series.kind == RowKind::Redelivery && job.work_failure().is_some();
    found.extend(own.filter_map(|moved| wrong_move(moved, tells_failure)));
    if let Some(last) = judged.last()
        && past.is_none()
    {
        found.extend(match series.kind {
            RowKind::Job => wrong_end(last, job),
            RowKind::Redelivery => wrong_write_back(series, job),
        });
    }
    found
}

/// A redelivery that does not count on from a job that has ended.
fn wrong_beginning(first: &Transition, series: &Series<'_>) -> Option<String> {
    if first.before.is_some() {
        return Some("its insert was not recorded".to_owned());
    }
    let job = series.job.filter(|job| is_final(job.status));
    let Some(job) = job else {
        let job = series.job.map_or("unknown", |job| job.status.as_str());
        return Some(format!("its job was {job} when it began"));
    };
    let expected = RowState {
        status: Status::Pending,
        owner: None,
        lost_claims: 0,
        ..job.clone()
    };
    (first.after != expected).then(|| {
        format!(
            "it began as {}, and its job was {}",
            describe(&first.after),
            describe(job)
        )
    })
}

/// A redelivery whose end did not leave in its job what it has counted, and only that: a job that
/// was `FAILED` is `COMPLETED` if it was delivered now, and keeps its status otherwise. So does one
/// whose work failed.
fn wrong_write_back(series: &Series<'_>, history: &JobHistory<'_>) -> Option<String> {
    let (end, job) = (series.end()?, series.job?);
    let status = match (job.status, end.after.status) {
        (before, _) if history.work_failure().is_some() => before,
        (Status::Failed, Status::Completed) => Status::Completed,
        (before, _) => before,
    };
    let expected = RowState {
        status,
        ..end.after.clone()
    };
    let left = series.written_back.last().map_or(job, |last| &last.after);
    (*left != expected).then(|| {
        format!(
            "it ended as {}, and left its job, which had been {}, as {}",
            describe(&end.after),
            describe(job),
            describe(left)
        )
    })
}

fn wrong_insert(first: &Transition, sync: bool) -> Option<String> {
    if first.before.is_some() {
        return Some("its insert was not recorded".to_owned());
    }
    let state = &first.after;
    let status_fits = if sync {
        is_final(state.status)
    } else {
        state.status == Status::Pending && state.result.is_none()
    };
    let untouched =
        state.claim == 0 && state.owner.is_none() && state.attempts == 0 && state.lost_claims == 0;
    (!status_fits || !untouched).then(|| format!("it was inserted as {}", describe(state)))
}

/// A transition whose start is not the end of the previous one.
fn missing_transition(former: &Transition, next: &Transition) -> Option<String> {
    match &next.before {
        None => Some(format!("it was inserted again at {:.3}", next.at)),
        Some(before) => (*before != former.after).then(|| {
            format!(
                "a transition is missing before {:.3}: the row was {}, and then {}",
                next.at,
                describe(&former.after),
                describe(before)
            )
        }),
    }
}

fn wrong_end(last: &Transition, job: &JobHistory<'_>) -> Option<String> {
    match job.row {
        Some(row) => (row.state != last.after).then(|| {
            format!(
                "its last transition ended in {}, and its row is {}",
                describe(&last.after),
                describe(&row.state)
            )
        }),
        // An accepted job without a row is lost: that is reported by the rule `ended`.
        None if job.acceptances.is_empty() => Some("its row was deleted".to_owned()),
        None => None,
    }
}

fn wrong_move(moved: &Transition, tells_failure: bool) -> Option<String> {
    // An erasure is judged by the rule `erased`.
    let is_judged = !moved.is_unpark() && !moved.erases;
    let before = moved.before.as_ref().filter(|_| is_judged)?;
    let what = if is_cancel(moved) {
        wrong_cancel(before, &moved.after)?
    } else {
        wrong_step(before, &moved.after, tells_failure)
            .or_else(|| wrong_value(before, &moved.after))?
    };
    Some(format!(
        "{what} at {:.3}: {} became {}",
        moved.at,
        describe(before),
        describe(&moved.after)
    ))
}

/// Violations in the change of status, claim and owner.
fn wrong_step(before: &RowState, after: &RowState, tells_failure: bool) -> Option<&'static str> {
    use Status::{Completed, Failed, Pending, Processing};

    let same_claim = before.claim == after.claim;
    let same_owner = before.owner == after.owner;
    match (before.status, after.status) {
        // Only the end of a redelivery changes a finished job. `wrong_write_back` judges that.
        (Completed | Failed, _) => Some("it changed after its final status"),
        (Pending, Processing) => wrong_claim(before, after),
        (Processing, _) if !same_claim => Some("its fencing token changed without a new claim"),
        (Processing, Processing | Completed) if !same_owner => {
            Some("its owner changed under the same claim")
        }
        (Processing, Processing | Completed) if before.lost_claims != after.lost_claims => {
            Some("a lost claim was counted while the claim continued")
        }
        (Processing, Completed) if after.result.is_none() && !tells_failure => {
            Some("it completed without a result")
        }
        (Processing, Pending) if after.owner.is_some() => {
            Some("it became PENDING and kept its owner")
        }
        // A poison job is dead-lettered by another worker, which may clear the owner.
        (Processing, Failed) if !same_owner && after.owner.is_some() => {
            Some("its owner changed under the same claim")
        }
        (Processing, _) => None,
        (Pending, _) => Some("it changed while no worker held it"),
    }
}

fn wrong_claim(before: &RowState, after: &RowState) -> Option<&'static str> {
    if after.claim != before.claim + 1 {
        Some("its claim did not increment the fencing token by one")
    } else if after.owner.is_none() {
        Some("it was claimed without an owner")
    } else if (before.attempts, before.lost_claims, &before.result)
        != (after.attempts, after.lost_claims, &after.result)
    {
        Some("a claim changed other columns than status, claim and owner")
    } else {
        None
    }
}

fn wrong_cancel(before: &RowState, after: &RowState) -> Option<&'static str> {
    let expected = RowState {
        status: after.status,
        claim: after.claim,
        owner: None,
        ..before.clone()
    };
    (*after != expected)
        .then_some("a cancellation changed other columns than status, claim and owner")
}

/// Violations in the counters and the result.
fn wrong_value(before: &RowState, after: &RowState) -> Option<&'static str> {
    let attempted = after.attempts - before.attempts;
    let parked = after.parks - before.parks;
    // An attempt with an outcome, or parking after the work, proves that the job does not kill its
    // worker: the count of lost claims restarts at zero.
    let survived = attempted == 1 || parked == 1;
    let cleared = survived && after.status == Status::Pending && after.lost_claims == 0;
    let lost = if cleared {
        0
    } else {
        after.lost_claims - before.lost_claims
    };
    // A result is stored before its first callback or with the first outcome, and never computed
    // again: a change would break the promise that every attempt sends the same bytes. A lost claim
    // counts as no attempt, because the outcome of the attempt in progress is unknown.
    if before.result.is_some() && before.result != after.result {
        Some("a stored result changed")
    } else if !(0..=1).contains(&attempted) {
        Some("its attempts increased by more than one, or decreased")
    } else if parked != 0 && (parked, attempted, after.status) != (1, 0, Status::Pending) {
        Some("parking did not add one to `parks`, leave `attempts` and make it PENDING")
    } else if !(0..=1).contains(&lost) {
        Some("its lost claims increased by more than one, or decreased")
    } else if lost == 1 && (attempted, &before.result) != (0, &after.result) {
        Some("a lost claim was counted as an attempt, or stored a result")
    } else {
        None
    }
}

/// A row's state in words.
fn describe(state: &RowState) -> String {
    let owner = state
        .owner
        .as_deref()
        .map_or("no owner".to_owned(), |owner| format!("`{owner}`"));
    format!(
        "{} (claim {} of {owner}, {} attempts, {} lost claims, {} parks, {})",
        state.status,
        state.claim,
        state.attempts,
        state.lost_claims,
        state.parks,
        state.result.as_deref().map_or("no result", |_| "a result")
    )
}
