//! The answers to actions by filter, matched one to one with their records in the store's audit.

use super::super::{index::Index, not_later};
use crate::chaos::history::{Filter, FilterAnswer, FilterApplied, FilterAsked, FilterCounts};

/// What answers and records leave over when they are matched.
#[derive(Debug, Default)]
pub(super) struct Matched<'a> {
    /// The records with the requests that explain them.
    pub(super) pairs: Vec<(&'a FilterAsked, &'a FilterApplied)>,
    /// The `200` without a record.
    pub(super) unrecorded: Vec<&'a FilterAsked>,
    /// The records that no request explains.
    pub(super) unasked: Vec<&'a FilterApplied>,
}

impl<'a> Matched<'a> {
    pub(super) fn of(index: &Index<'a>) -> Self {
        let applied = index.filters_applied.iter().copied();
        let mut rest: Vec<_> = applied
            .map(|it| (it, serde_json::from_str::<Filter>(&it.filter).ok()))
            .collect();
        let mut matched = Self::default();
        let mut take = |asked: &'a FilterAsked, counts: Option<&FilterCounts>| {
            let is_its_own = |(applied, filter): &(&FilterApplied, Option<Filter>)| {
                let by = counts.map(|_| asked.at);
                (applied.action, applied.dry_run) == (asked.action, asked.dry_run)
                    && filter.as_ref() == Some(&asked.filter)
                    && counts.is_none_or(|counts| {
                        (applied.matched, applied.changed) == (counts.matched, counts.changed)
                    })
                    && not_later(asked.asked_at, applied.at)
                    && by.is_none_or(|by| not_later(applied.not_before, by))
            };
            let found = rest.iter().position(is_its_own);
            found.map(|index| rest.remove(index).0)
        };
        for asked in index.filters_asked.iter().copied() {
            if let FilterAnswer::Done(counts) = &asked.answer {
                match take(asked, Some(counts)) {
                    Some(applied) => matched.pairs.push((asked, applied)),
                    None => matched.unrecorded.push(asked),
                }
            }
        }
        // The others may have been done once each, also after the operator gave up.
        for asked in index.filters_asked.iter().copied() {
            if let FilterAnswer::Unknown(_) = asked.answer {
                matched
                    .pairs
                    .extend(take(asked, None).map(|applied| (asked, applied)));
            }
        }
        matched.unasked = rest.into_iter().map(|(applied, _)| applied).collect();
        matched
    }
}
