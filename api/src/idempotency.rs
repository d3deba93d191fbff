//! The `Idempotency-Key` header, by which a client marks a repeat of its submission.
//!
//! Its name is from the IETF draft "The Idempotency-Key HTTP Header Field". Its value is taken as
//! it is, and not as the quoted string of that draft: with quotes it is another key.

use std::convert::Infallible;

use storm_shared::models::IdempotencyKey;
use warp::{
    Filter,
    http::{HeaderMap, HeaderValue},
};

use crate::reply::Problem;

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The idempotency key of the request, if it has one; or `400` if that is invalid or repeated.
pub fn idempotency_key()
-> impl Filter<Extract = (Result<Option<IdempotencyKey>, Problem>,), Error = Infallible> + Copy {
    // Checked first: most requests have no such header and need no copy of all headers.
    warp::header::value(IDEMPOTENCY_KEY)
        .and(warp::header::headers_cloned())
        .map(|_first: HeaderValue, headers: HeaderMap| single_value(&headers).map(Some))
        .or(warp::any().map(|| Ok(None)))
        .unify()
}

fn single_value(headers: &HeaderMap) -> Result<IdempotencyKey, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value
            .as_bytes()
            .try_into()
            .map_err(|error| Problem::bad_idempotency_key(&error)),
        _ => Err(Problem::repeated_idempotency_key()),
    }
}
