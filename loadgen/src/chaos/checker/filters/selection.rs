//! Whether a filter matches a request, by the history: it may have, or must have, at some moment or
//! all the time between two others.

use jiff::Timestamp;
use storm_shared::models::Status;

use super::super::{asked::is_under_way, index::JobHistory, is_final, not_later, series::Series};
use crate::chaos::history::{Filter, FilterAction, RowState, Transition};

/// A filter, and what is done to the requests that match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selection<'a> {
    action: FilterAction,
    filter: &'a Filter,
}

/// A time in which the row of a job did not change.
struct Span<'s> {
    state: &'s RowState,
    reason: Option<&'s str>,
    begun: &'s Transition,
    /// The bounds of the moment of the next change; none: there was none.
    until: Option<(Timestamp, Timestamp)>,
}

impl Span<'_> {
    fn may_overlap(&self, from: Timestamp, to: Timestamp) -> bool {
        not_later(self.begun.earliest(), to)
            && self.until.is_none_or(|(_, latest)| not_later(from, latest))
    }

    fn is_unfinished(&self) -> bool {
        !is_final(self.state.status)
    }
}

fn spans<'s>(job: &'s JobHistory<'_>) -> impl Iterator<Item = Span<'s>> {
    let moves = job.own.moves.iter().map(AsRef::as_ref);
    let next = moves.clone().skip(1).map(Some).chain([None]);
    let deleted = job.deleted.map(|deleted| (deleted.not_before, deleted.at));
    moves
        .zip(next)
        .map(move |(moved, next): (&Transition, _)| Span {
            state: &moved.after,
            reason: moved.reason.as_deref(),
            begun: moved,
            until: next
                .map(|next: &Transition| (next.earliest(), next.at))
                .or(deleted),
        })
}

impl<'a> Selection<'a> {
    pub(super) fn of(action: FilterAction, filter: &'a Filter) -> Self {
        Self { action, filter }
    }

    /// Whether the request matched at some moment between these two, as far as is known: the
    /// filter, and that the action could be done.
    pub(super) fn may_match(&self, job: &JobHistory<'_>, from: Timestamp, to: Timestamp) -> bool {
        if !self.names(job) {
            return false;
        }
        let is_possible = match self.action {
            FilterAction::Cancel => is_under_way(job, from, to),
            FilterAction::Redeliver => {
                let erasure = job.erasure();
                let mut all_the_time = job.redeliveries.iter();
                erasure.is_none_or(|it| not_later(from, it.at))
                    && !all_the_time.any(|series| surely_covers(series, from, to))
            }
        };
        let mut spans = spans(job).filter(|span| span.may_overlap(from, to));
        spans.any(|span| self.fits(&span, job, is_possible))
    }

    /// Whether the request certainly matched all the time from the first of these moments to the
    /// other.
    pub(super) fn must_match(&self, job: &JobHistory<'_>, from: Timestamp, to: Timestamp) -> bool {
        let existed = job
            .own
            .begun()
            .is_some_and(|begun| !not_later(from, begun.at));
        if !self.names(job) || !existed {
            return false;
        }
        let is_possible = match self.action {
            FilterAction::Cancel => {
                let mut redeliveries = job.redeliveries.iter();
                redeliveries.any(|series| surely_covers(series, from, to))
            }
            FilterAction::Redeliver => {
                let erasure = job.erasure();
                erasure.is_none_or(|it| !not_later(it.earliest(), to))
                    && !is_under_way(job, from, to)
            }
        };
        let is_kept = job.deleted.is_none_or(|it| !not_later(it.not_before, to));
        let mut spans = spans(job).filter(|span| span.may_overlap(from, to));
        is_kept && spans.all(|span| self.fits(&span, job, is_possible))
    }

    /// Whether the row fits in this state. `is_possible`: whether the redelivery that may be in
    /// progress is no obstacle, or is there to be cancelled.
    fn fits(&self, span: &Span<'_>, job: &JobHistory<'_>, is_possible: bool) -> bool {
        let can_be_done = match self.action {
            FilterAction::Cancel => span.is_unfinished() || is_possible,
            FilterAction::Redeliver => is_possible && self.is_redeliverable(span, job),
        };
        let reason = span.reason.filter(|_| span.state.status == Status::Failed);
        let wanted = self.filter.reason.as_deref();
        can_be_done && self.has_status(span.state.status) && (wanted.is_none() || wanted == reason)
    }

    fn is_redeliverable(&self, span: &Span<'_>, job: &JobHistory<'_>) -> bool {
        let is_told = span.state.result.is_some()
            || matches!(span.reason, Some("work_failed" | "work_timed_out"));
        let with_cancelled =
            !self.filter.ids.is_empty() || self.filter.reason.as_deref() == Some("cancelled");
        !span.is_unfinished()
            && is_told
            && job.row.is_some_and(|row| row.called_back)
            && (with_cancelled || span.reason != Some("cancelled"))
    }

    fn has_status(&self, status: Status) -> bool {
        let named = &self.filter.status;
        match self.action {
            // What succeeded is redelivered only if it is named.
            FilterAction::Redeliver if named.is_empty() && self.filter.ids.is_empty() => {
                status == Status::Failed
            }
            _ => named.is_empty() || named.contains(&status),
        }
    }

    /// The conditions that do not change while the request exists.
    fn names(&self, job: &JobHistory<'_>) -> bool {
        let Filter {
            client,
            handler,
            origin,
            created_after,
            created_before,
            ids,
            ..
        } = self.filter;
        let submitted = job.submitted();
        let is_of = |wanted: &Option<String>, has: Option<&String>| {
            wanted.is_none() || wanted.as_ref() == has
        };
        let of_handler = job.handler().unwrap_or("report");
        let created = job.row.and_then(|row| row.created_at);
        (ids.is_empty() || ids.contains(&job.id))
            && is_of(client, submitted.and_then(|it| it.client.as_ref()))
            && handler.as_ref().is_none_or(|handler| handler == of_handler)
            && is_of(origin, submitted.and_then(|it| it.origin.as_ref()))
            && created_after.is_none_or(|after| created.is_some_and(|at| at >= after))
            && created_before.is_none_or(|before| created.is_some_and(|at| at < before))
    }
}

/// Whether the redelivery was in progress all the time from the first of these moments to the
/// other.
fn surely_covers(series: &Series<'_>, from: Timestamp, to: Timestamp) -> bool {
    let begun = series
        .begun()
        .is_some_and(|begun| !not_later(from, begun.at));
    begun
        && series
            .end()
            .is_none_or(|end| !not_later(end.earliest(), to))
}
