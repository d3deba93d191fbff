//! The model of the store: the rules of claims and leases, without SQL.

use std::collections::BTreeMap;

use jiff::Timestamp;
use storm_shared::{
    models::{EventKind, FailureReason, RequestId, Status},
    services::{
        report::Report,
        store::{Candidate, Claim, DueQuery, Expired, Heartbeat, Outcome, OwnerId},
    },
};

use super::{
    call::{Answer, Call, ERROR, Won, Writing},
    text,
};
use crate::database::Row;

/// Stands for a time that the store takes from its own clock.
pub(super) const STORES_CLOCK: &str = "when the store did it";

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
            waits_until: None,
            failure: None,
            is_over: false,
            events: Vec::new(),
        }
    }

    fn record(&mut self, kind: EventKind, detail: Option<&str>) {
        self.events
            .push((kind, self.claim, detail.map(str::to_owned)));
    }

    fn wait(&mut self, until: String) {
        self.status = Status::Pending;
        self.owner = None;
        self.waits_until = Some(until);
    }

    fn end(&mut self, status: Status, failure: Option<FailureReason>) {
        self.status = status;
        self.failure = failure;
        self.is_over = true;
    }

    fn has_ended_with(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Completed => self.status == Status::Completed,
            Outcome::Failed(failure) => self.failure == Some(failure.reason),
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
            Call::Expire(seen, max_claims) => Answer::Expired(self.expire(*seen, *max_claims)),
            Call::Write(claim, writing) => self.write(claim, writing),
            Call::FindDue(_) => panic!("a due query changes nothing"),
        }
    }

    /// The sort keys of the jobs that a due query at `now` must find, and when the next is due.
    pub(super) fn find(&self, query: DueQuery, now: Timestamp) -> (Vec<String>, Option<Timestamp>) {
        let (present, beyond) = (text(now), text(now + query.longest_wait));
        let (mut over, mut beyond_all, mut new) = (Vec::new(), Vec::new(), Vec::new());
        let mut suspects = Vec::new();
        let mut next_due: Option<&String> = None;
        for (id, row) in &self.jobs {
            if row.status != Status::Pending {
                continue;
            }
            match &row.waits_until {
                Some(until) if row.lost_claims > 0 => {
                    suspects.push((row.lost_claims, until.clone()));
                }
                None => new.push(id.to_string()),
                Some(until) if *until <= present => over.push(until.clone()),
                Some(until) => {
                    next_due = Some(next_due.map_or(until, |next| next.min(until)));
                    if *until > beyond {
                        beyond_all.push(until.clone());
                    }
                }
            }
        }
        over.sort();
        beyond_all.sort();
        let mut found = [over, beyond_all, new].concat();
        found.truncate(query.limit);
        suspects.sort();
        found.extend(
            suspects
                .into_iter()
                .map(|(_, until)| until)
                .take(query.limit),
        );
        (found, next_due.map(|next| next.parse().unwrap()))
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
            row.wait(STORES_CLOCK.to_owned());
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
                row.waits_until = None;
                let report = row.result.as_deref();
                won.push(Won {
                    claim: Claim {
                        id: candidate.id,
                        owner,
                        number: row.claim,
                    },
                    report: report.map(|json| serde_json::from_str(json).unwrap()),
                    attempts: row.attempts,
                });
            }
        }
        Answer::Won(won)
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
                poisoned += 1;
            } else {
                let most = if alone {
                    max_claims - 1
                } else {
                    most_among_others(max_claims)
                };
                row.lost_claims += u32::from(row.lost_claims < most);
                row.wait(STORES_CLOCK.to_owned());
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
                (Writing::End(_, None, outcome), None) => {
                    is_its_last && row.has_ended_with(outcome)
                }
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
            Writing::Retry(report, attempts, due) => {
                row.keep(report);
                row.attempts = *attempts;
                row.lost_claims = 0;
                row.record(EventKind::AttemptFailed, Some(ERROR.as_str()));
                row.wait(text(*due));
            }
            Writing::Park(report, due) => {
                row.keep(report);
                row.lost_claims = 0;
                row.parks += 1;
                row.wait(text(*due));
            }
            Writing::GiveBack(report) => {
                row.keep(report);
                row.record(EventKind::GivenBack, None);
                row.wait(STORES_CLOCK.to_owned());
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
