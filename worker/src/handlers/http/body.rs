//! The bounded read of an answer's body.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use storm_shared::memory::Reservation;
use tokio::time::{Instant, timeout_at};

use super::failures;
use crate::{delivery::answer::AnswerBody, handler::Failure};

/// The most bytes that are allocated for a body before they have come.
const MAX_CAPACITY: usize = 64 * 1024;

/// The most bytes of an error's body that operators see.
const MAX_SAMPLE: usize = 512;
/// The most time for reading an error's body. Its status has decided the attempt already.
const MAX_SAMPLE_TIME: Duration = Duration::from_secs(1);

/// The whole body, of at most `most` bytes. `held` grows with it, past the limit if it must: the
/// work was done, and without its result it would be done again.
pub(super) async fn read(
    mut body: Incoming,
    most: usize,
    deadline: Instant,
    held: &mut Reservation,
) -> Result<Vec<u8>, Failure> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > most {
        return Err(failures::too_large(most));
    }
    let mut bytes = Vec::with_capacity(announced.min(MAX_CAPACITY));
    let collected = timeout_at(deadline, async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| failures::cut(&error))?;
            let data = frame.data_ref().map_or(&[][..], Bytes::as_ref);
            if data.len() > most - bytes.len() {
                return Err(failures::too_large(most));
            }
            held.grow(data.len());
            bytes.extend_from_slice(data);
        }
        Ok(())
    });
    match collected.await {
        Ok(Ok(())) => Ok(bytes),
        Ok(Err(failure)) => Err(failure),
        Err(_) => {
            let read = bytes.len();
            Err(failures::timed_out(&format!(
                "the body of the answer did not end; {read} bytes of it came"
            )))
        }
    }
}

/// The beginning of an error's body.
pub(super) struct Sample {
    /// At most 512 bytes.
    pub(super) bytes: Vec<u8>,
    /// Whether the whole body was read, so that its connection can be used again.
    pub(super) is_whole: bool,
}

/// Reads the beginning of `body`, and reads on for a while, so that its connection can be kept.
pub(super) async fn sample(mut body: Incoming, deadline: Instant) -> Sample {
    let mut bytes = Vec::new();
    let until = deadline.min(Instant::now() + MAX_SAMPLE_TIME);
    let read = timeout_at(until, async {
        while bytes.len() < MAX_SAMPLE {
            match body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], Bytes::as_ref);
                    let room = MAX_SAMPLE - bytes.len();
                    bytes.extend_from_slice(&data[..data.len().min(room)]);
                }
                Some(Err(_)) => return false,
                None => return true,
            }
        }
        AnswerBody::new(body).drain().await
    });
    let is_whole = read.await.unwrap_or(false);
    Sample { bytes, is_whole }
}
