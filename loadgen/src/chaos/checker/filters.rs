//! Rule `filters`: an operator's action changes requests that matched its filter, all of them
//! within its page, and nothing else; a dry run changes nothing. The counts in the answer are those
//! of the record in the audit, and both are true. Each page that was done has one record.
//!
//! A change that belongs to no record needs a client's request: the rules `cancels` and `named`. So
//! a page is done as a whole, with its record, or not at all.

mod matched;
mod selection;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use jiff::Timestamp;
use storm_shared::models::RequestId;

use self::{matched::Matched, selection::Selection};
use super::{
    index::{Index, JobHistory},
    verdict::Finding,
};
use crate::chaos::history::{
    FilterAction, FilterAnswer, FilterApplied, FilterAsked, FilterCounts, HistoryLimits,
};

pub(super) fn check(index: &Index<'_>, _: &HistoryLimits) -> Vec<Finding> {
    let matched = Matched::of(index);
    let mut found: Vec<Finding> = Vec::new();
    found.extend(matched.unrecorded.iter().map(|asked| {
        let what = "and the audit has no such record";
        Finding::from(format!("{} was answered with 200, {what}", name(asked)))
    }));
    found.extend(matched.unasked.iter().map(|applied| {
        Finding::from(format!(
            "the audit has the record of a page to {} by {:.3}, and no request explains it",
            applied.action.as_str(),
            applied.at
        ))
    }));
    found.extend(
        index
            .filters_applied
            .iter()
            .filter_map(|it| wrong_record(it)),
    );
    for asked in &index.filters_asked {
        let wrong = wrong_answer(asked).into_iter();
        found.extend(wrong.map(|what| Finding::from(format!("{}: {what}", name(asked)))));
    }
    for (asked, applied) in matched.pairs {
        let page = Page {
            index,
            asked,
            from: asked.asked_at,
            // A dry run has read before its answer, and so has one before its commit.
            to: applied.at,
        };
        found.extend(page.wrongly(&applied.ids, "was changed"));
        if let FilterAnswer::Done(counts) = &asked.answer {
            found.extend(page.wrongly(counts.ids.as_deref().unwrap_or_default(), "was listed"));
            found.extend(page.left_out(counts, &applied.ids));
            found.extend(page.too_many(counts));
        }
    }
    found
}

/// A request, in words.
fn name(asked: &FilterAsked) -> String {
    let dry_run = if asked.dry_run { "the dry run of " } else { "" };
    let filter = serde_json::to_string(&asked.filter).unwrap_or_default();
    let action = asked.action.as_str();
    format!("{dry_run}a page to {action} {filter} at {:.3}", asked.at)
}

/// A record whose count is not that of the changes before it.
fn wrong_record(applied: &FilterApplied) -> Option<Finding> {
    let made = applied.ids.len() as u64;
    let what = if applied.dry_run && applied.changed > 0 {
        "a dry run".to_owned()
    } else if made != applied.changed {
        format!("{made} changes before it")
    } else {
        return None;
    };
    Some(Finding::from(format!(
        "the record of a page to {} by {:.3} says that it has changed {}, and it is of {what}",
        applied.action.as_str(),
        applied.at,
        applied.changed
    )))
}

/// An answer that contradicts itself or its request.
fn wrong_answer(asked: &FilterAsked) -> Option<String> {
    let counts = match &asked.answer {
        FilterAnswer::Done(counts) => counts,
        // Under load or a fault.
        FilterAnswer::Refused(503) | FilterAnswer::Unknown(_) => return None,
        FilterAnswer::Refused(status) => {
            return Some(format!("{status}, and no fault of this run can cause that"));
        }
    };
    let would_change = counts.ids.as_ref().map(|ids| ids.len() as u64);
    let left = counts.skipped + would_change.unwrap_or(counts.changed);
    let is_before = |cursor| asked.cursor.is_some_and(|asked| cursor <= asked);
    Some(if counts.dry_run != asked.dry_run {
        format!("it says that `dry_run` is {}", counts.dry_run)
    } else if counts.dry_run != counts.ids.is_some() || counts.dry_run && counts.changed > 0 {
        "a dry run lists its ids and changes nothing, and only a dry run does".to_owned()
    } else if left != counts.matched {
        let matched = counts.matched;
        format!("its counts make {left}, and it says that {matched} matched")
    } else if asked.limit.is_some_and(|limit| counts.matched > limit) {
        format!("{} matched, more than its limit", counts.matched)
    } else if counts.cursor.is_some_and(is_before) {
        "its cursor is not after that of the page before".to_owned()
    } else {
        return None;
    })
}

