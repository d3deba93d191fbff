//! Repeats of a write whose outcome is unknown, until a deadline.

use std::time::Duration;

use storm_shared::services::store::StoreError;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The wait before the first repeat. Each further one is twice as long, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);

const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Makes a write and returns its result. If its outcome is unknown, repeats it until it succeeds,
/// the store is closed, or `limit` has passed.
///
/// # Errors
/// That of the first try; or, once the outcome was unknown, [`StoreError::Indeterminate`]: no later
/// error makes it known.
pub(crate) async fn until_known<T, F>(
    limit: Duration,
    write: impl Fn() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let deadline = Instant::now() + limit;
    let unknown = match write().await {
        Err(error) if error.is_indeterminate() => error,
        known => return known,
    };
    let mut wait = FIRST_WAIT;
    loop {
        let next = Instant::now() + wait;
        if next >= deadline {
            return Err(unknown);
        }
        sleep_until(next).await;
        match timeout_at(deadline, write()).await {
            Ok(Ok(written)) => return Ok(written),
            Ok(Err(StoreError::Closed)) | Err(_) => return Err(unknown),
            Ok(Err(_)) => {}
        }
        wait = (2 * wait).min(LONGEST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::ready, time::Duration};

    use storm_shared::services::store::{StoreError, Trouble};
    use tokio::time::Instant;

    use super::until_known;

    const LIMIT: Duration = Duration::from_secs(10);

    fn unknown() -> StoreError {
        StoreError::Indeterminate {
            trouble: Trouble::Io,
            message: "disk I/O error".into(),
        }
    }

    fn failed() -> StoreError {
        StoreError::Failed {
            trouble: Trouble::Full,
            message: "database or disk is full".into(),
        }
    }

    /// The result of writes that end in this way, one after the other; then all succeed. And how
    /// many were made.
    async fn written(
        errors: impl IntoIterator<Item = StoreError>,
    ) -> (Result<(), StoreError>, u32) {
        let (errors, made) = (RefCell::new(errors.into_iter()), RefCell::new(0));
        let write = || {
            *made.borrow_mut() += 1;
            ready(errors.borrow_mut().next().map_or(Ok(()), Err))
        };
        let written = until_known(LIMIT, write).await;
        (written, made.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_with_a_known_outcome_is_not_repeated() {
        let (written_once, made) = written([]).await;
        written_once.unwrap();
        assert_eq!(made, 1);
        let (refused, made) = written([failed()]).await;
        assert!(matches!(refused, Err(StoreError::Failed { .. })));
        assert_eq!(made, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_with_an_unknown_outcome_is_repeated_until_it_succeeds() {
        let errors = [unknown(), failed(), StoreError::QueueFull, unknown()];
        let (accepted, made) = written(errors).await;
        accepted.unwrap();
        assert_eq!(made, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_limit_or_the_end_of_the_store_the_outcome_stays_unknown() {
        let begun = Instant::now();
        let (unknown_still, made) =
            written(std::iter::once(unknown()).chain((0..99).map(|_| failed()))).await;
        assert!(unknown_still.unwrap_err().is_indeterminate());
        assert!(begun.elapsed() <= LIMIT && made > 10, "{made}");

        let (unknown_still, made) = written([unknown(), StoreError::Closed]).await;
        assert!(unknown_still.unwrap_err().is_indeterminate());
        assert_eq!(made, 2);

        // A repeat that gets no answer is not waited for beyond the limit.
        let tries = RefCell::new(0);
        let hangs = until_known::<(), _>(LIMIT, || {
            *tries.borrow_mut() += 1;
            let is_first = *tries.borrow() == 1;
            async move {
                if is_first {
                    return Err(unknown());
                }
                std::future::pending().await
            }
        });
        assert!(hangs.await.unwrap_err().is_indeterminate());
    }
}
