//! The `Idempotency-Key` header, by which a client marks a repeat of its submission.
//!
//! Its name is from the IETF draft "The Idempotency-Key HTTP Header Field". Its value is taken as
//! it is, and not as the quoted string of that draft: with quotes it is another key.

use storm_shared::models::IdempotencyKey;
use warp::http::{HeaderMap, HeaderName};

use crate::reply::Problem;

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The idempotency key of the request, if it has one.
///
/// # Errors
/// It is invalid or repeated: `400`.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all(&IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .as_bytes()
            .try_into()
            .map(Some)
            .map_err(|error| Problem::bad_idempotency_key(&error)),
        (Some(_), Some(_)) => Err(Problem::repeated_idempotency_key()),
    }
}
