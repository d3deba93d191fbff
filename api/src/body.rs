//! Reads a request's body: it must be declared as JSON, and its size and time are limited. Where
//! no body is taken, one is refused.
//!
//! warp's own `content_length_limit` answers `411` to a chunked body. This module reads chunked
//! bodies as well, up to the same limit.

mod head;

use std::time::Duration;

use bytes::{Buf, BufMut};
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyDataStream, BodyExt as _};
use hyper::{Request, body::Incoming};
use storm_shared::memory::{MemoryBudget, Reservation};
use tokio::time::timeout;
use warp::{Filter, Rejection, http::HeaderMap};

use crate::reply::Problem;

/// The largest body, in bytes, of all paths but those of handlers: that of a handler may have its
/// payload in addition.
pub const LIMIT: usize = 16 << 10;

/// How much of a refused body is read and discarded, in bytes: more than any body that is taken has
/// (`max_payload` is at most 4 MiB). So its client gets the refusal, whatever the reason.
const DISCARDED: usize = 5 << 20;

/// A body that has been read.
#[derive(Debug)]
pub struct Body {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// As many bytes of the memory budget.
    pub memory: Reservation,
}

/// A body that has not been read yet, and the header fields of its request.
pub struct Unread<S> {
    /// These.
    pub headers: HeaderMap,
    stream: S,
}

impl Unread<BodyDataStream<Incoming>> {
    /// The body of a request that warp has not seen.
    pub fn of(request: Request<Incoming>) -> Self {
        let (head, body) = request.into_parts();
        Self {
            headers: head.headers,
            stream: body.into_data_stream(),
        }
    }
}

/// The body of a request. warp hands it out once, so no filter after this may reject the request.
pub fn unread() -> impl Filter<
    Extract = (
        Unread<impl Stream<Item = Result<impl Buf + Send, warp::Error>> + Unpin + Send + 'static>,
    ),
    Error = Rejection,
> + Copy {
    // All fields at once: warp has no filter for a field that is repeated, and one for a field that
    // is missing would cost as much as this copy.
    warp::header::headers_cloned()
        .and(warp::body::stream())
        .map(|headers, stream| Unread { headers, stream })
}

impl<S, B, E> Unread<S>
where
    S: Stream<Item = Result<B, E>> + Unpin + Send + 'static,
    B: Buf,
    E: Send,
{
    /// Reads it within the time `limit`, if it has a JSON content type and at most `most` bytes.
    /// Each part of it is reserved in `memory` before it is kept.
    ///
    /// # Errors
    /// It is refused, by its header fields before it is read.
    pub async fn json(
        self,
        most: usize,
        limit: Duration,
        memory: &MemoryBudget,
    ) -> Result<Body, Problem> {
        // The head alone is enough for a refusal, which does not wait for the body.
        if let Err(refusal) = head::check(&self.headers, most) {
            self.discard(limit);
            return Err(refusal);
        }
        read(self.stream, most, limit, memory.reservation()).await
    }

    /// Reads and discards it within the time `limit`, while its request is refused.
    pub fn discard(self, limit: Duration) {
        discard(self.stream, limit);
    }
}

/// Reads the body of a request with a JSON content type within the time `limit`, up to [`LIMIT`]
/// bytes. Each part of it is reserved in `memory` before it is kept.
pub fn json(
    limit: Duration,
    memory: MemoryBudget,
) -> impl Filter<Extract = (Result<Body, Problem>,), Error = Rejection> + Clone {
    unread().then(move |body: Unread<_>| {
        let memory = memory.clone();
        async move { body.json(LIMIT, limit, &memory).await }
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

async fn read<S, B, E>(
    mut body: S,
    most: usize,
    limit: Duration,
    memory: Reservation,
) -> Result<Body, Problem>
where
    S: Stream<Item = Result<B, E>> + Unpin + Send + 'static,
    B: Buf,
    E: Send,
{
    match timeout(limit, collect(&mut body, most, memory)).await {
        Ok(BodyRead::Whole(body)) => Ok(body),
        Ok(BodyRead::TooLarge) => {
            discard(body, limit);
            Err(Problem::body_too_large(most))
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

/// The body broke off.
pub(crate) fn broken() -> Problem {
    Problem::malformed_body("The body ended early, or its chunks are broken.")
}

async fn collect<B: Buf, E>(
    body: &mut (impl Stream<Item = Result<B, E>> + Unpin),
    most: usize,
    mut memory: Reservation,
) -> BodyRead {
    let mut whole = Vec::new();
    while let Some(chunk) = body.next().await {
        let Ok(chunk) = chunk else {
            return BodyRead::Broken;
        };
        // Before the copy: a chunked body declares no length, and one chunk can exceed the limit.
        if whole.len() + chunk.remaining() > most {
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
