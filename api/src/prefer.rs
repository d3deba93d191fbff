//! The `Prefer` header (RFC 7240): how long the client of a submission waits for its result.
//!
//! Preferences that are unknown or malformed are ignored, as the RFC requires, and of those that
//! are repeated the first one counts.

use std::{borrow::Cow, time::Duration};

use warp::http::{HeaderMap, HeaderName};

use crate::waiters::MAX_WAIT;

static PREFER: HeaderName = HeaderName::from_static("prefer");

/// What a client prefers, of the preferences that are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefer {
    /// `respond-async`: a `202` is fine.
    pub respond_async: bool,
    /// `wait`: how long the client waits for the result, at most [`MAX_WAIT`]. `None` without it.
    pub wait: Option<Duration>,
}

impl Prefer {
    /// The preferences of the request: none, if it has no such header.
    pub fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(&PREFER).iter();
        let preferences = lines.flat_map(|line| split(line.as_bytes(), b','));
        let (mut respond_async, mut wait) = (None, None);
        for (name, value) in preferences.filter_map(preference) {
            if name.eq_ignore_ascii_case(b"respond-async") {
                respond_async.get_or_insert(value.is_empty());
            } else if name.eq_ignore_ascii_case(b"wait") {
                wait.get_or_insert(seconds(&value));
            }
        }
        Self {
            respond_async: respond_async.unwrap_or_default(),
            wait: wait.flatten(),
        }
    }
}

/// The parts of `text` between the separators that are not in a quoted string.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |&byte| {
        if is_escaped {
            is_escaped = false;
            return false;
        }
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\\' => is_escaped = is_quoted,
            _ => {}
        }
        !is_quoted && byte == separator
    })
}

/// The name of a preference, and its value without quotes: empty if it has none. Parameters are
/// left out: no known preference has any. `None` if it is malformed.
fn preference(text: &[u8]) -> Option<(&[u8], Cow<'_, [u8]>)> {
    let text = split(text, b';').next()?;
    let mut parts = text.splitn(2, |byte| *byte == b'=');
    let name = parts.next()?.trim_ascii();
    let value = parts.next().map_or(Some(Cow::default()), word)?;
    (is_token(name) && !name.is_empty()).then_some((name, value))
}

/// The value of a token or of a quoted string.
fn word(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let text = text.trim_ascii();
    let Some(quoted) = text.strip_prefix(b"\"") else {
        return is_token(text).then_some(Cow::Borrowed(text));
    };
    let mut bytes = quoted.iter();
    let mut value = Vec::with_capacity(quoted.len());
    loop {
        match bytes.next()? {
            b'"' => return bytes.next().is_none().then_some(Cow::Owned(value)),
            b'\\' => value.push(*bytes.next()?),
            byte => value.push(*byte),
        }
    }
}

/// RFC 9110, section 5.6.2. An empty text counts as one here.
fn is_token(text: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    text.iter().all(is_tchar)
}

/// The time in a number of whole seconds, at most [`MAX_WAIT`].
fn seconds(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Digits alone fail only if they are too many.
    let seconds = std::str::from_utf8(value).ok()?.parse().unwrap_or(u64::MAX);
    Some(Duration::from_secs(seconds).min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use warp::http::{HeaderMap, HeaderValue};

    use super::{PREFER, Prefer};

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let line = |line: &&[u8]| (PREFER.clone(), HeaderValue::from_bytes(line).unwrap());
        lines.iter().map(line).collect()
    }

    /// Whether `respond-async` is preferred, and the seconds of `wait`.
    fn read(lines: &[&str]) -> (bool, Option<u64>) {
        let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        let prefer = Prefer::of(&headers(&lines));
        (prefer.respond_async, prefer.wait.map(|wait| wait.as_secs()))
    }

    #[test]
    fn preferences_are_read_from_lists_lines_and_quoted_values() {
        let both = (true, Some(10));
        for line in [
            "respond-async, wait=10",
            "wait=10,respond-async",
            " , RESPOND-Async ,, Wait = 10 ,",
            "respond-async; foo=bar, wait=10;x=\"a,b;c\";y",
            "return=minimal, respond-async=\"\", wait=\"10\"",
            r#"foo="a\", wait=1", respond-async, wait="\10""#,
            "wait=10, handling=lenient, respond-async, wait=3",
        ] {
            assert_eq!(read(&[line]), both, "{line}");
        }
        assert_eq!(read(&["respond-async", "foo", "wait=10"]), both);
        assert_eq!(read(&["respond-async"]), (true, None));
        assert_eq!(read(&["wait=0"]), (false, Some(0)));
    }

    #[test]
    fn of_repeated_preferences_the_first_one_counts() {
        assert_eq!(read(&["wait=5, wait=10"]), (false, Some(5)));
        assert_eq!(read(&["wait=5", "WAIT=10"]), (false, Some(5)));
        assert_eq!(read(&["wait=soon, wait=10"]), (false, None));
    }

    #[test]
    fn a_wait_over_the_bound_is_clipped() {
        for line in ["wait=60", "wait=61", "wait=99999999999999999999999"] {
            assert_eq!(read(&[line]), (false, Some(60)), "{line}");
        }
    }

    #[test]
    fn unknown_and_malformed_preferences_are_ignored() {
        for line in [
            "",
            ",;=\"",
            "wait",
            "wait=",
            "wait=\"\"",
            "wait=-1",
            "wait=+1",
            "wait=1.5",
            "wait=10s",
            "wait=1 0",
            "wait==10",
            "wait=\"10",
            "wait=\"10\"x",
            "wait=\"10\\",
            "=10",
            "waiting=10",
            "wait 10",
            "foo; wait=10",
            "foo=\"wait=10, respond-async",
            "respond-async=no",
        ] {
            assert_eq!(read(&[line]), (false, None), "{line}");
        }
        // One that is malformed hides none beside it.
        assert_eq!(read(&["foo=(, wait=10"]), (false, Some(10)));
        let lines: [&[u8]; 2] = [b"foo=\"\xff\"", b"wait=10"];
        let wait = Some(Duration::from_secs(10));
        assert_eq!(Prefer::of(&headers(&lines)).wait, wait);
    }
}
