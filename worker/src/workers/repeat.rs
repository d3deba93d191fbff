//! Repeats of a write to the store until its outcome is known.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use storm_shared::{models::RequestId, services::store::StoreError};
use tracing::warn;

/// Why a write was given up.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub(super) error: StoreError,
    /// Whether the outcome of an earlier try is unknown: it may have been committed.
    pub(super) may_be_committed: bool,
}

/// Repeats a write under a claim with exponential backoff until it succeeds, the claim is lost, or
/// the store is closed.
pub(super) async fn until_written<F>(id: RequestId, write: impl Fn() -> F) -> Result<(), GivenUp>
where
    F: Future<Output = Result<(), StoreError>>,
{
    let mut waits = waits();
    let mut may_be_committed = false;
    loop {
        let Err(error) = write().await else {
            return Ok(());
        };
        // A lost claim stays lost, and a closed store takes no more writes.
        if matches!(error, StoreError::ClaimLost | StoreError::Closed) {
            return Err(GivenUp {
                error,
                may_be_committed,
            });
        }
        may_be_committed |= error.is_indeterminate();
        let after = waits.next().unwrap_or(LONGEST_WAIT);
        warn!(%id, %error, ?after, "a write is retried");
        tokio::time::sleep(after).await;
    }
}

/// Makes a claim. If its outcome is unknown, repeats it by `again` until it is known: otherwise
/// jobs could stay `PROCESSING` under a lease that goes on, although nobody runs them.
///
/// # Errors
/// That of `first`, or [`StoreError::LeaseLost`], after which other workers have the jobs, or
/// [`StoreError::Closed`].
pub(super) async fn until_claimed<T, F>(
    first: impl Future<Output = Result<T, StoreError>>,
    again: impl Fn() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut waits = waits();
    let mut claimed = first.await;
    // Once it is unknown, no other error makes it known.
    let mut is_unknown = false;
    loop {
        let error = match claimed {
            Err(error @ (StoreError::LeaseLost | StoreError::Closed)) => return Err(error),
            Err(error) if is_unknown || error.is_indeterminate() => error,
            known => return known,
        };
        is_unknown = true;
        let after = waits.next().unwrap_or(LONGEST_WAIT);
        warn!(%error, ?after, "a claim is repeated: its outcome is unknown");
        tokio::time::sleep(after).await;
        claimed = again().await;
    }
}

const LONGEST_WAIT: Duration = Duration::from_secs(2);

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(LONGEST_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        future::ready,
        sync::{Mutex, PoisonError},
    };

    use storm_shared::{
        models::RequestId,
        services::store::{StoreError, Trouble},
    };

    use super::{GivenUp, until_claimed, until_written};

    fn unknown() -> StoreError {
        StoreError::Indeterminate {
            trouble: Trouble::Io,
            message: "disk I/O error".into(),
        }
    }

    fn failed() -> StoreError {
        StoreError::Failed {
            trouble: Trouble::Busy,
            message: "database is locked".into(),
        }
    }

    /// Answers that calls get one after the other. There must be as many calls.
    struct Script<T>(Mutex<VecDeque<Result<T, StoreError>>>);

    impl<T> Script<T> {
        fn of(answers: impl IntoIterator<Item = Result<T, StoreError>>) -> Self {
            Self(Mutex::new(answers.into_iter().collect()))
        }

        fn next(&self) -> Result<T, StoreError> {
            let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            answers.pop_front().expect("one call more than expected")
        }

        fn is_over(&self) -> bool {
            self.0.lock().unwrap().is_empty()
        }
    }

    async fn written(
        answers: impl IntoIterator<Item = Result<(), StoreError>>,
    ) -> Result<(), GivenUp> {
        let script = Script::of(answers);
        let written = until_written(RequestId::generate(), || ready(script.next())).await;
        assert!(script.is_over());
        written
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_repeated_until_it_succeeds() {
        written([Ok(())]).await.unwrap();
        let answers = [Err(failed()), Err(unknown()), Err(failed()), Ok(())];
        written(answers).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_lost_after_an_unknown_outcome_is_told_from_a_claim_lost() {
        for (before, may_be_committed) in [
            (vec![], false),
            (vec![Err(failed())], false),
            (vec![Err(unknown())], true),
            (vec![Err(unknown()), Err(failed())], true),
        ] {
            let answers = before.into_iter().chain([Err(StoreError::ClaimLost)]);
            let given_up = written(answers).await.unwrap_err();
            assert!(matches!(given_up.error, StoreError::ClaimLost));
            assert_eq!(given_up.may_be_committed, may_be_committed);
        }
        let given_up = written([Err(StoreError::Closed)]).await.unwrap_err();
        assert!(matches!(given_up.error, StoreError::Closed));
    }

    async fn claimed(
        first: Result<u32, StoreError>,
        repeats: impl IntoIterator<Item = Result<u32, StoreError>>,
    ) -> Result<u32, StoreError> {
        let script = Script::of(repeats);
        let claimed = until_claimed(ready(first), || ready(script.next())).await;
        assert!(script.is_over());
        claimed
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_claim_whose_outcome_is_unknown_is_repeated() {
        assert_eq!(claimed(Ok(1), []).await.unwrap(), 1);
        let error = claimed(Err(failed()), []).await.unwrap_err();
        assert!(matches!(error, StoreError::Failed { .. }), "{error}");

        // A repeat that fails leaves the outcome of the first try unknown.
        let repeats = [Err(failed()), Err(unknown()), Ok(2)];
        assert_eq!(claimed(Err(unknown()), repeats).await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_no_longer_repeated_once_the_lease_is_lost() {
        for last in [StoreError::LeaseLost, StoreError::Closed] {
            let said = last.to_string();
            let repeats = [Err(failed()), Err(last)];
            let error = claimed(Err(unknown()), repeats).await.unwrap_err();
            assert_eq!(error.to_string(), said);
        }
    }
}
