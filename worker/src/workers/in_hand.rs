//! The jobs that this worker claims or runs right now.
//!
//! A claim whose outcome is unknown is repeated, and returns what the worker holds under the claim
//! numbers that it asked for. The rows do not tell which call has won them. So a job is named in
//! one call at a time, and in none while it runs: whatever a repeat returns is then its own.
//!
//! Whatever ends jobs early stops them here: a cancellation, which a heartbeat names, the loss of
//! the lease, and the deadline of the drain. So a job waits for one thing, and not for three.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use storm_shared::{
    models::RequestId,
    services::store::{CancelledClaim, Candidate, Claim, OwnerId},
};
use tokio::sync::oneshot;

/// The set of these jobs. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct InHand(Arc<Mutex<HashMap<RequestId, Hand>>>);

/// What is known of a job in hand.
#[derive(Debug, Default)]
struct Hand {
    /// Once its claim is won.
    held: Option<HeldClaim>,
    /// The highest claim number that was cancelled. A heartbeat can name a claim before the answer
    /// to the claim itself is there.
    cancelled: i64,
}

#[derive(Debug)]
struct HeldClaim {
    claim: Claim,
    /// Stops the job, once.
    stop: Option<oneshot::Sender<Stop>>,
}

/// Why a job is stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The drain has reached its deadline.
    Over,
    /// Its lease was lost.
    LeaseLost,
    /// Its client has cancelled it.
    Cancelled,
}

impl HeldClaim {
    fn stop(&mut self, why: Stop) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(why); // the job may be about to end
        }
    }
}

impl Hand {
    fn stop_if_cancelled(&mut self) {
        if let Some(held) = &mut self.held
            && held.claim.number <= self.cancelled
        {
            held.stop(Stop::Cancelled);
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

    /// Those of the `claims` whose jobs are not in hand, neither claimed nor run.
    pub(super) fn without(&self, mut claims: Vec<Claim>) -> impl Iterator<Item = Claim> + use<> {
        let jobs = self.jobs();
        claims.retain(|claim| !jobs.contains_key(&claim.id));
        claims.into_iter()
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

    /// Stops the jobs that `owner` holds, whose lease was lost.
    pub(super) fn lose(&self, owner: OwnerId) {
        self.stop_held(Stop::LeaseLost, |claim| claim.owner == owner);
    }

    /// Stops all jobs: the drain is over.
    pub(super) fn end(&self) {
        self.stop_held(Stop::Over, |_| true);
    }

    fn stop_held(&self, why: Stop, whose: impl Fn(&Claim) -> bool) {
        let mut jobs = self.jobs();
        let held = jobs.values_mut().filter_map(|job| job.held.as_mut());
        held.filter(|held| whose(&held.claim))
            .for_each(|held| held.stop(why));
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
    /// candidates. They are stopped at once if `ended` says why.
    ///
    /// It is asked under the lock: what ends jobs comes about before they are stopped, so either
    /// this sees it, or these jobs are stopped with the others.
    pub(super) fn keep(
        mut self,
        won: impl IntoIterator<Item = Claim>,
        ended: impl FnOnce() -> Option<Stop>,
    ) -> Vec<Held> {
        let mut jobs = self.in_hand.jobs();
        let ended = ended();
        let held = won.into_iter().map(|claim| {
            let job = jobs.entry(claim.id).or_default();
            let (stop, stopped) = oneshot::channel();
            let held = job.held.insert(HeldClaim {
                claim,
                stop: Some(stop),
            });
            if let Some(why) = ended {
                held.stop(why);
            }
            job.stop_if_cancelled();
            Held {
                id: claim.id,
                stopped,
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
    stopped: oneshot::Receiver<Stop>,
    in_hand: InHand,
}

impl Held {
    /// Completes when the job may not go on, and says why. Once.
    pub(super) async fn stopped(&mut self) -> Stop {
        match (&mut self.stopped).await {
            Ok(why) => why,
            // It is kept until `self` is dropped.
            Err(_no_sender) => pending().await,
        }
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

    use super::{Held, InHand, Stop, Taken};

    fn claim(id: RequestId, number: i64) -> Claim {
        Claim {
            id,
            work: Work::Job,
            owner: OwnerId::NOBODY,
            number,
        }
    }

    fn stopped(held: &mut Held) -> Option<Stop> {
        held.stopped().now_or_never()
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

        let running = first.keep([claim(b, 1)], || None);
        assert_eq!(running.len(), 1);
        let claims = [a, b, c].map(|id| claim(id, 1)).to_vec();
        let others: Vec<_> = in_hand.without(claims.clone()).map(|it| it.id).collect();
        assert_eq!(others, [a, c]);
        let second = in_hand.take(&candidates);
        assert_eq!(ids(&second), [a, c], "those that were not won are free");
        assert_eq!(in_hand.without(claims).count(), 0);
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
        let mut running = taken.keep([claim(a, 1), claim(b, 2)], || None);
        assert_eq!(stopped(&mut running[0]), Some(Stop::Cancelled));
        assert_eq!(stopped(&mut running[1]), None);
        cancelled(b, 1);
        assert_eq!(stopped(&mut running[1]), None, "an earlier claim of it");
        cancelled(b, 2);
        assert_eq!(stopped(&mut running[1]), Some(Stop::Cancelled));
        // A heartbeat names a claim several times, also when its job is in hand again.
        drop(running);
        let again = in_hand.take(&[Candidate::notified(b)]);
        let mut again = again.keep([claim(b, 4)], || None);
        cancelled(b, 2);
        assert_eq!(stopped(&mut again[0]), None);
    }

    #[test]
    fn a_lost_lease_stops_the_jobs_under_it_and_the_end_of_the_drain_stops_all() {
        let in_hand = InHand::default();
        let owners = [(); 2].map(|()| OwnerId::generate());
        let mut running = owners.map(|owner| {
            let id = RequestId::generate();
            let taken = in_hand.take(&[Candidate::notified(id)]);
            let claim = Claim {
                owner,
                ..claim(id, 1)
            };
            taken.keep([claim], || None).remove(0)
        });
        in_hand.lose(owners[0]);
        let now = |running: &mut [Held; 2]| running.each_mut().map(stopped);
        assert_eq!(now(&mut running), [Some(Stop::LeaseLost), None]);
        in_hand.end();
        assert_eq!(stopped(&mut running[1]), Some(Stop::Over));
    }

    #[test]
    fn a_claim_that_is_answered_after_the_loss_of_its_lease_stops_at_once() {
        let (in_hand, id) = (InHand::default(), RequestId::generate());
        let taken = in_hand.take(&[Candidate::notified(id)]);
        in_hand.lose(OwnerId::NOBODY);
        let mut running = taken.keep([claim(id, 1)], || Some(Stop::LeaseLost));
        assert_eq!(stopped(&mut running[0]), Some(Stop::LeaseLost));
    }
}