/// A page that was done, or tried out, between two moments.
struct Page<'i, 'a> {
    index: &'i Index<'a>,
    asked: &'a FilterAsked,
    from: Timestamp,
    to: Timestamp,
}

impl<'i, 'a> Page<'i, 'a> {
    fn selection(&self) -> Selection<'a> {
        Selection::of(self.asked.action, &self.asked.filter)
    }

    /// The cursor that it ended at, as it was answered.
    fn end(&self) -> Option<RequestId> {
        match &self.asked.answer {
            FilterAnswer::Done(counts) => counts.cursor,
            _ => None,
        }
    }

    /// The jobs that the page may have: those between its cursors, or of its ids.
    fn jobs(&self) -> Box<dyn Iterator<Item = &'i JobHistory<'a>> + 'i> {
        let named = &self.asked.filter.ids;
        if named.is_empty() {
            Box::new(self.index.jobs_within(self.asked.cursor, self.end()))
        } else {
            let named: HashSet<_> = named.iter().collect();
            let index = self.index;
            Box::new(named.into_iter().filter_map(|id| index.find(*id)))
        }
    }

    /// The requests that were changed, or listed, and did not match at any moment.
    fn wrongly(&self, ids: &[RequestId], what: &str) -> Vec<Finding> {
        let (after, end) = (self.asked.cursor, self.end());
        let mut seen = HashSet::new();
        let wrong = ids.iter().filter_map(|id| {
            let job = self.index.find(*id);
            let why = if !seen.insert(id) {
                "twice"
            } else if after.is_some_and(|after| *id <= after) || end.is_some_and(|end| *id > end) {
                "and is not between the cursors"
            } else if job.is_none_or(|it| !self.selection().may_match(it, self.from, self.to)) {
                "and did not match"
            } else {
                return None;
            };
            Some(Finding {
                id: Some(*id),
                what: format!("it {what} by {}, {why}", name(self.asked)),
            })
        });
        wrong.collect()
    }

    /// The requests that matched all the time, and were not changed, or not listed.
    fn left_out(&self, counts: &FilterCounts, changed: &[RequestId]) -> Vec<Finding> {
        let acted_on: HashSet<_> = match &counts.ids {
            Some(ids) => ids.iter().collect(),
            None => changed.iter().collect(),
        };
        let jobs = self.jobs().filter(|job| !acted_on.contains(&job.id));
        let left_out: Vec<_> = jobs
            .filter(|job| self.selection().must_match(job, self.from, self.to))
            .collect();
        // A redelivery whose receiver has too many already is skipped, and counted as that.
        let skipped = match self.asked.action {
            FilterAction::Redeliver => usize::try_from(counts.skipped).unwrap_or(usize::MAX),
            FilterAction::Cancel => 0,
        };
        let left_out = left_out.into_iter().skip(skipped);
        let found = left_out.map(|job| Finding {
            id: Some(job.id),
            what: format!(
                "it matched from {:.3} to {:.3}, and was left out by {}",
                self.from,
                self.to,
                name(self.asked)
            ),
        });
        found.collect()
    }

    /// More matches than there can be.
    fn too_many(&self, counts: &FilterCounts) -> Option<Finding> {
        let jobs = self.jobs();
        let most = jobs.filter(|job| self.selection().may_match(job, self.from, self.to));
        let most = most.take(usize::try_from(counts.matched).unwrap_or(usize::MAX));
        let most = most.count() as u64;
        (most < counts.matched).then(|| {
            Finding::from(format!(
                "{} says that {} matched, and {most} can have",
                name(self.asked),
                counts.matched
            ))
        })
    }
}
