//! The requests that a client has sent on one connection, read back from the bytes.

use std::fmt::Write as _;

/// A request, as far as it could be read.
#[derive(Debug)]
pub(crate) struct SentRequest {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    /// `None` if it was not sent as a whole.
    pub(crate) body: Option<Vec<u8>>,
}

/// What was sent and is not answered yet.
#[derive(Default)]
pub(crate) struct Sent {
    bytes: Vec<u8>,
    /// Set once it is not known any more where the next request begins.
    is_lost: bool,
}

impl Sent {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        if !self.is_lost {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The test reads the answers itself.
    pub(crate) fn lose(&mut self) {
        self.is_lost = true;
        self.bytes.clear();
    }

    /// The request that the next answer is for. `None` if it is not valid HTTP, or not known.
    pub(crate) fn next(&mut self) -> Option<SentRequest> {
        if self.is_lost {
            return None;
        }
        let read = read(&self.bytes);
        match read {
            Some((request, Some(length))) => {
                self.bytes.drain(..length);
                Some(request)
            }
            Some((request, None)) => {
                self.lose();
                Some(request)
            }
            None => {
                self.lose();
                None
            }
        }
    }
}

impl SentRequest {
    /// The path of the target, which can be absolute.
    pub(crate) fn path(&self) -> &str {
        let target = self.target.split(['?', '#']).next().unwrap_or_default();
        match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => target,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let mut values = self
            .headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name));
        values.next().map(|(_, value)| value.clone())
    }

    /// The first value of a parameter.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(known, _)| *known == name)?;
        Some(decoded(value))
    }
}

/// A request and its length, if all of it is there.
fn read(bytes: &[u8]) -> Option<(SentRequest, Option<usize>)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    if !words.next()?.starts_with("HTTP/1.") || words.next().is_some() {
        return None;
    }
    let mut headers = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = SentRequest {
        method,
        target,
        headers,
        body: None,
    };
    let rest = &bytes[end..];
    let body = if request.header("transfer-encoding").is_some() {
        chunked(rest)
    } else {
        let length = match request.header("content-length") {
            None => 0,
            Some(length) => length.parse().ok()?,
        };
        rest.get(..length).map(|body| (body.to_vec(), length))
    };
    let length = body.as_ref().map(|(_, length)| end + length);
    request.body = body.map(|(body, _)| body);
    Some((request, length))
}

/// A chunked body without trailers, and its length on the wire.
fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let line = bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        let begin = at + line + 2;
        body.extend_from_slice(bytes.get(begin..begin + size)?);
        at = begin + size + 2;
        if bytes.len() < at {
            return None;
        }
        if size == 0 {
            return Some((body, at));
        }
    }
}

/// A value of a query without its percent encoding.
fn decoded(value: &str) -> String {
    let mut decoded = String::new();
    let mut parts = value.split('%');
    decoded.push_str(&parts.next().unwrap_or_default().replace('+', " "));
    for part in parts {
        match part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(byte) => {
                decoded.push(char::from(byte));
                decoded.push_str(&part[2..].replace('+', " "));
            }
            None => {
                let _ = write!(decoded, "%{part}");
            }
        }
    }
    decoded
}
