//! Reads a request's body: it must be declared as JSON, and its size and time are limited. Where
//! no body is taken, one is refused.
//!
//! warp's own `content_length_limit` answers `411` to a chunked body. This module reads chunked
//! bodies as well, up to the same limit.

use std::{convert::Infallible, time::Duration};

use bytes::{Buf, BufMut};
use futures_util::{Stream, StreamExt};
use tokio::time::timeout;
use warp::{Filter, Rejection, http::HeaderValue};

use crate::reply::Problem;

/// The largest body, in bytes.
pub const LIMIT: usize = 16 << 10;

/// How much of a refused body is read and discarded, in bytes.
const DISCARDED: usize = 1 << 20;

/// Reads the body of a request with a JSON content type within the time `limit`.
pub fn json(
    limit: Duration,
) -> impl Filter<Extract = (Result<Vec<u8>, Problem>,), Error = Rejection> + Copy {
    header("content-type")
        .and(header("content-length"))
        .and(warp::body::stream())
        .then(
            move |kind: Option<HeaderValue>, length: Option<HeaderValue>, body| async move {
                // The head alone is enough for both refusals, so neither waits for the body.
                if !kind.is_some_and(|kind| is_json(&kind)) {
                    discard(body, limit);
                    return Err(Problem::unsupported_media_type());
                }
                if length.is_some_and(|length| is_too_large(&length)) {
                    discard(body, limit);
                    return Err(Problem::body_too_large(LIMIT));
                }
                read(body, limit).await
            },
        )
}

/// Refuses a body, and waits for its absence within the time `limit`.
///
/// A web page can send bodies of a few media types to other sites, such as `text/plain`, so that
/// no route may ignore what it was sent.
pub fn none(
    limit: Duration,
) -> impl Filter<Extract = (Result<(), Problem>,), Error = Rejection> + Copy {
    header("content-type").and(warp::body::stream()).then(
        move |kind: Option<HeaderValue>, mut body| async move {
            let has_body = timeout(limit, has_data(&mut body)).await;
            let has_body = has_body.map_err(|_| Problem::body_timeout(limit))??;
            if !has_body {
                return Ok(());
            }
            discard(body, limit);
            if kind.is_some_and(|kind| is_json(&kind)) {
                Err(Problem::unexpected_body())
            } else {
                Err(Problem::no_media_type())
            }
        },
    )
}

fn header(
    name: &'static str,
) -> impl Filter<Extract = (Option<HeaderValue>,), Error = Infallible> + Copy {
    warp::header::value(name)
        .map(Some)
        .or(warp::any().map(|| None))
        .unify()
}

/// Whether a content type is `application/json`, with any parameters.
fn is_json(kind: &HeaderValue) -> bool {
    let essence = kind
        .as_bytes()
        .split(|&byte| byte == b';')
        .next()
        .unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
}

fn is_too_large(length: &HeaderValue) -> bool {
    // hyper has checked that it is a number, so a parse error is an overflow.
    length
        .to_str()
        .ok()
        .and_then(|length| length.parse().ok())
        .is_none_or(|length: usize| length > LIMIT)
}

/// The result of reading a body.
enum BodyRead {
    Whole(Vec<u8>),
    TooLarge,
    Broken,
}

async fn read<S, B>(mut body: S, limit: Duration) -> Result<Vec<u8>, Problem>
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin + Send + 'static,
    B: Buf,
{
    match timeout(limit, collect(&mut body)).await {
        Ok(BodyRead::Whole(body)) => Ok(body),
        Ok(BodyRead::TooLarge) => {
            discard(body, limit);
            Err(Problem::body_too_large(LIMIT))
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
        whole.put(chunk);
    }
    BodyRead::Whole(whole)
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

#[cfg(test)]
mod tests {
    use warp::http::HeaderValue;

    use super::{LIMIT, is_json, is_too_large};

    #[test]
    fn a_json_content_type_is_accepted_in_any_case_and_with_parameters() {
        for (kind, json) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/json; charset=utf-8", true),
            ("application/json ;q=1", true),
            ("application/jsonp", false),
            ("application/problem+json", false),
            ("text/json", false),
            ("", false),
        ] {
            assert_eq!(is_json(&HeaderValue::from_static(kind)), json, "{kind}");
        }
    }

    #[test]
    fn a_length_of_one_byte_over_the_limit_is_too_large() {
        for (length, too_large) in [
            ("0".to_owned(), false),
            (LIMIT.to_string(), false),
            ((LIMIT + 1).to_string(), true),
            ("9".repeat(40), true),
        ] {
            assert_eq!(
                is_too_large(&HeaderValue::try_from(&length).unwrap()),
                too_large,
                "{length}"
            );
        }
    }
}
