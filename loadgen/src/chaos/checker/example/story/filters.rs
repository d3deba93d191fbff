//! The steps of an operator's action by filter, on a page of one request.

use storm_shared::models::RequestId;

use super::{STEP, Story};
use crate::chaos::history::{
    Filter, FilterAction, FilterAnswer, FilterApplied, FilterAsked, FilterCounts, Record, RowKind,
};

impl Story {
    /// The job is cancelled by a filter.
    pub(in super::super::super) fn cancelled_by(self, filter: Filter) -> Self {
        self.by_filter(FilterAction::Cancel, filter, Self::cancelled)
    }

    /// The redelivery is cancelled by a filter.
    pub(in super::super::super) fn redelivery_cancelled_by(self, filter: Filter) -> Self {
        self.by_filter(FilterAction::Cancel, filter, Self::redelivery_cancelled)
    }

    /// A redelivery begins by a filter.
    pub(in super::super::super) fn redelivering_by(self, filter: Filter) -> Self {
        self.by_filter(FilterAction::Redeliver, filter, Self::redelivery_inserted)
    }

    /// A dry run lists this request, if it is `listed`.
    pub(in super::super::super) fn tried_out(
        self,
        action: FilterAction,
        filter: Filter,
        listed: bool,
    ) -> Self {
        let counts = FilterCounts {
            dry_run: true,
            matched: listed.into(),
            changed: 0,
            skipped: 0,
            ids: Some(self.id)
                .filter(|_| listed)
                .into_iter()
                .collect::<Vec<_>>()
                .into(),
            cursor: None,
        };
        self.later(STEP).page(action, filter, counts, Vec::new())
    }

    /// The reason of the job after its last change.
    pub(in super::super::super) fn for_reason(mut self, reason: &str) -> Self {
        let last = self
            .records
            .iter_mut()
            .rev()
            .find_map(|record| match record {
                Record::Transition(moved) => Some(moved),
                _ => None,
            });
        last.unwrap().reason = Some(reason.to_owned());
        self
    }

    fn by_filter(
        self,
        action: FilterAction,
        filter: Filter,
        act: impl FnOnce(Self) -> Self,
    ) -> Self {
        let is_before = self.records.clone();
        let mut story = act(self);
        for record in &mut story.records {
            if !is_before.contains(record)
                && let Record::Transition(moved) = record
            {
                moved.by_filter = true;
                if action == FilterAction::Cancel && moved.kind == RowKind::Job {
                    moved.reason = Some("cancelled".to_owned());
                }
            }
        }
        let counts = FilterCounts {
            dry_run: false,
            matched: 1,
            changed: 1,
            skipped: 0,
            ids: None,
            cursor: None,
        };
        let ids = vec![story.id];
        story.page(action, filter, counts, ids)
    }

    /// A page that was done a step ago, and its record.
    fn page(
        mut self,
        action: FilterAction,
        filter: Filter,
        counts: FilterCounts,
        ids: Vec<RequestId>,
    ) -> Self {
        let done = self.now - STEP;
        self.records.push(Record::FilterApplied(FilterApplied {
            at: done,
            not_before: done,
            action,
            filter: serde_json::to_string(&filter).unwrap(),
            matched: counts.matched,
            changed: counts.changed,
            dry_run: counts.dry_run,
            ids,
        }));
        let asked = FilterAsked {
            asked_at: done - STEP,
            at: self.now,
            action,
            dry_run: counts.dry_run,
            limit: filter.ids.is_empty().then_some(10),
            filter,
            cursor: None,
            answer: FilterAnswer::Done(counts),
        };
        self.push(Record::FilterAsked(asked));
        self
    }
}
