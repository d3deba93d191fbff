//! The model of the store: the rules of claims and leases, without SQL.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use storm_shared::{
    models::{AttemptClass, EventKind, FailureReason, RequestId, Status},
    services::{
        report::Report,
        store::{
            CancelledClaim, CancelledWork, Candidate, Claim, Expired, Heartbeat, Outcome, OwnerId,
            Uncancellable, Unerasable, Unredeliverable, Work,
        },
    },
};

use super::call::{Answer, Call, ERROR, Page, Submitted, Won, Writing, key_name};
use crate::database::{Due, Key, Row, Tables};

/// The expected contents of the tables.
#[derive(Default)]
pub(super) struct Model {
    pub(super) tables: Tables,
    /// Whether the window of idempotency keys is longer than the test, or over at once.
    keeps_keys: bool,
    /// The requests that have a callback.
    with_callback: BTreeSet<RequestId>,
    /// What was submitted with each key.
    submitted: BTreeMap<String, u32>,
    /// The cancelled jobs, and whether an attempt may arrive.
    may_arrive: BTreeMap<RequestId, bool>,
}

/// The heartbeats that name a cancelled claim.
const BEATS: i64 = 4;

impl Row {
    /// A new job.
    fn new() -> Self {
        Self {
            status: Status::Pending,
            claim: 0,
            owner: None,
            attempts: 0,
            attempts_before: 0,
            lost_claims: 0,
            parks: 0,
            result: None,
            due: Some(Due::After(Duration::ZERO)),
            failure: None,
            is_over: false,
            is_erased: false,
        }
    }

    /// A new redelivery of this job. What it counts goes on.
    fn again(&self) -> Self {
        Self {
            claim: self.claim,
            attempts: self.attempts,
            attempts_before: self.attempts,
            parks: self.parks,
            ..Self::new()
        }
    }

    fn wait(&mut self, wait: Duration) {
        self.status = Status::Pending;
        self.owner = None;
        self.due = Some(Due::After(wait));
    }

    fn end(&mut self, failure: Option<FailureReason>) {
        self.due = None;
        self.status = match failure {
            None => Status::Completed,
            Some(_) => Status::Failed,
        };
        self.failure = failure;
        self.is_over = true;
    }

    /// Whether `claim` is the last one on it that was not released or reclaimed.
    fn is_of(&self, claim: &Claim) -> bool {
        self.claim == claim.number && self.owner == Some(claim.owner)
    }

    fn keep(&mut self, report: &Report) {
        self.result
            .get_or_insert_with(|| serde_json::to_string(report).unwrap());
    }
}

impl Model {
    pub(super) fn new(keeps_keys: bool) -> Self {
        Self {
            keeps_keys,
            ..Self::default()
        }
    }

    /// The expected answer to `call`. For a due query, see [`Model::find`].
    pub(super) fn call(&mut self, call: &Call) -> Answer {
        match call {
            Call::Accept(id, has_callback) => {
                self.tables.rows.insert((*id, Work::Job), Row::new());
                if *has_callback {
                    self.with_callback.insert(*id);
                }
                Answer::Done
            }
            Call::Register(owner) => {
                let beat = self.tables.workers.entry(*owner);
                beat.and_modify(|beat| *beat += 1).or_insert(0);
                Answer::Done
            }
            Call::Renew(owner) => self.renew(*owner),
            Call::Deregister(owner) => self.deregister(*owner),
            Call::Claim(owner, seen) => self.claim(*owner, seen),
            Call::ClaimAgain(owner, seen) => self.claim_again(*owner, seen),
            Call::Expire(seen, max_claims) => Answer::Expired(self.expire(*seen, *max_claims)),
            Call::Write(claim, writing) => self.write(claim, writing),
            Call::Redeliver(id) => Answer::Redelivery(self.redeliver(*id)),
            Call::RedeliverAll(ids) => {
                let begun = ids
                    .iter()
                    .filter(|id| !self.is_cancelled(**id) && self.redeliver(**id).is_ok());
                Answer::Begun(begun.count())
            }
            Call::FindEnded(page) => self.find_ended(page),
            Call::Submit(id, key, records) => {
                Answer::Submitted(self.submit(*id, key_name(*key), *records))
            }
            Call::Cancel(id) => Answer::Cancelled(self.cancel(*id)),
            Call::Erase(id) => Answer::Erased(self.erase(*id)),
            Call::Sweep(keep) => Answer::Swept(self.sweep(*keep)),
            Call::FindDue(_) => panic!("a due query changes nothing"),
        }
    }

