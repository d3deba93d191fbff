//! Rows moved only as the contract allows.

#[cfg(test)]
mod tests;

use storm_shared::models::Status;

use super::{fences, index::Job, is_over};
use crate::chaos::history::{Held, Limits, Moved};

pub(super) fn check(job: &Job<'_>, _: &Limits) -> Vec<String> {
    let Some(first) = job.moves.first() else {
        let unrecorded = "it has a row, and no move of it was recorded";
        return job.row.map(|_| unrecorded.to_owned()).into_iter().collect();
    };
    // What comes after a write past a fence proves nothing more. That write is the fences' own.
    let past = fences::first_write_past(&job.moves);
    let judged = &job.moves[..past.unwrap_or(job.moves.len())];

    let mut found: Vec<String> = wrong_insert(first, job.is_sync()).into_iter().collect();
    found.extend(judged.windows(2).filter_map(|pair| gap(pair[0], pair[1])));
    found.extend(judged.iter().filter_map(|moved| wrong_move(moved)));
    if let Some(last) = judged.last()
        && past.is_none()
    {
        found.extend(wrong_end(last, job));
    }
    found
}

fn wrong_insert(first: &Moved, sync: bool) -> Option<String> {
    if first.before.is_some() {
        return Some("its insert was not recorded".to_owned());
    }
    let held = &first.after;
    let status_fits = if sync {
        is_over(held.status)
    } else {
        held.status == Status::Pending && held.result.is_none()
    };
    let untouched =
        held.claim == 0 && held.owner.is_none() && held.attempts == 0 && held.lost_claims == 0;
    (!status_fits || !untouched).then(|| format!("it was inserted as {}", words(held)))
}

/// Where a row was not what its last move had made of it.
fn gap(former: &Moved, next: &Moved) -> Option<String> {
    match &next.before {
        None => Some(format!("it was inserted again at {:.3}", next.at)),
        Some(before) => (*before != former.after).then(|| {
            format!(
                "a move is missing before {:.3}: it was left {}, and found {}",
                next.at,
                words(&former.after),
                words(before)
            )
        }),
    }
}

fn wrong_end(last: &Moved, job: &Job<'_>) -> Option<String> {
    match job.row {
        Some(row) => (row.held != last.after).then(|| {
            format!(
                "its last move left it {}, and its row is {}",
                words(&last.after),
                words(&row.held)
            )
        }),
        // A promised job without a row is lost, which is another rule's.
        None if job.promises.is_empty() => Some("its row was deleted".to_owned()),
        None => None,
    }
}

fn wrong_move(moved: &Moved) -> Option<String> {
    let before = moved.before.as_ref().filter(|_| !moved.is_unparking())?;
    let what = wrong_step(before, &moved.after).or_else(|| wrong_value(before, &moved.after))?;
    Some(format!(
        "{what} at {:.3}: {} became {}",
        moved.at,
        words(before),
        words(&moved.after)
    ))
}

/// What is wrong with the step from one status, claim and owner to the next.
fn wrong_step(before: &Held, after: &Held) -> Option<&'static str> {
    use Status::{Completed, Failed, Pending, Processing};

    let same_claim = before.claim == after.claim;
    let same_owner = before.owner == after.owner;
    match (before.status, after.status) {
        (Completed | Failed, _) => Some("it changed after its end"),
        (Pending, Processing) => wrong_claim(before, after),
        (Processing, _) if !same_claim => Some("its claim changed hands without a new claim"),
        (Processing, Processing | Completed) if !same_owner => {
            Some("its owner changed under the same claim")
        }
        (Processing, Processing | Completed) if before.lost_claims != after.lost_claims => {
            Some("it lost a claim that goes on")
        }
        (Processing, Completed) if after.result.is_none() => Some("it completed without a result"),
        (Processing, Pending) if after.owner.is_some() => Some("it came back and kept its owner"),
        // Whoever condemns a job isn't its owner, and may say so by leaving none.
        (Processing, Failed) if !same_owner && after.owner.is_some() => {
            Some("its owner changed under the same claim")
        }
        (Processing, _) => None,
        (Pending, _) => Some("it changed while nobody held it"),
    }
}

fn wrong_claim(before: &Held, after: &Held) -> Option<&'static str> {
    if after.claim != before.claim + 1 {
        Some("it was claimed under the wrong number")
    } else if after.owner.is_none() {
        Some("it was claimed by nobody")
    } else if (before.attempts, before.lost_claims, &before.result)
        != (after.attempts, after.lost_claims, &after.result)
    {
        Some("a claim changed more than the claim")
    } else {
        None
    }
}

/// What is wrong with the numbers and the result, whatever the step.
fn wrong_value(before: &Held, after: &Held) -> Option<&'static str> {
    let attempted = after.attempts - before.attempts;
    let parked = after.parks - before.parks;
    // An attempt with an outcome, or that none was made at the end of the work, shows that the job kills
    // nobody: the count begins anew.
    let survived = attempted == 1 || parked == 1;
    let cleared = survived && after.status == Status::Pending && after.lost_claims == 0;
    let lost = if cleared {
        0
    } else {
        after.lost_claims - before.lost_claims
    };
    if before.result.is_some() && before.result != after.result {
        Some("a stored result changed")
    } else if !(0..=1).contains(&attempted) {
        Some("its attempts changed by more than one, or went down")
    } else if parked != 0 && (parked, attempted, after.status) != (1, 0, Status::Pending) {
        Some("it was put off otherwise than once, without an attempt, to wait")
    } else if !(0..=1).contains(&lost) {
        Some("its lost claims changed by more than one, or went down")
    } else if lost == 1 && (attempted, &before.result) != (0, &after.result) {
        Some("a lost claim was charged as an attempt, or stored a result")
    } else {
        None
    }
}

/// A row in words.
fn words(held: &Held) -> String {
    let owner = held
        .owner
        .as_deref()
        .map_or("nobody".to_owned(), |owner| format!("`{owner}`"));
    format!(
        "{} (claim {} of {owner}, {} attempts, {} lost claims, {})",
        held.status,
        held.claim,
        held.attempts,
        held.lost_claims,
        held.result.as_deref().map_or("no result", |_| "a result")
    )
}
