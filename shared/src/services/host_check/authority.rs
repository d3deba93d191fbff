//! `host[:port]`, as in a `Host` header.

use std::net::Ipv6Addr;

/// A host and a port, as they were sent. The host is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Parses `host[:port]` (RFC 9110, section 7.2). The port may be empty, the host may not.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (host, rest) = text.split_at(host_length(text)?);
        let port = match rest.strip_prefix(':') {
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            None if rest.is_empty() => None,
            _ => return None,
        };
        Some(Self { host, port })
    }

    /// The host: a name, an IPv4 address, or an IPv6 address in brackets.
    pub const fn host(self) -> &'a str {
        self.host
    }

    /// The port, if it was sent.
    pub const fn port(self) -> Option<u16> {
        self.port
    }
}

/// The length of the host at the beginning of `text`, which is not zero.
fn host_length(text: &str) -> Option<usize> {
    if let Some(literal) = text.strip_prefix('[') {
        let length = literal.find(']')?;
        return is_ipv6(&literal[..length]).then_some(length + 2);
    }
    let length = text.find(':').unwrap_or(text.len());
    (length > 0 && text[..length].bytes().all(is_of_a_name)).then_some(length)
}

/// An IPv6 address, and optionally a zone, which our own `healthcheck` sends for an address of a
/// link.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "none"));
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.bytes().all(is_of_a_name)
}

/// The characters of a registered name (RFC 3986, section 3.2.2).
fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::Authority;

    #[test]
    fn a_host_and_an_optional_port_are_parsed() {
        for (text, host, port) in [
            ("localhost", "localhost", None),
            ("localhost:8000", "localhost", Some(8000)),
            ("LocalHost.:", "LocalHost.", None),
            ("api_1.internal:80", "api_1.internal", Some(80)),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[fe80::1%2]:80", "[fe80::1%2]", Some(80)),
            ("[::ffff:127.0.0.1]:8000", "[::ffff:127.0.0.1]", Some(8000)),
        ] {
            let authority = Authority::parse(text).expect(text);
            assert_eq!((authority.host(), authority.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_authority() {
        for text in [
            "",
            ":8000",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "a@b",
            "user:secret@localhost",
            "http://localhost",
            "localhost:x",
            "localhost:+80",
            "localhost:65536",
            "localhost:80:80",
            "::1",
            "[::1",
            "[::1]8000",
            "[::1]x",
            "[localhost]",
            "[v1.a]",
            "[::1%]",
            "[%lo]",
            "[]",
            "loc\u{e4}lhost",
        ] {
            assert_eq!(Authority::parse(text), None, "{text}");
        }
    }
}
