//! The bounded read of an answer's body.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use storm_shared::memory::Reservation;
use tokio::time::{Instant, timeout_at};

use super::failures;
use crate::{
    delivery::{Shortage, answer::AnswerBody},
    handler::Failure,
};

/// The most bytes that are allocated for a body before they have come.
const MAX_CAPACITY: usize = 64 * 1024;

/// The most bytes of an error's body that operators see.
const MAX_SAMPLE: usize = 512;
/// The most time for reading an error's body. Its status has decided the attempt already.
const MAX_SAMPLE_TIME: Duration = Duration::from_secs(1);

/// The whole body, of at most `most` bytes.
///
/// `held` grows with it: by the length that the head tells as soon as the first byte is there, or
/// else part by part. While it can't, the socket is not read, and `deadline` moves on: the endpoint
/// is not charged for memory that this worker lacks.
pub(super) async fn read(
    mut body: Incoming,
    most: usize,
    mut deadline: Instant,
    held: &mut Reservation,
) -> Result<Vec<u8>, Failure> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > most {
        return Err(Failure::too_large(most));
    }
    let mut bytes = Vec::new();
    let mut has_waited = false;
    loop {
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(bytes),
            // Whoever had to wait for us may have lost patience.
            Ok(Some(Err(_))) if has_waited => return Err(Failure::shortage(Shortage::Budget)),
            Ok(Some(Err(error))) => return Err(failures::cut(&error)),
            Err(_elapsed) => {
                let read = bytes.len();
                return Err(failures::timed_out(&format!(
                    "the body of the answer did not end; {read} bytes of it came"
                )));
            }
        };
        let data = frame.data_ref().map_or(&[][..], Bytes::as_ref);
        if data.len() > most - bytes.len() {
            return Err(Failure::too_large(most));
        }
        let needed = (bytes.len() + data.len()).max(announced);
        let waited = reserve(held, needed).await;
        has_waited |= !waited.is_zero();
        deadline += waited;
        if bytes.is_empty() {
            bytes.reserve(announced.min(MAX_CAPACITY));
        }
        bytes.extend_from_slice(data);
    }
}

/// Makes `held` a reservation of at least `bytes`, as soon as there is room. Returns how long it
/// has waited.
pub(super) async fn reserve(held: &mut Reservation, bytes: usize) -> Duration {
    match bytes.checked_sub(held.bytes()) {
        Some(more) if more > 0 => held.grow_patiently(more).await,
        _ => Duration::ZERO,
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
