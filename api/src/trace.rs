//! The `traceparent` header (W3C Trace Context).

use storm_shared::models::Traceparent;
use warp::http::{HeaderMap, HeaderName};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The `traceparent` of the request, if it is valid. An invalid or repeated header is ignored, as
/// the specification requires.
pub fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use warp::http::{HeaderMap, HeaderValue};

    use super::{TRACEPARENT, traceparent};

    #[test]
    fn an_invalid_or_repeated_traceparent_is_ignored() {
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
                headers.append(&TRACEPARENT, HeaderValue::from_bytes(value).unwrap());
            }
            assert_eq!(traceparent(&headers).is_some(), taken, "{headers:?}");
        }
    }
}
