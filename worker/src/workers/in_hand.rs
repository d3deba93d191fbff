//! The jobs that this worker claims or runs right now.
//!
//! A claim whose outcome is unknown is repeated, and returns what the worker holds under the claim
//! numbers that it asked for. The rows do not tell which call has won them. So a job is named in
//! one call at a time, and in none while it runs: whatever a repeat returns is then its own.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use storm_shared::{models::RequestId, services::store::Candidate};

/// The set of these jobs. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct InHand(Arc<Mutex<HashSet<RequestId>>>);

impl InHand {
    /// Takes those of the `candidates` that are free.
    pub(super) fn take(&self, candidates: &[Candidate]) -> Taken {
        let mut ids = self.ids();
        let free = candidates.iter().filter(|it| ids.insert(it.id));
        Taken {
            candidates: free.copied().collect(),
            in_hand: self.clone(),
        }
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<RequestId>> {
        // A set stays valid if a holder panics: an insert either happens or not.
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
    pub(super) fn keep(mut self, won: impl IntoIterator<Item = RequestId>) -> Vec<Held> {
        let won: Vec<_> = won.into_iter().collect();
        let kept: HashSet<_> = won.iter().collect();
        self.candidates.retain(|it| !kept.contains(&it.id));
        let held = won.into_iter().map(|id| Held {
            id,
            in_hand: self.in_hand.clone(),
        });
        held.collect()
        // `self` is dropped, which frees the others.
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut ids = self.in_hand.ids();
        for candidate in &self.candidates {
            ids.remove(&candidate.id);
        }
    }
}

/// One job in hand. Dropped, it frees the job.
#[derive(Debug)]
pub(super) struct Held {
    id: RequestId,
    in_hand: InHand,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.in_hand.ids().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::{models::RequestId, services::store::Candidate};

    use super::{InHand, Taken};

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

        let running = first.keep([b]);
        assert_eq!(running.len(), 1);
        let second = in_hand.take(&candidates);
        assert_eq!(ids(&second), [a, c], "those that were not won are free");
        drop(second);
        drop(running);
        assert_eq!(ids(&in_hand.take(&candidates)), [a, b, c]);
    }
}
