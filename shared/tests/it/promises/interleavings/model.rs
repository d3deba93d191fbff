//! The model of the store: the rules of claims and leases, without SQL.

use std::{collections::BTreeMap, time::Duration};

use storm_shared::{
    models::{EventKind, FailureReason, RequestId, Status},
    services::{
        report::Report,
        store::{Candidate, Claim, Expired, Heartbeat, Outcome, OwnerId, Work},
    },
};

use super::call::{Answer, Call, ERROR, Won, Writing};
use crate::database::{Due, Row};

/// The expected contents of the table.
#[derive(Default)]
pub(super) struct Model {
    pub(super) jobs: BTreeMap<RequestId, Row>,
    /// The beat of each worker.
    pub(super) workers: BTreeMap<OwnerId, i64>,
    /// The claim under which each attempt was recorded last.
    recorded: BTreeMap<(RequestId, u32), i64>,
}

impl Row {
    fn new() -> Self {
        Self {
            status: Status::Pending,
            claim: 0,
            owner: None,
            attempts: 0,
            lost_claims: 0,
            parks: 0,
            result: None,
            due: Some(Due::After(Duration::ZERO)),
            failure: None,
            is_over: false,
            events: Vec::new(),
        }
    }

    fn record(&mut self, kind: EventKind, detail: Option<&str>) {
        self.events
            .push((kind, self.claim, detail.map(str::to_owned)));
    }

    fn wait(&mut self, wait: Duration) {
        self.status = Status::Pending;
        self.owner = None;
        self.due = Some(Due::After(wait));
    }

    fn end(&mut self, status: Status, failure: Option<FailureReason>) {
        self.status = status;
        self.failure = failure;
        self.is_over = true;
    }

    fn won(&self, id: RequestId, owner: OwnerId) -> Won {
        let report = self.result.as_deref();
        Won {
            claim: Claim {
                id,
                work: Work::Job,
                owner,
                number: self.claim,
            },
            report: report.map(|json| serde_json::from_str(json).unwrap()),
            attempts: self.attempts,
        }
    }

    fn keep(&mut self, report: &Report) {
        self.result
            .get_or_insert_with(|| serde_json::to_string(report).unwrap());
    }
}

impl Model {
    /// The expected answer to `call`. For a due query, see [`Model::find`].
    pub(super) fn call(&mut self, call: &Call) -> Answer {
        match call {
            Call::Accept(id) => {
                self.jobs.insert(*id, Row::new());
                Answer::Done
            }
            Call::Register(owner) => {
                self.workers
                    .entry(*owner)
                    .and_modify(|beat| *beat += 1)
                    .or_insert(0);
                Answer::Done
            }
            Call::Renew(owner) => self.renew(*owner),
            Call::Deregister(owner) => self.deregister(*owner),
            Call::Claim(owner, seen) => self.claim(*owner, seen),
            Call::ClaimAgain(owner, seen) => self.claim_again(*owner, seen),
            Call::Expire(seen, max_claims) => Answer::Expired(self.expire(*seen, *max_claims)),
            Call::Write(claim, writing) => self.write(claim, writing),
            Call::FindDue(_) => panic!("a due query changes nothing"),
        }
    }

