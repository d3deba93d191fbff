//! The model of the store: the rules of claims and leases, without SQL.

mod requests;

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use storm_shared::{
    models::{AttemptClass, EventKind, FailureReason, RequestId, Status},
    services::{
        report::Report,
        store::{CancelledClaim, Candidate, Claim, Expired, Heartbeat, Outcome, OwnerId, Work},
    },
};

use super::{
    HOUR,
    call::{Answer, Call, ERROR, Won, Writing},
    operation::{Held, Receiver, Tenant},
};
use crate::database::{Due, Key, Parked, Row, Tables};

/// The expected contents of the tables.
#[derive(Default)]
pub(super) struct Model {
    pub(super) tables: Tables,
    /// Whether the window of idempotency keys is longer than the test, or over at once.
    keeps_keys: bool,
    /// The receivers of the requests that have a callback.
    receivers: BTreeMap<RequestId, Receiver>,
    /// Who submitted each request.
    tenants: BTreeMap<RequestId, Tenant>,
    /// What was submitted with each key.
    submitted: BTreeMap<(String, String), u32>,
    /// The cancelled jobs, and whether an attempt may arrive.
    may_arrive: BTreeMap<RequestId, bool>,
}

/// What can be found.
#[derive(Default)]
pub(super) struct Findable {
    /// When the due jobs of each tenant became due, in order.
    pub(super) due: BTreeMap<Tenant, Vec<Due>>,
    /// When the suspects became due, in the order in which they are found.
    pub(super) suspects: Vec<Due>,
    /// When the next job becomes due.
    pub(super) next: Option<Due>,
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
            parked: None,
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

    /// Jobs wait for an hour or not at all, so half an hour tells the two apart.
    fn is_due_later(&self) -> bool {
        let soon = Timestamp::now() + HOUR / 2;
        match self.due {
            Some(Due::At(at)) => at > soon.as_millisecond(),
            Some(Due::After(wait)) => !wait.is_zero(),
            None => false,
        }
    }

    fn wait(&mut self, wait: Duration) {
        self.status = Status::Pending;
        self.owner = None;
        self.due = Some(Due::After(wait));
    }

    fn end(&mut self, failure: Option<FailureReason>) {
        self.due = None;
        self.parked = None;
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
            Call::Accept(id, receiver, tenant) => {
                self.accept(*id, *receiver, *tenant);
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
            Call::Submit(id, submission) => Answer::Submitted(self.submit(*id, *submission)),
            Call::LookUp(submission) => Answer::Known(self.earlier(*submission)),
            Call::Cancel(id) => Answer::Cancelled(self.cancel(*id)),
            Call::Erase(id) => Answer::Erased(self.erase(*id)),
            Call::Sweep(keep) => Answer::Swept(self.sweep(*keep)),
            Call::Pause(held) => {
                let changed = self.tables.pauses.insert(held.name());
                Answer::Changed(self.audited("pause", *held, changed))
            }
            Call::Resume(held) => {
                let changed = self.tables.pauses.remove(&held.name());
                Answer::Changed(self.audited("resume", *held, changed))
            }
            Call::Release(receiver) => Answer::Unparked(self.release(*receiver)),
            Call::FindDue(_) => panic!("a due query changes nothing"),
        }
    }

    /// What must be found at `now`.
    pub(super) fn find(&self, limit: usize, now: Due) -> Findable {
        let mut findable = Findable::default();
        if self.is_paused(Held::Everything) {
            return findable;
        }
        let mut suspects = Vec::new();
        let rows = self.tables.rows.iter();
        for (key, row) in rows.filter(|(_, row)| row.status == Status::Pending) {
            let at = row.due.unwrap();
            if row.lost_claims > 0 && at <= now {
                // Its worker would only park it.
                if !self.is_held_back(key.0) {
                    suspects.push((row.lost_claims, at));
                }
            } else if at <= now {
                let of_tenant = findable.due.entry(self.tenants[&key.0]);
                of_tenant.or_default().push(at);
            } else {
                let next = findable.next.map_or(at, |next| next.min(at));
                findable.next = Some(next);
            }
        }
        for of_tenant in findable.due.values_mut() {
            of_tenant.sort();
        }
        suspects.sort();
        let suspects = suspects.into_iter().map(|(_, at)| at);
        findable.suspects = suspects.take(limit).collect();
        findable
    }

