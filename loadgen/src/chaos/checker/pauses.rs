//! Rule `pauses`: while everything is paused, no claim succeeds; while an origin is paused, no
//! callback to it is read later than an attempt may last that had begun before. A pause holds until
//! it is resumed, and every one is resumed. Each change has one record in the audit.
//!
//! That the jobs go on after it is a matter of the rules `ended` and `waits`.

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;

use super::{index::Index, late::first_late, not_later, series::is_claim, verdict::Finding};
use crate::chaos::history::{HistoryLimits, PauseAnswer, PauseAsked, PauseChanged};

/// A time in which everything, or an origin, was paused.
#[derive(Clone, Debug)]
pub(super) struct Pause {
    /// None for everything.
    pub(super) origin: Option<String>,
    /// The bounds of the moment at which it began.
    begun: (Timestamp, Timestamp),
    /// Of that at which it ended; none if it has not.
    ended: Option<(Timestamp, Timestamp)>,
}

impl Pause {
    /// Every pause, from the changes in commit order.
    pub(super) fn all(changes: &[&PauseChanged]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for change in changes {
            let bounds = (change.not_before, change.at);
            let open = all
                .iter_mut()
                .find(|it| it.ended.is_none() && it.origin == change.origin);
            match open {
                Some(open) if !change.paused => open.ended = Some(bounds),
                None if change.paused => all.push(Self {
                    origin: change.origin.clone(),
                    begun: bounds,
                    ended: None,
                }),
                // The table has one row for each.
                _ => {}
            }
        }
        all
    }

    /// Whether it was in force at some moment between these two.
    pub(super) fn may_overlap(&self, from: Timestamp, to: Timestamp) -> bool {
        let ended = self.ended.is_some_and(|(_, at)| !not_later(from, at));
        not_later(self.begun.0, to) && !ended
    }

    /// Whether it was in force from the first of these to the other.
    fn contains(&self, from: Timestamp, to: Timestamp) -> bool {
        let ends = self.ended.is_none_or(|(earliest, _)| to < earliest);
        self.begun.1 < from && ends
    }

    fn name(&self) -> String {
        name(self.origin.as_deref())
    }
}

fn name(origin: Option<&str>) -> String {
    origin.map_or_else(|| "everything".to_owned(), |origin| format!("`{origin}`"))
}

pub(super) fn check(index: &Index<'_>, limits: &HistoryLimits) -> Vec<Finding> {
    let pauses = Pause::all(&index.pause_changes);
    let mut found = wrong_answers(index, &pauses);
    found.extend(unasked(index));
    let wrong = index.pause_changes.iter().filter(|it| it.audited != 1);
    found.extend(wrong.map(|change| {
        Finding::from(format!(
            "the pause or resumption of {} by {:.3} is recorded {} times in the audit",
            name(change.origin.as_deref()),
            change.at,
            change.audited
        ))
    }));
    for pause in &pauses {
        if pause.ended.is_none() {
            let what = format!("{} is paused at the end of the run", pause.name());
            found.push(what.into());
        }
        if pause.origin.is_none() {
            found.extend(claims(index, pause));
        } else {
            found.extend(callbacks(index, pause, limits));
        }
    }
    found
}

/// Answers that were true at no moment between the request and the answer.
fn wrong_answers(index: &Index<'_>, pauses: &[Pause]) -> Vec<Finding> {
    let wrong = |asked: &&PauseAsked| {
        let (from, to) = (asked.asked_at, asked.at);
        let mut own = pauses.iter().filter(|it| it.origin == asked.origin);
        let why = match &asked.answer {
            PauseAnswer::Done { .. } if asked.pauses => {
                let is_paused = own.any(|pause| pause.may_overlap(from, to));
                (!is_paused).then_some("it was not paused")
            }
            PauseAnswer::Done { .. } => own
                .any(|pause| pause.contains(from, to))
                .then_some("it was paused all the time"),
            // Under load or a fault.
            PauseAnswer::Refused(503) | PauseAnswer::Unknown(_) => None,
            PauseAnswer::Refused(_) => Some("no fault of this run can cause that"),
        };
        let status = match asked.answer {
            PauseAnswer::Refused(status) => status,
            _ => 200,
        };
        let what = if asked.pauses { "pause" } else { "resumption" };
        why.map(|why| {
            Finding::from(format!(
                "the {what} of {} was answered with {status} at {:.3}, and {why}",
                name(asked.origin.as_deref()),
                asked.at
            ))
        })
    };
    index.pauses_asked.iter().filter_map(wrong).collect()
}