    /// What must be found at `now`, by when it became due, and when the next one will.
    pub(super) fn find(&self, limit: usize, now: Due) -> (Vec<Due>, Option<Due>) {
        let (mut due, mut suspects, mut later) = (Vec::new(), Vec::new(), Vec::new());
        let rows = self.tables.rows.values();
        for row in rows.filter(|row| row.status == Status::Pending) {
            let at = row.due.unwrap();
            if row.lost_claims > 0 {
                suspects.push((row.lost_claims, at));
            } else if at <= now {
                due.push(at);
            } else {
                later.push(at);
            }
        }
        due.sort();
        suspects.sort();
        due.truncate(limit);
        due.extend(suspects.into_iter().map(|(_, at)| at).take(limit));
        (due, later.into_iter().min())
    }

    fn renew(&mut self, owner: OwnerId) -> Answer {
        let Some(beat) = self.tables.workers.get_mut(&owner) else {
            return Answer::LeaseLost;
        };
        *beat += 1;
        let beat = *beat;
        let workers = self.tables.workers.iter();
        let others = workers.filter(|(other, _)| **other != owner);
        let heartbeats = others.map(|(owner, beat)| Heartbeat {
            owner: *owner,
            beat: *beat,
        });
        let others = heartbeats.collect();
        let notes = &mut self.tables.cancellations;
        let its_own = notes.keys().filter(|(told, ..)| *told == owner);
        let cancelled = its_own.map(|(_, id, number)| CancelledClaim {
            id: *id,
            number: *number,
        });
        let cancelled = cancelled.collect();
        // The answer may be lost, so that some heartbeats name each.
        notes.retain(|(told, ..), noted| *told != owner || *noted > beat - BEATS);
        Answer::Others(others, cancelled)
    }

    /// The lease of a worker ends.
    fn forget(&mut self, owner: OwnerId) {
        self.tables.workers.remove(&owner);
        self.tables
            .cancellations
            .retain(|(told, ..), _| *told != owner);
    }

    fn deregister(&mut self, owner: OwnerId) -> Answer {
        self.forget(owner);
        let held = self.held_by(owner);
        for key in &held {
            self.record(*key, EventKind::GivenBack, None);
            self.row(*key).wait(Duration::ZERO);
        }
        Answer::Released(held.len())
    }

    /// Only a worker with a lease claims, and only candidates that nobody claimed since.
    fn claim(&mut self, owner: OwnerId, candidates: &[Candidate]) -> Answer {
        if !self.tables.workers.contains_key(&owner) {
            return Answer::LeaseLost;
        }
        let mut won = Vec::new();
        for candidate in candidates {
            let key = (candidate.id, candidate.work);
            // A redelivery that has ended has no row.
            if let Some(row) = self.tables.rows.get_mut(&key)
                && row.status == Status::Pending
                && row.claim == candidate.claims
            {
                row.status = Status::Processing;
                row.claim += 1;
                row.owner = Some(owner);
                row.due = None;
                won.push(self.won(key, owner));
            }
        }
        Answer::won(won)
    }

    /// Also what the owner holds under the next claim number of a candidate.
    fn claim_again(&mut self, owner: OwnerId, candidates: &[Candidate]) -> Answer {
        let held = candidates.iter().filter_map(|candidate| {
            let key = (candidate.id, candidate.work);
            let row = self.tables.rows.get(&key)?;
            let is_held = row.status == Status::Processing
                && row.owner == Some(owner)
                && row.claim == candidate.claims + 1;
            is_held.then(|| self.won(key, owner))
        });
        let mut all: Vec<_> = held.collect();
        match self.claim(owner, candidates) {
            Answer::Won(won) => {
                all.extend(won);
                Answer::won(all)
            }
            refused => refused,
        }
    }