    /// Who submitted a request.
    pub(super) fn tenant(&self, id: RequestId) -> Tenant {
        self.tenants[&id]
    }

    /// Whether a request waits for the end of a pause, if it waits at all.
    pub(super) fn is_held_back(&self, id: RequestId) -> bool {
        let receiver = self.receivers.get(&id).copied().map(Held::Origin);
        self.is_paused(Held::Everything) || receiver.is_some_and(|origin| self.is_paused(origin))
    }

    fn is_paused(&self, held: Held) -> bool {
        self.tables.pauses.contains(&held.name())
    }

    /// Records what an operator has done, and returns whether that has changed anything.
    fn audited(&mut self, action: &str, held: Held, changed: bool) -> bool {
        let filter = match held {
            Held::Everything => r#"{"everything":true}"#.to_owned(),
            Held::Origin(_) => format!(r#"{{"origin":"{}"}}"#, held.name()),
        };
        let deed = (action.to_owned(), filter, i64::from(changed));
        self.tables.audit.push(deed);
        changed
    }

    /// Makes due what a pause of the origin has parked, unless it is still paused.
    fn release(&mut self, receiver: Receiver) -> usize {
        if self.is_paused(Held::Origin(receiver)) {
            return 0;
        }
        let receivers = &self.receivers;
        let parked = self.tables.rows.iter_mut().filter(|((id, _), row)| {
            row.status == Status::Pending
                && row.parked == Some(Parked::ByPause)
                && receivers.get(id) == Some(&receiver)
                && row.is_due_later()
        });
        let mut released = 0;
        for (_, row) in parked {
            row.due = Some(Due::After(Duration::ZERO));
            row.parked = Some(Parked::Since);
            released += 1;
        }
        released
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
        Answer::Others(others, cancelled, self.tables.pauses.clone())
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

    /// Only a worker with a lease claims, only while not everything is paused, and only candidates
    /// that nobody claimed since.
    fn claim(&mut self, owner: OwnerId, candidates: &[Candidate]) -> Answer {
        if !self.tables.workers.contains_key(&owner) {
            return Answer::LeaseLost;
        }
        let mut won = Vec::new();
        if self.is_paused(Held::Everything) {
            return Answer::won(won, true);
        }
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
        Answer::won(won, false)
    }

    /// Also what the owner holds under the next claim number of a candidate, once each.
    fn claim_again(&mut self, owner: OwnerId, candidates: &[Candidate]) -> Answer {
        let mut seen = HashSet::new();
        let held = candidates.iter().filter_map(|candidate| {
            let key = (candidate.id, candidate.work);
            if !seen.insert((key, candidate.claims)) {
                return None;
            }
            let row = self.tables.rows.get(&key)?;
            let is_held = row.status == Status::Processing
                && row.owner == Some(owner)
                && row.claim == candidate.claims + 1;
            is_held.then(|| self.won(key, owner))
        });
        let mut all: Vec<_> = held.collect();
        match self.claim(owner, candidates) {
            Answer::Won(won, is_paused) => {
                all.extend(won);
                Answer::won(all, is_paused)
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
                row.parked = None;
                row.wait(*wait);
            }
            Writing::Park(_, wait) | Writing::ParkPaused(_, wait) => {
                row.parks += 1;
                row.parked = Some(match writing {
                    Writing::ParkPaused(..) => Parked::ByPause,
                    _ => Parked::Since,
                });
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