    /// The jobs that must be found at `now`, by when they became due, and when the next one will.
    pub(super) fn find(&self, limit: usize, now: Due) -> (Vec<Due>, Option<Due>) {
        let (mut due, mut suspects, mut later) = (Vec::new(), Vec::new(), Vec::new());
        let pending = self
            .jobs
            .values()
            .filter(|row| row.status == Status::Pending);
        for row in pending {
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
        let Some(beat) = self.workers.get_mut(&owner) else {
            return Answer::LeaseLost;
        };
        *beat += 1;
        let others = self.workers.iter().filter(|(other, _)| **other != owner);
        Answer::Others(
            others
                .map(|(owner, beat)| Heartbeat {
                    owner: *owner,
                    beat: *beat,
                })
                .collect(),
        )
    }

    fn deregister(&mut self, owner: OwnerId) -> Answer {
        self.workers.remove(&owner);
        let mut released = 0;
        for row in self.held_by(owner) {
            row.record(EventKind::GivenBack, None);
            row.wait(Duration::ZERO);
            released += 1;
        }
        Answer::Released(released)
    }

    /// Only a worker with a lease claims, and only candidates that nobody claimed since.
    fn claim(&mut self, owner: OwnerId, candidates: &[Candidate]) -> Answer {
        if !self.workers.contains_key(&owner) {
            return Answer::LeaseLost;
        }
        let mut won = Vec::new();
        for candidate in candidates {
            let row = self.jobs.get_mut(&candidate.id).unwrap();
            if row.status == Status::Pending && row.claim == candidate.claims {
                row.status = Status::Processing;
                row.claim += 1;
                row.owner = Some(owner);
                row.due = None;
                won.push(row.won(candidate.id, owner));
            }
        }
        Answer::Won(won)
    }

    /// First what the owner holds under the next claim number of a candidate.
    fn claim_again(&mut self, owner: OwnerId, candidates: &[Candidate]) -> Answer {
        let held = candidates.iter().filter_map(|candidate| {
            let row = &self.jobs[&candidate.id];
            let is_held = row.status == Status::Processing
                && row.owner == Some(owner)
                && row.claim == candidate.claims + 1;
            is_held.then(|| row.won(candidate.id, owner))
        });
        let mut all: Vec<_> = held.collect();
        match self.claim(owner, candidates) {
            Answer::Won(won) => {
                all.extend(won);
                Answer::Won(all)
            }
            refused => refused,
        }
    }

    /// Expires only a lease that was not renewed since. Only a job held alone can become poison.
    fn expire(&mut self, seen: Heartbeat, max_claims: u32) -> Option<Expired> {
        if self.workers.get(&seen.owner) != Some(&seen.beat) {
            return None;
        }
        self.workers.remove(&seen.owner);
        let alone = self.held_by(seen.owner).count() == 1;
        let (mut reclaimed, mut poisoned) = (0, 0);
        for row in self.held_by(seen.owner) {
            row.record(EventKind::ClaimLost, None);
            let is_last = row.lost_claims + 1 >= max_claims;
            if alone && is_last {
                row.lost_claims += 1;
                row.end(Status::Failed, Some(FailureReason::Poison));
                // Its last owner did not end it.
                row.owner = None;
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
        let row = self.jobs.get_mut(&claim.id).unwrap();
        let is_its_last = row.claim == claim.number && row.owner == Some(claim.owner);
        if !(is_its_last && row.status == Status::Processing) {
            // Only what has ended this claim before can be told from a write of a lost claim.
            let is_repeat = match (writing, writing.attempt()) {
                (_, Some(number)) => self.recorded.get(&(claim.id, number)) == Some(&claim.number),
                (Writing::End(..), None) => is_its_last,
                _ => false,
            };
            return if is_repeat {
                Answer::Done
            } else {
                Answer::ClaimLost
            };
        }
        if let Some(number) = writing.attempt() {
            self.recorded.insert((claim.id, number), claim.number);
        }
        match writing {
            Writing::Report(report) => row.keep(report),
            Writing::Retry(report, attempts, wait) => {
                row.keep(report);
                row.attempts = *attempts;
                row.lost_claims = 0;
                row.record(EventKind::AttemptFailed, Some(ERROR.as_str()));
                row.wait(*wait);
            }
            Writing::Park(report, wait) => {
                row.keep(report);
                row.lost_claims = 0;
                row.parks += 1;
                row.wait(*wait);
            }
            Writing::GiveBack(report) => {
                row.keep(report);
                row.record(EventKind::GivenBack, None);
                row.wait(Duration::ZERO);
            }
            Writing::End(report, number, outcome) => {
                row.keep(report);
                row.attempts = number.unwrap_or(row.attempts);
                match outcome {
                    Outcome::Completed => row.end(Status::Completed, None),
                    Outcome::Failed(failure) => {
                        if number.is_some() {
                            row.record(EventKind::AttemptFailed, Some(ERROR.as_str()));
                        }
                        row.end(Status::Failed, Some(failure.reason));
                    }
                }
            }
        }
        Answer::Done
    }

    fn held_by(&mut self, owner: OwnerId) -> impl Iterator<Item = &mut Row> {
        self.jobs
            .values_mut()
            .filter(move |row| row.status == Status::Processing && row.owner == Some(owner))
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