    /// The claim of `owner`. The report is that of the request.
    fn won(&self, (id, work): Key, owner: OwnerId) -> Won {
        let row = &self.tables.rows[&(id, work)];
        let report = self.tables.rows[&(id, Work::Job)].result.as_deref();
        Won {
            claim: Claim {
                id,
                work,
                owner,
                number: row.claim,
            },
            report: report.map(|json| serde_json::from_str(json).unwrap()),
            attempts: row.attempts,
            attempts_before: row.attempts_before,
        }
    }

    /// Expires only a lease that was not renewed since. Only what was held alone can become poison.
    fn expire(&mut self, seen: Heartbeat, max_claims: u32) -> Option<Expired> {
        if self.tables.workers.get(&seen.owner) != Some(&seen.beat) {
            return None;
        }
        self.forget(seen.owner);
        let held = self.held_by(seen.owner);
        let alone = held.len() == 1;
        let (mut reclaimed, mut poisoned) = (0, 0);
        for key in held {
            self.record(key, EventKind::ClaimLost, None);
            let row = self.row(key);
            let is_last = row.lost_claims + 1 >= max_claims;
            if alone && is_last {
                row.lost_claims += 1;
                // Its last owner did not end it.
                row.owner = None;
                self.end(key, Some(FailureReason::Poison));
                poisoned += 1;
            } else {
                let most = if alone {
                    max_claims - 1
                } else {
                    most_among_others(max_claims)
                };
                row.lost_claims += u32::from(row.lost_claims < most);
                row.wait(Duration::ZERO);
                reclaimed += 1;
            }
        }
        Some(Expired {
            reclaimed,
            poisoned,
        })
    }

    /// Only the current claim can write, and a stored report is never replaced. A repeated
    /// settlement changes nothing and succeeds.
    fn write(&mut self, claim: &Claim, writing: &Writing) -> Answer {
        let key = (claim.id, claim.work);
        let row = self.tables.rows.get(&key);
        if !row.is_some_and(|row| row.status == Status::Processing && row.is_of(claim)) {
            return if self.is_repeat(claim, writing) {
                Answer::Done
            } else {
                Answer::ClaimLost
            };
        }
        if let Some((number, class)) = writing.attempt() {
            let made = (class, claim.number);
            self.tables.attempts.insert((claim.id, number), made);
            if class != AttemptClass::Success {
                self.record(key, EventKind::AttemptFailed, Some(ERROR.as_str()));
            }
        }
        // A redelivery has the report of its job.
        self.row((claim.id, Work::Job)).keep(writing.report());
        let row = self.row(key);
        match writing {
            Writing::Report(_) => {}
            Writing::Retry(_, attempts, wait) => {
                row.attempts = *attempts;
                row.lost_claims = 0;
                row.wait(*wait);
            }
            Writing::Park(_, wait) => {
                row.lost_claims = 0;
                row.parks += 1;
                row.wait(*wait);
            }
            Writing::GiveBack(_) => {
                row.wait(Duration::ZERO);
                self.record(key, EventKind::GivenBack, None);
            }
            Writing::End(_, number, outcome) => {
                row.attempts = number.unwrap_or(row.attempts);
                let failure = match outcome {
                    Outcome::Completed => None,
                    Outcome::Failed(failure) => Some(failure.reason),
                };
                self.end(key, failure);
            }
        }
        Answer::Done
    }

    /// Only what has ended this claim before can be told from a write of a lost claim: by its
    /// attempt, or by the request, which names the claim that ended its job or last redelivery.
    fn is_repeat(&self, claim: &Claim, writing: &Writing) -> bool {
        match (writing, writing.attempt()) {
            (_, Some((number, _))) => {
                let made = self.tables.attempts.get(&(claim.id, number));
                made.is_some_and(|(_, by)| *by == claim.number)
            }
            (Writing::End(..), None) => {
                let request = self.tables.rows.get(&(claim.id, Work::Job));
                request.is_some_and(|request| request.is_over && request.is_of(claim))
            }
            _ => false,
        }
    }

    /// Ends a job or a redelivery. A redelivery leaves its counts and its last owner to its
    /// request, and ends it anew unless that is `COMPLETED`.
    fn end(&mut self, (id, work): Key, failure: Option<FailureReason>) {
        if work == Work::Redelivery {
            self.leave_counts(id);
            if self.row((id, Work::Job)).status == Status::Completed {
                return;
            }
        }
        self.row((id, Work::Job)).end(failure);
    }

