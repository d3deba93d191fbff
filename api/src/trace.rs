//! The trace that a request belongs to.

use std::convert::Infallible;

use storm_shared::models::Traceparent;
use warp::{
    Filter,
    http::{HeaderMap, HeaderValue},
};

const TRACEPARENT: &str = "traceparent";

/// The trace of the request's header, if it has one: a header that is wrong, or there twice, is as good as
/// none, and never the request's fault.
pub fn traceparent() -> impl Filter<Extract = (Option<Traceparent>,), Error = Infallible> + Copy {
    // Whoever sends none, as most do, has no headers copied.
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
    fn a_header_that_is_wrong_or_there_twice_is_as_good_as_none() {
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
