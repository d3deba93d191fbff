//! What a caller knows: turns an operation into a call and remembers the answer.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{Failure, FailureReason, RequestId},
    services::{
        report::Report,
        store::{Candidate, Heartbeat, Outcome, OwnerId, Work},
    },
};
use uuid::Uuid;

use super::{
    call::{Answer, Call, Page, Submitted, Won, Writing},
    operation::{Forgery, Operation, What},
};

/// Everything seen or won so far, newest last. Nothing is forgotten, so that stale use is tested.
pub(super) struct Memory {
    next_id: Timestamp,
    reports: u128,
    owners: Vec<OwnerId>,
    candidates: Vec<Candidate>,
    sightings: Vec<Heartbeat>,
    won: Vec<Won>,
    /// Accepted or ended.
    requests: Vec<RequestId>,
    pages: Vec<Vec<RequestId>>,
    /// Where the next page begins.
    cursor: Option<RequestId>,
}

impl Memory {
    /// Starts empty. Jobs get ids from `first_id` on, a millisecond apart. It lies in the past, as
    /// ids do.
    pub(super) fn new(first_id: Timestamp) -> Self {
        Self {
            next_id: first_id,
            reports: first_id.as_millisecond().unsigned_abs().into(),
            owners: Vec::new(),
            candidates: Vec::new(),
            sightings: Vec::new(),
            won: Vec::new(),
            requests: Vec::new(),
            pages: Vec::new(),
            cursor: None,
        }
    }

    /// Every job and redelivery claimed so far.
    pub(super) fn won(&self) -> &[Won] {
        &self.won
    }

    /// The call for an operation; `None` if nothing that it could name exists yet.
    pub(super) fn call(&mut self, operation: Operation) -> Option<Call> {
        Some(match operation {
            Operation::Accept { receiver, tenant } => {
                self.next_id += Duration::from_millis(1);
                Call::Accept(RequestId::floor(self.next_id), receiver, tenant)
            }
            Operation::Submit(submission) => {
                self.next_id += Duration::from_millis(1);
                Call::Submit(RequestId::floor(self.next_id), submission)
            }
            Operation::LookUp(submission) => Call::LookUp(submission),
            Operation::Pause(held) => Call::Pause(held),
            Operation::Resume(held) => Call::Resume(held),
            Operation::Release(receiver) => Call::Release(receiver),
            Operation::Register => Call::Register(OwnerId::generate()),
            Operation::RegisterAgain { worker } => Call::Register(*newest(&self.owners, worker)?),
            Operation::Renew { worker } => Call::Renew(*newest(&self.owners, worker)?),
            Operation::Deregister { worker } => Call::Deregister(*newest(&self.owners, worker)?),
            Operation::FindDue { limit } => Call::FindDue(limit),
            Operation::Claim {
                worker,
                seen,
                count,
                mistaken,
            } => {
                let mut candidates = self.candidates(seen, count)?;
                for candidate in &mut candidates {
                    candidate.claims += i64::from(mistaken);
                }
                Call::Claim(*newest(&self.owners, worker)?, candidates)
            }
            Operation::ClaimAgain {
                worker,
                seen,
                count,
            } => Call::ClaimAgain(
                *newest(&self.owners, worker)?,
                self.candidates(seen, count)?,
            ),
            Operation::Expire {
                sighting,
                max_claims,
            } => Call::Expire(*newest(&self.sightings, sighting)?, max_claims),
            Operation::Write {
                claim,
                forged,
                what,
            } => {
                let Won {
                    mut claim,
                    attempts,
                    ..
                } = newest(&self.won, claim)?.clone();
                match forged {
                    None => {}
                    Some(Forgery::Owner) => claim.owner = OwnerId::generate(),
                    Some(Forgery::Work) => {
                        claim.work = match claim.work {
                            Work::Job => Work::Redelivery,
                            Work::Redelivery => Work::Job,
                        };
                    }
                }
                Call::Write(claim, self.writing(what, attempts))
            }
            Operation::Cancel { mistaken: true, .. } => Call::Cancel(RequestId::generate()),
            Operation::Cancel { request, .. } => Call::Cancel(*newest(&self.requests, request)?),
            Operation::Erase { mistaken: true, .. } => Call::Erase(RequestId::generate()),
            Operation::Erase { request, .. } => Call::Erase(*newest(&self.requests, request)?),
            Operation::Sweep { keep } => Call::Sweep(keep),
            Operation::Redeliver { mistaken: true, .. } => Call::Redeliver(RequestId::generate()),
            Operation::Redeliver { request, .. } => {
                Call::Redeliver(*newest(&self.requests, request)?)
            }
            Operation::RedeliverAll { page } => {
                Call::RedeliverAll(newest(&self.pages, page)?.clone())
            }
            Operation::FindEnded { status, limit } => Call::FindEnded(Page {
                status,
                after: self.cursor,
                limit,
            }),
        })
    }

    fn candidates(&self, seen: usize, count: usize) -> Option<Vec<Candidate>> {
        let candidates = (seen..seen + count).map(|n| newest(&self.candidates, n).copied());
        candidates.collect()
    }

    /// A write of `what`. Every report is unique, so that the rows show which one was stored.
    pub(super) fn writing(&mut self, what: What, attempts: u32) -> Writing {
        self.reports += 1;
        let report = Report {
            report_id: Uuid::from_u128(self.reports),
            checksum: format!("{:064x}", self.reports),
        };
        let failed = |reason| Outcome::Failed(Failure::new(reason, "It answered 500."));
        match what {
            What::Report => Writing::Report(report),
            What::Retry(wait) => Writing::Retry(report, attempts + 1, wait),
            What::Park(wait) => Writing::Park(report, wait),
            What::ParkPaused(wait) => Writing::ParkPaused(report, wait),
            What::GiveBack => Writing::GiveBack(report),
            What::Complete => Writing::End(report, Some(attempts + 1), Outcome::Completed),
            What::GiveUp => Writing::End(
                report,
                Some(attempts + 1),
                failed(FailureReason::CallbackFailed),
            ),
            What::Refuse => Writing::End(report, None, failed(FailureReason::CallbackRefused)),
        }
    }

    /// Remembers the answer to a call.
    pub(super) fn learn(&mut self, call: &Call, answer: &Answer) {
        match (call, answer) {
            (Call::Accept(id, ..), Answer::Done)
            | (Call::Submit(id, ..), Answer::Submitted(Submitted::Stored)) => {
                self.candidates.push(Candidate::notified(*id));
                self.requests.push(*id);
            }
            (Call::Write(claim, Writing::End(..)), Answer::Done) => self.requests.push(claim.id),
            // Bulk redelivery leaves it out.
            (Call::Cancel(id), Answer::Cancelled(Ok(_))) => self.pages.push(vec![*id]),
            (_, Answer::Ended(page, next)) => {
                self.pages.push(page.clone());
                self.cursor = *next;
            }
            (Call::Register(owner), Answer::Done) if !self.owners.contains(owner) => {
                self.owners.push(*owner);
            }
            (_, Answer::Others(others, ..)) => {
                // The worker with the fewest renewals is the newest.
                let seen = self.sightings.len();
                self.sightings.extend_from_slice(others);
                self.sightings[seen..].sort_by_key(|other| -other.beat);
            }
            (_, Answer::Found(found)) => self.candidates.extend_from_slice(&found.due),
            (_, Answer::Won(jobs, _)) => self.won.extend_from_slice(jobs),
            _ => {}
        }
    }
}

fn newest<T>(items: &[T], back: usize) -> Option<&T> {
    items.iter().nth_back(back % items.len().max(1))
}
