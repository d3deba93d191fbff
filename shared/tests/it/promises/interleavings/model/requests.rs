//! What clients ask of the store, and the deletion of old requests.

use std::{collections::BTreeSet, time::Duration};

use storm_shared::{
    models::{FailureReason, RequestId, Status},
    services::store::{CancelledWork, Uncancellable, Unerasable, Unredeliverable, Work},
};

use super::{
    super::{
        call::{Answer, Page, Submitted},
        operation::{Receiver, Submission, Tenant},
    },
    Model,
};
use crate::database::Row;

impl Model {
    pub(super) fn accept(&mut self, id: RequestId, receiver: Option<Receiver>, tenant: Tenant) {
        self.tables.rows.insert((id, Work::Job), Row::new());
        self.receivers
            .extend(receiver.map(|receiver| (id, receiver)));
        self.tenants.insert(id, tenant);
    }

    pub(super) fn redeliver(&mut self, id: RequestId) -> Result<(), Unredeliverable> {
        let rows = &mut self.tables.rows;
        let request = rows.get(&(id, Work::Job)).ok_or(Unredeliverable::Unknown)?;
        if !request.is_over {
            return Err(Unredeliverable::Unfinished);
        }
        if request.is_erased {
            return Err(Unredeliverable::Erased);
        }
        if request.result.is_none() || !self.receivers.contains_key(&id) {
            return Err(Unredeliverable::Nothing);
        }
        let again = request.again();
        if rows.contains_key(&(id, Work::Redelivery)) {
            return Err(Unredeliverable::UnderWay);
        }
        rows.insert((id, Work::Redelivery), again);
        Ok(())
    }

    /// Finds what [`Model::redeliver`] would begin, in the order of ids. There is a next page if
    /// the limit leaves out a request of this status.
    pub(super) fn find_ended(&self, page: &Page) -> Answer {
        let requests = self.tables.rows.iter();
        let of_status = requests
            .filter(|((_, work), row)| *work == Work::Job && row.status == page.status)
            .map(|((id, _), row)| (*id, row))
            .filter(|(id, _)| page.after.is_none_or(|after| *id > after));
        let deliverable = of_status.filter(|(id, row)| {
            let is_under_way = self.tables.rows.contains_key(&(*id, Work::Redelivery));
            let has_callback = row.result.is_some() && self.receivers.contains_key(id);
            has_callback && !is_under_way && !self.is_cancelled(*id)
        });
        let mut found: Vec<_> = deliverable.map(|(id, _)| id).take(page.limit + 1).collect();
        let has_more = found.len() > page.limit;
        found.truncate(page.limit);
        let next = found.last().copied().filter(|_| has_more);
        Answer::Ended(found, next)
    }

    pub(super) fn is_cancelled(&self, id: RequestId) -> bool {
        let job = self.tables.rows.get(&(id, Work::Job));
        job.is_some_and(|job| job.failure == Some(FailureReason::Cancelled))
    }

    /// What a submission is, if it is not a new one. A tenant's key belongs to its job until its
    /// window is over and the job has ended, or is gone.
    pub(super) fn earlier(&self, submission: Submission) -> Option<Submitted> {
        let key = submission.key();
        let (first, is_known) = self.tables.keys.get(&key)?;
        if !self.keeps_keys && self.tables.rows[&(*first, Work::Job)].is_over {
            return None;
        }
        Some(if *is_known && self.submitted[&key] == submission.records {
            Submitted::Replayed(*first)
        } else {
            Submitted::Conflicting
        })
    }

    pub(super) fn submit(&mut self, id: RequestId, submission: Submission) -> Submitted {
        if let Some(earlier) = self.earlier(submission) {
            return earlier;
        }
        let key = submission.key();
        self.tables.keys.insert(key.clone(), (id, true));
        self.submitted.insert(key, submission.records);
        self.accept(id, Some(0), submission.tenant);
        Submitted::Stored
    }

    /// Ends what is unfinished under a new claim number, and leaves a note for the worker that
    /// holds it.
    pub(super) fn cancel(
        &mut self,
        id: RequestId,
    ) -> Result<(CancelledWork, Status, bool), Uncancellable> {
        let job = self.tables.rows.get(&(id, Work::Job));
        let job = job.ok_or(Uncancellable::Unknown)?.clone();
        let redelivery = self.tables.rows.get(&(id, Work::Redelivery)).cloned();
        let (key, row) = match redelivery {
            _ if !job.is_over => ((id, Work::Job), job.clone()),
            Some(row) => ((id, Work::Redelivery), row),
            None if self.is_cancelled(id) => {
                return Ok((CancelledWork::Job, job.status, self.may_arrive[&id]));
            }
            None => return Err(Uncancellable::Over(job.status)),
        };
        let is_held = row.status == Status::Processing;
        if let Some(owner) = row.owner.filter(|_| is_held)
            && let Some(beat) = self.tables.workers.get(&owner).copied()
        {
            let note = (owner, id, row.claim);
            self.tables.cancellations.entry(note).or_insert(beat);
        }
        let cancelled = self.row(key);
        cancelled.claim += 1;
        cancelled.owner = None;
        // A worker that has lost it may still be about to call.
        let may_arrive = is_held || row.lost_claims > 0;
        if key.1 == Work::Redelivery {
            self.leave_counts(id);
            return Ok((CancelledWork::Redelivery, job.status, may_arrive));
        }
        cancelled.end(Some(FailureReason::Cancelled));
        self.may_arrive.insert(id, may_arrive);
        Ok((CancelledWork::Job, Status::Failed, may_arrive))
    }

    /// Only what is over, and is not redelivered. The outcome stays.
    pub(super) fn erase(&mut self, id: RequestId) -> Result<Status, Unerasable> {
        let is_redelivered = self.tables.rows.contains_key(&(id, Work::Redelivery));
        let job = self.tables.rows.get_mut(&(id, Work::Job));
        let job = job.ok_or(Unerasable::Unknown)?;
        if !job.is_over {
            return Err(Unerasable::Unfinished);
        }
        if is_redelivered {
            return Err(Unerasable::UnderWay);
        }
        job.result = None;
        job.is_erased = true;
        let status = job.status;
        for (_, _, detail) in self.tables.events.entry(id).or_default() {
            *detail = None;
        }
        self.tables.events.retain(|_, events| !events.is_empty());
        for (of, is_known) in self.tables.keys.values_mut() {
            *is_known = *is_known && *of != id;
        }
        Ok(status)
    }

    /// Deletes what is over with all that belongs to it. A redelivery keeps its request, and so
    /// does a key whose window is not over. Nothing has ended an hour ago.
    pub(super) fn sweep(&mut self, keep: Duration) -> usize {
        if !keep.is_zero() {
            return 0;
        }
        let tables = &mut self.tables;
        let is_keyed = |id| tables.keys.values().any(|(of, _)| *of == id);
        let jobs = tables
            .rows
            .iter()
            .filter(|((_, work), row)| *work == Work::Job && row.is_over);
        let gone: BTreeSet<_> = jobs
            .map(|((id, _), _)| *id)
            .filter(|id| !tables.rows.contains_key(&(*id, Work::Redelivery)))
            .filter(|id| !(self.keeps_keys && is_keyed(*id)))
            .collect();
        tables.rows.retain(|(id, _), _| !gone.contains(id));
        tables.attempts.retain(|(id, _), _| !gone.contains(id));
        tables.events.retain(|id, _| !gone.contains(id));
        tables.keys.retain(|_, (id, _)| !gone.contains(id));
        gone.len()
    }
}
