//! The `Retry-After` header.

use std::time::{Duration, SystemTime};

use hyper::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

/// The delay in `Retry-After` of a 429 or 503.
pub(super) fn asked_for(
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Option<Duration> {
    if !matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        return None;
    }
    in_headers(headers, now)
}

/// The delay in `Retry-After`, in seconds or as a date (RFC 9110). An invalid or repeated header is
/// ignored.
pub(crate) fn in_headers(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let mut values = headers.get_all(RETRY_AFTER).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let value = value.to_str().ok()?;
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number over 64 bits saturates: the caller caps the delay anyway.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER};

    use super::{StatusCode, asked_for};

    fn with(status: StatusCode, values: &[&'static str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(RETRY_AFTER, HeaderValue::from_static(value));
        }
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:00 GMT").unwrap();
        asked_for(status, &headers, now).map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_parsed_as_seconds_or_a_date_and_otherwise_ignored() {
        let busy = StatusCode::TOO_MANY_REQUESTS;
        for (value, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(with(busy, &[value]), seconds, "{value}");
        }
        assert_eq!(with(busy, &["1", "2"]), None);
        assert_eq!(with(busy, &[]), None);
    }

    #[test]
    fn retry_after_is_honoured_only_with_429_and_503() {
        for status in [301, 400, 408, 429, 500, 502, 503] {
            let asks = with(StatusCode::from_u16(status).unwrap(), &["7"]).is_some();
            assert_eq!(asks, matches!(status, 429 | 503), "{status}");
        }
    }
}