/// What the answers and the changes leave over when they are matched one to one: a change that no
/// request explains, and an answer that something has changed, and nothing has.
fn unasked(index: &Index<'_>) -> Vec<Finding> {
    let mut changes = index.pause_changes.clone();
    let mut found = Vec::new();
    let mut take = |asked: &PauseAsked, by: Option<Timestamp>| {
        let its_own = changes.iter().position(|change| {
            (&change.origin, change.paused) == (&asked.origin, asked.pauses)
                && not_later(asked.asked_at, change.at)
                && by.is_none_or(|by| not_later(change.not_before, by))
        });
        its_own.map(|index| changes.remove(index)).is_some()
    };
    for asked in &index.pauses_asked {
        let done = PauseAnswer::Done { changed: true };
        if asked.answer == done && !take(asked, Some(asked.at)) {
            let what = format!(
                "a 200 at {:.3} says that it has changed what is paused, and nothing has changed",
                asked.at
            );
            found.push(what.into());
        }
    }
    // The others may have changed it once each, also after the client gave up. The API repeats a
    // write whose outcome it does not know: the repeat then finds that it is so already.
    for asked in &index.pauses_asked {
        match asked.answer {
            PauseAnswer::Done { changed: false } => take(asked, Some(asked.at)),
            PauseAnswer::Unknown(_) => take(asked, None),
            _ => false,
        };
    }
    found.extend(changes.iter().map(|change| {
        let what = if change.paused { "paused" } else { "resumed" };
        Finding::from(format!(
            "{} was {what} by {:.3}, and no request explains it",
            name(change.origin.as_deref()),
            change.at
        ))
    }));
    found
}

/// The first claim of each job while everything was paused.
fn claims(index: &Index<'_>, pause: &Pause) -> Vec<Finding> {
    let claimed = index.jobs().filter_map(|job| {
        let mut moves = job.moves.iter().filter(|moved| is_claim(moved));
        let claim = moves.find(|moved| pause.contains(moved.earliest(), moved.at))?;
        Some(Finding {
            id: Some(job.id),
            what: format!(
                "it was claimed by {:.3}, and everything was paused by {:.3}",
                claim.at, pause.begun.1
            ),
        })
    });
    claimed.collect()
}

/// The first callback of each job that is too late for a paused origin.
fn callbacks(index: &Index<'_>, pause: &Pause, limits: &HistoryLimits) -> Vec<Finding> {
    let late = index.jobs().filter_map(|job| {
        let callbacks = job.callbacks.iter().copied();
        let meanwhile =
            callbacks.filter(|it| it.origin == pause.origin && pause.contains(it.at, it.at));
        let late = first_late(meanwhile, pause.begun.1, &index.faults, limits)?;
        Some(Finding {
            id: Some(job.id),
            what: format!(
                "a callback was read at {:.3}, and {} was paused by {:.3}",
                late.at,
                pause.name(),
                pause.begun.1
            ),
        })
    });
    late.collect()
}

/// The longest wait of a job that is parked between these moments, if its receiver may have been
/// paused. A worker learns of a resumption as late as of a pause.
pub(super) fn longest_paused(
    pauses: &[Pause],
    from: Timestamp,
    to: Timestamp,
    limits: &HistoryLimits,
) -> Option<Duration> {
    let late = Duration::from_millis(limits.cancel_grace);
    let mut pauses = pauses.iter();
    let is_paused = pauses.any(|pause| pause.may_overlap(from - late, to));
    is_paused.then(|| Duration::from_millis(limits.longest_paused))
}
