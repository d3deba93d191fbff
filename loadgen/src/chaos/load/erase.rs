//! Erasing requests: those that are over, and others that may not be erased yet.

use std::time::Duration;

use storm_shared::models::RequestId;
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Load, NEWEST, TIMEOUT, problem_type};
use crate::{
    answers::RequestFailure,
    chaos::{
        clock,
        history::{EraseAnswer, EraseAsked, Record},
        orders::FAVOURITES,
    },
};

/// How often something is erased during the load.
const ERASE_INTERVAL: Duration = Duration::from_millis(100);

impl Load {
    /// Erases requests until `over`, and waits for the responses. `seed` determines the choice: new
    /// jobs or any, but none of those that are redelivered all the time. Each is polled and
    /// redelivered as soon as it is erased, and half are redelivered in the same instant.
    pub(in crate::chaos) async fn erase_random(&self, seed: u64, over: &CancellationToken) {
        let mut random = fastrand::Rng::with_seed(seed.rotate_left(48));
        let requests = TaskTracker::new();
        while over
            .run_until_cancelled(sleep(ERASE_INTERVAL))
            .await
            .is_some()
        {
            let chosen = if random.bool() {
                self.newest(&mut random, NEWEST)
            } else {
                self.accepted(&mut random, usize::MAX)
            };
            let raced = random.bool();
            let Some(id) = chosen.filter(|id| !self.is_favourite(*id)) else {
                continue;
            };
            let load = self.clone();
            requests.spawn(async move {
                let is_erased = if raced {
                    tokio::join!(load.erase(id), load.redeliver(id)).0
                } else {
                    load.erase(id).await
                };
                if is_erased {
                    tokio::join!(load.poll(id), load.redeliver(id));
                }
            });
        }
        requests.close();
        requests.wait().await;
    }

    fn is_favourite(&self, id: RequestId) -> bool {
        let promised = super::lock(&self.shared.promised);
        promised.iter().take(FAVOURITES).any(|it| it.id == id)
    }

    /// Erases a request. Returns whether the answer says that it is erased.
    async fn erase(&self, id: RequestId) -> bool {
        let asked_at = clock::now();
        let erased = self.shared.api().erase(id, Instant::now() + TIMEOUT).await;
        let at = clock::now();
        let is_erased = erased.is_ok();
        let answer = match erased {
            Ok(erased_at) => EraseAnswer::Erased { erased_at },
            // The checker judges which refusals are true.
            Err(RequestFailure::Refused(status)) => EraseAnswer::Refused {
                status: status.as_u16(),
                problem: None,
            },
            Err(RequestFailure::Status(status, body)) => EraseAnswer::Refused {
                status: status.as_u16(),
                problem: problem_type(&body),
            },
            Err(RequestFailure::OutcomeUnknown) => EraseAnswer::OutcomeUnknown,
            Err(nothing) => {
                self.judge(&nothing);
                EraseAnswer::NoAnswer(nothing.to_string())
            }
        };
        self.shared.journal.record(Record::EraseAsked(EraseAsked {
            asked_at,
            at,
            id,
            answer,
        }));
        is_erased
    }
}
