//! Pausing and resuming, as an operator: everything for a short time, and one origin at a time for
//! so long that a callback which should not have begun is later than any that had.

use std::{ops::Range, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Load, REPEAT_AFTER, TIMEOUT};
use crate::{
    answers::RequestFailure,
    chaos::{
        clock,
        history::{PauseAnswer, PauseAsked, Record},
    },
};

/// The time between two pauses of everything, and the length of one, in milliseconds.
const BETWEEN: Range<u64> = 6_000..12_000;
const LENGTH: Range<u64> = 500..1_500;

/// The same for origins. A pause is judged from 4.5 s on (`cancel_grace`, with the default lease).
const ORIGINS_BETWEEN: Range<u64> = 1_000..4_000;
const ORIGINS_LENGTH: Range<u64> = 6_000..8_000;

/// The time before the first ones, so that each run has some.
const FIRST: Duration = Duration::from_secs(2);

impl Load {
    /// Pauses and resumes until `over`. Everything is resumed then. `seed` determines the choice.
    pub(in crate::chaos) async fn pause_random(&self, seed: u64, over: &CancellationToken) {
        let mut random = fastrand::Rng::with_seed(seed.rotate_left(8));
        let mut others = random.fork();
        let of_everything = async {
            let mut wait = FIRST;
            while over.run_until_cancelled(sleep(wait)).await.is_some() {
                let length = random.u64(LENGTH);
                self.pause_for(None, Duration::from_millis(length), over)
                    .await;
                wait = Duration::from_millis(random.u64(BETWEEN));
            }
        };
        let of_origins = async {
            let mut wait = FIRST;
            while over.run_until_cancelled(sleep(wait)).await.is_some() {
                let origin = others.choice(&self.shared.origins);
                let length = others.u64(ORIGINS_LENGTH);
                let origin = origin.map(String::as_str);
                self.pause_for(origin, Duration::from_millis(length), over)
                    .await;
                wait = Duration::from_millis(others.u64(ORIGINS_BETWEEN));
            }
        };
        tokio::join!(of_everything, of_origins);
    }

    async fn pause_for(&self, origin: Option<&str>, time: Duration, over: &CancellationToken) {
        self.set_paused(origin, true).await;
        over.run_until_cancelled(sleep(time)).await;
        self.set_paused(origin, false).await;
    }

    /// Pauses every origin, or resumes it.
    pub(in crate::chaos) async fn set_origins_paused(&self, pauses: bool) {
        for origin in &self.shared.origins {
            self.set_paused(Some(origin), pauses).await;
        }
    }

    /// Asks until a `200` says that it is done.
    async fn set_paused(&self, origin: Option<&str>, pauses: bool) {
        while !self.ask_to_pause(origin, pauses).await {
            sleep(REPEAT_AFTER).await;
        }
    }

    /// Returns whether it is done, or refused for good. The checker judges that.
    async fn ask_to_pause(&self, origin: Option<&str>, pauses: bool) -> bool {
        let asked_at = clock::now();
        let deadline = Instant::now() + TIMEOUT;
        let answer = self.shared.operator().pause(origin, pauses, deadline).await;
        let at = clock::now();
        let (answer, is_over) = match answer {
            Ok(changed) => (PauseAnswer::Done { changed }, true),
            Err(RequestFailure::Refused(status)) => (PauseAnswer::Refused(status.as_u16()), false),
            Err(RequestFailure::Status(status, _)) => (PauseAnswer::Refused(status.as_u16()), true),
            Err(nothing) => {
                self.judge(&nothing);
                (PauseAnswer::Unknown(nothing.to_string()), false)
            }
        };
        self.shared.journal.record(Record::PauseAsked(PauseAsked {
            asked_at,
            at,
            origin: origin.map(str::to_owned),
            pauses,
            answer,
        }));
        is_over
    }
}
