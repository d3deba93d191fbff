//! The `traceparent` header (W3C Trace Context).

use std::convert::Infallible;

use storm_shared::models::Traceparent;
use warp::{
    Filter,
    http::{HeaderMap, HeaderValue},
};

const TRACEPARENT: &str = "traceparent";

/// The caller's trace, if it sent a valid one. An invalid or repeated header is ignored, as the
/// specification requires.
pub fn traceparent() -> impl Filter<Extract = (Option<Traceparent>,), Error = Infallible> + Copy {
    // Checked first, so that requests without one, the most, do not pay for a copy of the headers.
    warp::header::value(TRACEPARENT)
        .and(warp::header::headers_cloned())
        .map(|_first: HeaderValue, headers: HeaderMap| the_only(&headers))
        .or(warp::any().map(|| None))
        .unify()
}

fn the_only(headers: &HeaderMap) -> Option<Traceparent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use warp::http::{HeaderMap, HeaderValue};

    use super::{TRACEPARENT, the_only};

    #[test]
    fn an_invalid_or_repeated_header_is_ignored() {
        let right = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".as_slice();
        for (values, taken) in [
            ([right].as_slice(), true),
            (&[right, right], false),
            (&[right, b""], false),
            (&[b""], false),
            (&[b"\xff"], false),
            (&[b"00-0-0-00"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT, HeaderValue::from_bytes(value).unwrap());
            }
            assert_eq!(the_only(&headers).is_some(), taken, "{headers:?}");
        }
    }
}