    /// Removes a redelivery. Its counts and its last owner are those of its request.
    fn leave_counts(&mut self, id: RequestId) {
        let ended = self.tables.rows.remove(&(id, Work::Redelivery)).unwrap();
        let request = self.row((id, Work::Job));
        request.claim = ended.claim;
        request.owner = ended.owner;
        request.attempts = ended.attempts;
        request.lost_claims = ended.lost_claims;
        request.parks = ended.parks;
    }

    fn redeliver(&mut self, id: RequestId) -> Result<(), Unredeliverable> {
        let rows = &mut self.tables.rows;
        let request = rows.get(&(id, Work::Job)).ok_or(Unredeliverable::Unknown)?;
        if !request.is_over {
            return Err(Unredeliverable::Unfinished);
        }
        if request.is_erased {
            return Err(Unredeliverable::Erased);
        }
        if request.result.is_none() || !self.with_callback.contains(&id) {
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
    fn find_ended(&self, page: &Page) -> Answer {
        let requests = self.tables.rows.iter();
        let mut of_status = requests
            .filter(|((_, work), row)| *work == Work::Job && row.status == page.status)
            .map(|((id, _), row)| (*id, row))
            .filter(|(id, _)| page.after.is_none_or(|after| *id > after))
            .peekable();
        let mut found = Vec::new();
        while found.len() < page.limit
            && let Some((id, row)) = of_status.next()
        {
            let is_under_way = self.tables.rows.contains_key(&(id, Work::Redelivery));
            let is_deliverable = row.result.is_some() && self.with_callback.contains(&id);
            if is_deliverable && !is_under_way && !self.is_cancelled(id) {
                found.push(id);
            }
        }
        let next = of_status.peek().and(found.last().copied());
        Answer::Ended(found, next)
    }

    fn is_cancelled(&self, id: RequestId) -> bool {
        let job = self.tables.rows.get(&(id, Work::Job));
        job.is_some_and(|job| job.failure == Some(FailureReason::Cancelled))
    }

    /// A key belongs to its job until its window is over and the job has ended, or is gone.
    fn submit(&mut self, id: RequestId, key: String, records: u32) -> Submitted {
        if let Some((first, is_known)) = self.tables.keys.get(&key) {
            let is_over = self.tables.rows[&(*first, Work::Job)].is_over;
            if self.keeps_keys || !is_over {
                return if *is_known && self.submitted[&key] == records {
                    Submitted::Replayed(*first)
                } else {
                    Submitted::Conflicting
                };
            }
        }
        self.tables.keys.insert(key.clone(), (id, true));
        self.submitted.insert(key, records);
        self.tables.rows.insert((id, Work::Job), Row::new());
        self.with_callback.insert(id);
        Submitted::Stored
    }

    /// Ends what is unfinished under a new claim number, and leaves a note for the worker that
    /// holds it.
    fn cancel(&mut self, id: RequestId) -> Result<(CancelledWork, Status, bool), Uncancellable> {
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
    fn erase(&mut self, id: RequestId) -> Result<Status, Unerasable> {
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
    fn sweep(&mut self, keep: Duration) -> usize {
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

    fn row(&mut self, key: Key) -> &mut Row {
        self.tables.rows.get_mut(&key).unwrap()
    }

    /// Records an event under the claim on `key`.
    fn record(&mut self, key: Key, kind: EventKind, detail: Option<&str>) {
        let claim = self.row(key).claim;
        let events = self.tables.events.entry(key.0).or_default();
        events.push((kind, claim, detail.map(str::to_owned)));
    }

    fn held_by(&self, owner: OwnerId) -> Vec<Key> {
        let rows = self.tables.rows.iter();
        rows.filter(|(_, row)| row.status == Status::Processing && row.owner == Some(owner))
            .map(|(key, _)| *key)
            .collect()
    }
}

/// The most lost claims that a job collects among others. Below `max_claims` by two, if possible:
/// the last two losses must happen while it runs alone.
fn most_among_others(max_claims: u32) -> u32 {
    match max_claims {
        0..=3 => 1,
        more => more - 2,
    }
}
