//! What a request's header fields say about its body.

use hyper::{
    HeaderMap,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING,
    },
};

use crate::reply::Problem;

/// Checks the fields of a request with a body of JSON, of up to `limit` bytes.
///
/// # Errors
/// The body is not declared as JSON, is coded, or is too large.
pub(super) fn check(headers: &HeaderMap, limit: usize) -> Result<(), Problem> {
    check_framing(headers)?;
    check_content_type(headers)?;
    if elements(headers, &CONTENT_ENCODING).any(|coding| !coding.eq_ignore_ascii_case(b"identity"))
    {
        return Err(Problem::encoded_body());
    }
    let length = headers.get(CONTENT_LENGTH);
    if length.is_some_and(|length| is_too_large(length, limit)) {
        return Err(Problem::body_too_large(limit));
    }
    Ok(())
}

/// Checks how the body is sent: as it is, or in chunks.
///
/// # Errors
/// It has a transfer coding other than `chunked`. hyper has undone the chunks only (RFC 9112,
/// section 6.1).
pub(super) fn check_framing(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = elements(headers, &TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::unsupported_transfer_coding()),
    }
}

/// Whether a content type is JSON.
pub(super) fn declares_json(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_TYPE).iter().any(is_json)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    match (kinds.next(), kinds.next()) {
        (Some(only), None) if !is_json(only) => Err(Problem::unsupported_media_type()),
        (Some(only), None) if !is_utf_8(only) => Err(Problem::unsupported_charset()),
        (Some(_), None) => Ok(()),
        (None, _) => Err(Problem::unsupported_media_type()),
        // Whoever stands before this service may take the other one for the right one.
        (Some(_), Some(_)) => Err(Problem::repeated_content_type()),
    }
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

/// Whether every `charset` parameter of a content type is UTF-8 or a part of it. JSON has no such
/// parameter (RFC 8259, section 11), but many clients send one.
fn is_utf_8(kind: &HeaderValue) -> bool {
    let parameters = kind.as_bytes().split(|&byte| byte == b';').skip(1);
    parameters.filter_map(charset).all(|charset| {
        [b"utf-8".as_slice(), b"utf8", b"us-ascii"]
            .iter()
            .any(|known| charset.eq_ignore_ascii_case(known))
    })
}

/// The value of a parameter that is `charset`, without quotes.
fn charset(parameter: &[u8]) -> Option<&[u8]> {
    let equals = parameter.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (&parameter[..equals], parameter[equals + 1..].trim_ascii());
    let unquoted = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    name.trim_ascii()
        .eq_ignore_ascii_case(b"charset")
        .then(|| unquoted.unwrap_or(value))
}

fn is_too_large(length: &HeaderValue, limit: usize) -> bool {
    // hyper has checked that it is a number, so a parse error is an overflow.
    length
        .to_str()
        .ok()
        .and_then(|length| length.parse().ok())
        .is_none_or(|length: usize| length > limit)
}

/// The elements of every field `name`, whose values are lists with commas. Empty ones do not count
/// (RFC 9110, section 5.6.1.2).
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use hyper::{
        HeaderMap,
        header::{CONTENT_ENCODING, HeaderName, HeaderValue, TRANSFER_ENCODING},
    };

    use super::{check, check_framing, is_json, is_too_large, is_utf_8};

    const LIMIT: usize = 1000;

    /// The header fields of a JSON request, and these.
    fn with(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.append("content-type", HeaderValue::from_static("application/json"));
        for value in values {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

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
    fn a_charset_other_than_utf_8_or_ascii_is_refused() {
        for (kind, accepted) in [
            ("application/json", true),
            ("application/json; charset=UTF-8", true),
            ("application/json;CharSet=\"utf-8\"; v=1", true),
            ("application/json; charset=us-ascii", true),
            ("application/json; charset", true),
            ("application/json; charset=utf-16", false),
            ("application/json; v=1; charset = \"iso-8859-1\"", false),
            ("application/json; charset=utf-8; charset=utf-16", false),
            ("application/json; charset=utf-8, text/plain", false),
            ("application/json; charset=", false),
        ] {
            assert_eq!(
                is_utf_8(&HeaderValue::from_static(kind)),
                accepted,
                "{kind}"
            );
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
                is_too_large(&HeaderValue::try_from(&length).unwrap(), LIMIT),
                too_large,
                "{length}"
            );
        }
    }

    #[test]
    fn only_an_uncompressed_body_is_accepted_in_any_number_of_fields() {
        for (codings, accepted) in [
            (["identity"].as_slice(), true),
            (&["Identity", "", "identity, ,identity"], true),
            (&["gzip"], false),
            (&["identity", "gzip"], false),
            (&["identity, br"], false),
            (&["unknown"], false),
        ] {
            let headers = with(&CONTENT_ENCODING, codings);
            assert_eq!(check(&headers, LIMIT).is_ok(), accepted, "{codings:?}");
        }
    }

    #[test]
    fn chunked_is_accepted_once_and_no_other_transfer_coding() {
        for (codings, accepted) in [
            ([].as_slice(), true),
            (&["chunked"], true),
            (&["Chunked", ""], true),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["chunked, chunked"], false),
            (&["identity"], false),
        ] {
            let headers = with(&TRANSFER_ENCODING, codings);
            assert_eq!(check_framing(&headers).is_ok(), accepted, "{codings:?}");
            assert_eq!(check(&headers, LIMIT).is_ok(), accepted, "{codings:?}");
        }
    }
}
