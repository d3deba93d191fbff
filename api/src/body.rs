//! Reads a request's body: it must be declared as JSON, and its size and time are limited. Where
//! no body is taken, one is refused.
//!
//! warp's own `content_length_limit` answers `411` to a chunked body. This module reads chunked
//! bodies as well, up to the same limit.

mod head;

use std::time::Duration;

use bytes::{Buf, BufMut};
use futures_util::{Stream, StreamExt};
use storm_shared::memory::{MemoryBudget, Reservation};
use tokio::time::timeout;
use warp::{Filter, Rejection, http::HeaderMap};

use crate::reply::Problem;

/// The largest body, in bytes.
pub const LIMIT: usize = 16 << 10;

/// How much of a refused body is read and discarded, in bytes.
const DISCARDED: usize = 1 << 20;

/// A body that has been read.
#[derive(Debug)]
pub struct Body {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// As many bytes of the memory budget.
    pub memory: Reservation,
}

/// Reads the body of a request with a JSON content type within the time `limit`. Each part of it is
/// reserved in `memory` before it is kept.
pub fn json(
    limit: Duration,
    memory: MemoryBudget,
) -> impl Filter<Extract = (Result<Body, Problem>,), Error = Rejection> + Clone {
    // All fields at once: warp has no filter for a field that is repeated, and one for a field that
    // is missing would cost as much as this copy.
    warp::header::headers_cloned()
        .and(warp::body::stream())
        .then(move |headers: HeaderMap, body| {
            let memory = memory.reservation();
            async move {
                // The head alone is enough for a refusal, which does not wait for the body.
                if let Err(refusal) = head::check(&headers) {
                    discard(body, limit);
                    return Err(refusal);
                }
                read(body, limit, memory).await
            }
        })
}

/// Refuses a body, and waits for its absence within the time `limit`.
///
/// A web page can send bodies of a few media types to other sites, such as `text/plain`, so that
/// no route may ignore what it was sent.
pub fn none(
    limit: Duration,
) -> impl Filter<Extract = (Result<(), Problem>,), Error = Rejection> + Copy {
    warp::header::headers_cloned()
        .and(warp::body::stream())
        .then(move |headers: HeaderMap, mut body| async move {
            if let Err(refusal) = head::check_framing(&headers) {
                discard(body, limit);
                return Err(refusal);
            }
            let has_body = timeout(limit, has_data(&mut body)).await;
            let has_body = has_body.map_err(|_| Problem::body_timeout(limit))??;
            if !has_body {
                return Ok(());
            }
            discard(body, limit);
            if head::declares_json(&headers) {
                Err(Problem::unexpected_body())
            } else {
                Err(Problem::no_media_type())
            }
        })
}

/// The result of reading a body.
enum BodyRead {
    Whole(Body),
    TooLarge,
    NoMemory,
    Broken,
}

async fn read<S, B>(mut body: S, limit: Duration, memory: Reservation) -> Result<Body, Problem>
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin + Send + 'static,
    B: Buf,
{
    match timeout(limit, collect(&mut body, memory)).await {
        Ok(BodyRead::Whole(body)) => Ok(body),
        Ok(BodyRead::TooLarge) => {
            discard(body, limit);
            Err(Problem::body_too_large(LIMIT))
        }
        Ok(BodyRead::NoMemory) => {
            discard(body, limit);
            Err(Problem::memory_budget_exceeded())
        }
        Ok(BodyRead::Broken) => Err(broken()),
        // Not discarded: the body had its time, and this answer closes the connection.
        Err(_) => Err(Problem::body_timeout(limit)),
    }
}

/// Whether a body has at least one byte.
async fn has_data<B: Buf>(
    body: &mut (impl Stream<Item = Result<B, warp::Error>> + Unpin),
) -> Result<bool, Problem> {
    while let Some(chunk) = body.next().await {
        if chunk.map_err(|_| broken())?.has_remaining() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn broken() -> Problem {
    Problem::malformed_body("The body ended early, or its chunks are broken.")
}

async fn collect<B: Buf>(
    body: &mut (impl Stream<Item = Result<B, warp::Error>> + Unpin),
    mut memory: Reservation,
) -> BodyRead {
    let mut whole = Vec::new();
    while let Some(chunk) = body.next().await {
        let Ok(chunk) = chunk else {
            return BodyRead::Broken;
        };
        // Before the copy: a chunked body declares no length, and one chunk can exceed the limit.
        if whole.len() + chunk.remaining() > LIMIT {
            return BodyRead::TooLarge;
        }
        if memory.try_grow(chunk.remaining()).is_err() {
            return BodyRead::NoMemory;
        }
        whole.put(chunk);
    }
    BodyRead::Whole(Body {
        bytes: whole,
        memory,
    })
}

/// Reads and discards the rest of a refused body, within limits of size and time.
///
/// Closing a connection while the client still sends resets it, and the client may then never see
/// the refusal (RFC 9112, section 9.6).
pub(crate) fn discard<B: Buf, E: Send>(
    mut body: impl Stream<Item = Result<B, E>> + Unpin + Send + 'static,
    limit: Duration,
) {
    // In a task of its own, so that the refusal is not delayed.
    tokio::spawn(timeout(limit, async move {
        let mut discarded = 0;
        while let Some(Ok(chunk)) = body.next().await {
            discarded += chunk.remaining();
            if discarded > DISCARDED {
                break;
            }
        }
    }));
}
