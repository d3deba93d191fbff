//! The jobs that this worker claims or runs right now.
//!
//! A claim whose outcome is unknown is repeated, and returns what the worker holds under the claim
//! numbers that it asked for. The rows do not tell which call has won them. So a job is named in
//! one call at a time, and in none while it runs: whatever a repeat returns is then its own.
//!
//! A heartbeat names the claims that were cancelled, and stops their jobs here.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use storm_shared::{
    models::RequestId,
    services::store::{CancelledClaim, Candidate, Claim},
};
use tokio_util::sync::CancellationToken;

/// The set of these jobs. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct InHand(Arc<Mutex<HashMap<RequestId, Hand>>>);

/// What is known of a job in hand.
#[derive(Debug, Default)]
struct Hand {
    /// The number of its claim, once the claim is won.
    held: Option<i64>,
    /// The highest claim number that was cancelled. A heartbeat can name a claim before the answer
    /// to the claim itself is there.
    cancelled: i64,
    stop: CancellationToken,
}

impl Hand {
    fn stop_if_cancelled(&self) {
        if self.held.is_some_and(|number| number <= self.cancelled) {
            self.stop.cancel();
        }
    }
}

impl InHand {
    /// Takes those of the `candidates` that are free.
    pub(super) fn take(&self, candidates: &[Candidate]) -> Taken {
        let mut jobs = self.jobs();
        let free = candidates.iter().filter(|it| match jobs.entry(it.id) {
            Entry::Vacant(free) => {
                free.insert(Hand::default());
                true
            }
            Entry::Occupied(_) => false,
        });
        Taken {
            candidates: free.copied().collect(),
            in_hand: self.clone(),
        }
    }

    /// Stops the jobs under these claims.
    pub(super) fn stop(&self, cancelled: &[CancelledClaim]) {
        if cancelled.is_empty() {
            return;
        }
        let mut jobs = self.jobs();
        for claim in cancelled {
            if let Some(job) = jobs.get_mut(&claim.id) {
                job.cancelled = job.cancelled.max(claim.number);
                job.stop_if_cancelled();
            }
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<RequestId, Hand>> {
        // The map stays valid if a holder panics: no change under this lock can be left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Candidates that nobody else in this worker claims. Dropped, it frees them.
#[derive(Debug)]
pub(super) struct Taken {
    candidates: Vec<Candidate>,
    in_hand: InHand,
}

impl Taken {
    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Keeps only the `won` ones in hand, each until its own [`Held`] is dropped. All must be
    /// candidates.
    pub(super) fn keep(mut self, won: impl IntoIterator<Item = Claim>) -> Vec<Held> {
        let mut jobs = self.in_hand.jobs();
        let held = won.into_iter().map(|claim| {
            let job = jobs.entry(claim.id).or_default();
            job.held = Some(claim.number);
            job.stop_if_cancelled();
            Held {
                id: claim.id,
                stop: job.stop.clone(),
                in_hand: self.in_hand.clone(),
            }
        });
        let held = held.collect();
        self.candidates
            .retain(|it| jobs.get(&it.id).is_some_and(|job| job.held.is_none()));
        drop(jobs);
        held
        // `self` is dropped, which frees the others.
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut jobs = self.in_hand.jobs();
        for candidate in &self.candidates {
            jobs.remove(&candidate.id);
        }
    }
}

/// One job in hand. Dropped, it frees the job.
#[derive(Debug)]
pub(super) struct Held {
    id: RequestId,
    stop: CancellationToken,
    in_hand: InHand,
}

impl Held {
    /// Completes when the job's client has cancelled it.
    pub(super) async fn cancelled(&self) {
        self.stop.cancelled().await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.in_hand.jobs().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use storm_shared::{
        models::RequestId,
        services::store::{CancelledClaim, Candidate, Claim, OwnerId, Work},
    };

    use super::{Held, InHand, Taken};

    fn claim(id: RequestId, number: i64) -> Claim {
        Claim {
            id,
            work: Work::Job,
            owner: OwnerId::NOBODY,
            number,
        }
    }

    fn is_stopped(held: &Held) -> bool {
        held.cancelled().now_or_never().is_some()
    }

    fn ids(taken: &Taken) -> Vec<RequestId> {
        taken.candidates().iter().map(|it| it.id).collect()
    }

    #[test]
    fn a_job_is_in_one_claim_at_a_time_and_in_none_while_it_runs() {
        let in_hand = InHand::default();
        let [a, b, c] = [(); 3].map(|()| RequestId::generate());
        let candidates = [a, b, a, c].map(Candidate::notified);
        let first = in_hand.take(&candidates);
        assert_eq!(ids(&first), [a, b, c], "each once");
        assert!(ids(&in_hand.take(&candidates)).is_empty());

        let running = first.keep([claim(b, 1)]);
        assert_eq!(running.len(), 1);
        let second = in_hand.take(&candidates);
        assert_eq!(ids(&second), [a, c], "those that were not won are free");
        drop(second);
        drop(running);
        assert_eq!(ids(&in_hand.take(&candidates)), [a, b, c]);
    }

    #[test]
    fn a_cancelled_claim_stops_its_job_also_before_the_claim_is_answered() {
        let in_hand = InHand::default();
        let [a, b] = [(); 2].map(|()| RequestId::generate());
        let cancelled = |id, number| in_hand.stop(&[CancelledClaim { id, number }]);
        let taken = in_hand.take(&[a, b].map(Candidate::notified));
        cancelled(a, 1);
        let running = taken.keep([claim(a, 1), claim(b, 2)]);
        assert!(is_stopped(&running[0]) && !is_stopped(&running[1]));
        cancelled(b, 1);
        assert!(!is_stopped(&running[1]), "an earlier claim of it");
        cancelled(b, 2);
        assert!(is_stopped(&running[1]));
        // A heartbeat names a claim several times, also when its job is in hand again.
        drop(running);
        let again = in_hand.take(&[Candidate::notified(b)]).keep([claim(b, 4)]);
        cancelled(b, 2);
        assert!(!is_stopped(&again[0]));
    }
}
