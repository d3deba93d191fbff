//! What the body of an answer is: JSON, a text, or something else.

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::failures;
use crate::{
    delivery::detail::one_line,
    handler::{Failure, Output},
};

/// What a body without a content type is (RFC 9110, section 8.3).
const UNKNOWN: &str = "application/octet-stream";

/// The longest content type that is kept.
const MAX_LENGTH: usize = 255;

/// The names of UTF-8 and of a part of it.
const UTF_8: [&str; 4] = ["utf-8", "utf8", "us-ascii", "ascii"];

/// The content type of a body.
pub(super) struct ContentType<'a> {
    /// As it was sent.
    text: &'a str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
    Other,
}

/// Refuses a coding of the body, since we have asked for none.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    let is_identity = |value: &HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        value.is_empty() || value.eq_ignore_ascii_case(b"identity")
    };
    if headers.get_all(CONTENT_ENCODING).iter().all(is_identity) {
        Ok(())
    } else {
        let detail = "the handler's answer has a content-encoding, which was not asked for";
        Err(failures::invalid(detail))
    }
}

impl<'a> ContentType<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let sent = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let known = sent
            .map(str::trim)
            .filter(|text| !text.is_empty() && text.len() <= MAX_LENGTH);
        let text = known.unwrap_or(UNKNOWN);
        Self {
            text,
            kind: kind_of(text),
        }
    }

    /// The result that `body` is.
    pub(super) fn output(&self, body: Vec<u8>) -> Result<Output, Failure> {
        if body.is_empty() {
            return Ok(Output::null());
        }
        match self.kind {
            Kind::Json => json(body),
            Kind::Text => Ok(match String::from_utf8(body) {
                Ok(text) => Output::text(&text),
                Err(error) => Output::bytes(self.text, error.as_bytes()),
            }),
            Kind::Other => Ok(Output::bytes(self.text, &body)),
        }
    }

    /// The bytes of the result that `body` is, at the most. It costs no memory.
    pub(super) fn output_size(&self, body: &[u8]) -> usize {
        match self.kind {
            Kind::Json => body.len(),
            // A text that is not UTF-8 is encoded as other content is.
            Kind::Text => escaped(body).max(self.encoded(body)),
            Kind::Other => self.encoded(body),
        }
    }

    /// The size of other content.
    fn encoded(&self, body: &[u8]) -> usize {
        const FIELDS: usize = r#"{"content_type":,"base64":""}"#.len();
        FIELDS + escaped(self.text.as_bytes()) + body.len().div_ceil(3) * 4
    }

    /// The beginning of a body on one line, if it is a text for people.
    pub(super) fn text_of(&self, body: &[u8]) -> Option<String> {
        let is_text = self.kind != Kind::Other && !body.is_empty();
        is_text.then(|| one_line(&String::from_utf8_lossy(body), body.len()))
    }
}

/// JSON as the endpoint has sent it.
fn json(mut body: Vec<u8>) -> Result<Output, Failure> {
    // A byte order mark, which some libraries write, may be ignored (RFC 8259, section 8.1).
    if body.starts_with(b"\xef\xbb\xbf") {
        body.drain(..3);
    }
    let unusable = |error: &str| failures::invalid(format!("the handler's answer: {error}"));
    let text = String::from_utf8(body).map_err(|_| unusable("the result's JSON is not UTF-8"))?;
    Output::from_json(text).map_err(|error| unusable(&error.to_string()))
}

/// The bytes of a text as a JSON string.
fn escaped(text: &[u8]) -> usize {
    let bytes = text.iter().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    });
    2 + bytes.sum::<usize>()
}

/// JSON by the definition of the MIME Sniffing standard (WHATWG). A text in another charset is
/// something else.
fn kind_of(content_type: &str) -> Kind {
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    if matches!(essence.as_str(), "application/json" | "text/json") || essence.ends_with("+json") {
        return Kind::Json;
    }
    let mut charsets = parts.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    });
    let is_utf_8 = charsets.all(|charset| UTF_8.contains(&charset.as_str()));
    if essence.starts_with("text/") && is_utf_8 {
        Kind::Text
    } else {
        Kind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::{ContentType, Kind, kind_of};

    #[test]
    fn no_result_is_larger_than_the_room_that_was_made_for_it() {
        let all: Vec<u8> = (0..=255).collect();
        let escapes: Vec<u8> = (0..128).collect();
        for text in ["application/json", "text/plain", "image/png", "a\"/b"] {
            let content_type = ContentType {
                text,
                kind: kind_of(text),
            };
            for body in [&b"1"[..], b"[1, 2]", b"  3 ", &all, &escapes] {
                let Ok(output) = content_type.output(body.to_vec()) else {
                    assert_eq!(content_type.kind, Kind::Json);
                    continue;
                };
                let (size, most) = (output.as_str().len(), content_type.output_size(body));
                assert!(size <= most, "{text}: {size} of {most}");
                let is_text = content_type.kind == Kind::Text;
                if !is_text && content_type.kind != Kind::Json || is_text && body.len() == 128 {
                    assert_eq!(size, most, "{text}: exactly");
                }
            }
        }
    }

    #[test]
    fn json_and_text_are_told_by_the_content_type() {
        for (content_type, kind) in [
            ("application/json", Kind::Json),
            ("Application/JSON; charset=utf-8", Kind::Json),
            ("application/problem+json", Kind::Json),
            ("application/vnd.a.b+JSON;v=1", Kind::Json),
            ("text/json", Kind::Json),
            ("application/jsonp", Kind::Other),
            ("application/json-seq", Kind::Other),
            ("application/x-ndjson", Kind::Other),
            ("text/plain", Kind::Text),
            ("text/html; charset=UTF-8", Kind::Text),
            ("TEXT/CSV; header=present; Charset=\"utf8\"", Kind::Text),
            ("text/plain; charset=us-ascii", Kind::Text),
            ("text/plain; charset", Kind::Text),
            ("text/plain; charset=iso-8859-1", Kind::Other),
            ("text/plain; charset=utf-8; charset=utf-16", Kind::Other),
            ("text/plain; charset=", Kind::Other),
            ("application/octet-stream", Kind::Other),
            ("image/svg+xml", Kind::Other),
            ("text", Kind::Other),
            (";", Kind::Other),
        ] {
            assert_eq!(kind_of(content_type), kind, "{content_type}");
        }
    }
}
