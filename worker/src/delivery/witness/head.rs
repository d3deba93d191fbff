//! Follows the head of an answer, byte by byte, up to its final status.

/// The most interim (1xx) heads before the final status. Servers send one or two.
const MAX_INTERIM: u8 = 16;
/// The most bytes of them in all.
const MAX_INTERIM_BYTES: usize = 64 * 1024;

/// What a status line begins with. The name is case-sensitive (RFC 9112, section 2.3).
const PREFIX: &[u8] = b"HTTP/1.";

/// How far the head of one answer has been followed.
///
/// It is more tolerant than an HTTP parser, since it needs nothing but the status: lines may end
/// without CR, spaces may be repeated, and a reason phrase or a header may hold any bytes.
#[derive(Debug, Default)]
pub(super) struct Head {
    at: At,
    interim: u8,
    interim_bytes: usize,
    status: Option<u16>,
    is_odd: bool,
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug)]
enum At {
    /// Before a status line, or in its prefix: that many bytes of it were seen.
    Prefix(usize),
    /// The minor version.
    Version,
    /// The spaces before the status code.
    Spaces,
    /// After this many digits of the status code.
    Code { digits: u8, value: u16 },
    /// The rest of the status line.
    Reason,
    /// The first byte of a header line, after a CR if `cr`.
    Line { cr: bool },
    /// The name of a header.
    Name,
    /// The value of a header, after a CR if `cr`.
    Value { cr: bool },
    /// After the final head: what follows is no part of it.
    Body,
    /// These bytes are no HTTP/1.x.
    Garbage,
}

impl Default for At {
    fn default() -> Self {
        Self::Prefix(0)
    }
}

impl Head {
    /// The final status: any but an interim one. It is known once its three digits are followed by
    /// a space or by the line's end.
    pub(super) const fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether a header line was not plain: folded, without a colon or a name, with a space in its
    /// name or a control character. Two parsers may disagree on where such an answer ends.
    pub(super) const fn is_odd(&self) -> bool {
        self.is_odd
    }

    /// Whether there were more interim heads than an honest server sends.
    pub(super) const fn is_endless(&self) -> bool {
        self.status.is_none()
            && (self.interim > MAX_INTERIM || self.interim_bytes > MAX_INTERIM_BYTES)
    }

    /// Follows the next bytes of the connection.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if matches!(self.at, At::Body | At::Garbage) || self.is_endless() {
                return;
            }
            self.at = self.step(*byte);
            if self.interim > 0 {
                self.interim_bytes += 1;
            }
        }
    }

    fn step(&mut self, byte: u8) -> At {
        match (self.at, byte) {
            // A receiver may send an empty line too many after its last answer.
            (At::Prefix(0), b'\r' | b'\n') => At::Prefix(0),
            (At::Prefix(seen), _) if byte == PREFIX[seen] => match seen + 1 {
                whole if whole == PREFIX.len() => At::Version,
                part => At::Prefix(part),
            },
            (At::Version, b'0'..=b'9') | (At::Spaces, b' ') => At::Spaces,
            (At::Spaces, b'1'..=b'9') => At::Code {
                digits: 1,
                value: u16::from(byte - b'0'),
            },
            (At::Code { digits, value }, b'0'..=b'9') if digits < 3 => At::Code {
                digits: digits + 1,
                value: value * 10 + u16::from(byte - b'0'),
            },
            (At::Code { digits: 3, value }, b' ' | b'\t' | b'\r' | b'\n') => {
                self.found(value);
                after_status(byte)
            }
            (At::Prefix(_) | At::Version | At::Spaces | At::Code { .. }, _) => At::Garbage,
            (At::Reason, _) => after_status(byte),
            (At::Line { .. }, b'\n') => self.ended(),
            (At::Line { cr: false }, b'\r') => At::Line { cr: true },
            (At::Line { .. } | At::Name | At::Value { .. }, _) => self.header(byte),
            (At::Body | At::Garbage, _) => self.at,
        }
    }

    fn found(&mut self, status: u16) {
        // 101 is final: no other head follows it.
        if (100..200).contains(&status) && status != 101 {
            self.interim += 1;
        } else {
            self.status = Some(status);
        }
    }

    fn header(&mut self, byte: u8) -> At {
        let is_plain = match self.at {
            At::Line { cr: false } => is_token(byte),
            At::Name => byte == b':' || is_token(byte),
            At::Value { cr: false } => matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~' | 0x80..),
            At::Value { cr: true } => byte == b'\n',
            _ => false,
        };
        self.is_odd |= !is_plain;
        match (self.at, byte) {
            (_, b'\n') => At::Line { cr: false },
            (At::Value { .. }, _) => At::Value { cr: byte == b'\r' },
            (_, b':') => At::Value { cr: false },
            _ => At::Name,
        }
    }

    /// A head is over, at its empty line.
    fn ended(&self) -> At {
        if self.status.is_some() {
            At::Body
        } else {
            At::Prefix(0)
        }
    }
}

fn after_status(byte: u8) -> At {
    if byte == b'\n' {
        At::Line { cr: false }
    } else {
        At::Reason
    }
}

/// The characters of a header's name (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::{Head, MAX_INTERIM, MAX_INTERIM_BYTES};

    /// Follows `text` in pieces of one byte and in one piece, which must not differ.
    fn followed(text: &str) -> Head {
        let (mut whole, mut bytewise) = (Head::default(), Head::default());
        whole.read(text.as_bytes());
        for byte in text.as_bytes() {
            bytewise.read(&[*byte]);
        }
        assert_eq!(format!("{whole:?}"), format!("{bytewise:?}"));
        whole
    }

    #[test]
    fn the_status_is_known_once_its_digits_have_ended() {
        for (text, status) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 503\r\n", Some(503)),
            ("HTTP/1.1 204\n", Some(204)),
            ("HTTP/1.1 200 O\0K", Some(200)),
            ("HTTP/1.1   299 x", Some(299)),
            ("\r\n\n\r\nHTTP/1.1 410 x", Some(410)),
            ("HTTP/1.1 101 Switching\r\n", Some(101)),
            ("HTTP/1.1 999 \r\n", Some(999)),
            ("HTTP/1.1 200", None),
            ("HTTP/1.1 20", None),
            ("HTTP/1.1 2000 x\r\n", None),
            ("HTTP/1.1 20 x\r\n", None),
            ("HTTP/1.1 099 x\r\n", None),
            ("HTTP/1.1 -20 x\r\n", None),
            ("HTTP/1.1 OK 200\r\n", None),
            ("HTTP/1.1\t200 OK\r\n", None),
            ("HTTP/1.x 200 OK\r\n", None),
            ("HTTP/2 200 OK\r\n", None),
            ("http/1.1 200 OK\r\n", None),
            ("ICY 200 OK\r\n", None),
            ("ok\nHTTP/1.1 200 OK\r\n", None),
            (" HTTP/1.1 200 OK\r\n", None),
        ] {
            assert_eq!(followed(text).status(), status, "{text:?}");
        }
    }

    #[test]
    fn interim_heads_are_skipped_whatever_they_hold() {
        for interim in [
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103\nlink: HTTP/1.1 500 No\n\n",
            "HTTP/1.1 102 x\r\nno colon\r\n folded\r\n\r\n",
            "HTTP/1.1 100 \r\n\r\n\r\nHTTP/1.1 199 x\r\na: b\r\n\r\n",
        ] {
            assert_eq!(followed(interim).status(), None, "{interim:?}");
            let text = format!("{interim}HTTP/1.1 201 Made\r\nx: HTTP/1.1 500 No\r\n\r\n");
            assert_eq!(followed(&text).status(), Some(201), "{text:?}");
        }
    }

    #[test]
    fn a_body_that_looks_like_a_head_changes_nothing() {
        let text = "HTTP/1.1 200 OK\r\na: b\r\n\r\nHTTP/1.1 500 No\r\n bad\r\n\r\n";
        assert_eq!(followed(text).status(), Some(200));
        assert!(!followed(text).is_odd());
    }

    #[test]
    fn a_line_that_parsers_disagree_on_makes_a_head_odd() {
        for (line, is_odd) in [
            ("a: b", false),
            ("a:", false),
            ("a: b:c\t\"d\" \u{e9}", false),
            ("!#$%&'*+-.^_`|~09azAZ: x", false),
            ("a : b", true),
            ("a b: c", true),
            (" a: b", true),
            ("\ta: b", true),
            ("no colon", true),
            ("nocolon", true),
            (": b", true),
            ("a: b\rc: d", true),
            ("a: b\r\rc", true),
            ("\ra: b", true),
            ("a\0: b", true),
            ("a: \0", true),
            ("a: \x7f", true),
            ("\u{e9}: b", true),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\nx: y\r\n{line}\r\n\r\n");
            assert_eq!(followed(&text).is_odd(), is_odd, "{line:?}");
        }
    }

    #[test]
    fn interim_heads_are_bounded_in_number_and_in_bytes() {
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        let few = interim.repeat(MAX_INTERIM.into());
        assert!(!followed(&few).is_endless());
        assert!(followed(&format!("{few}{interim}")).is_endless());
        let last = format!("{few}HTTP/1.1 200 OK\r\n");
        assert_eq!(followed(&last).status(), Some(200));

        let field = |length| format!("HTTP/1.1 103 x\r\na: {}", "x".repeat(length));
        assert!(!followed(&field(MAX_INTERIM_BYTES - 100)).is_endless());
        assert!(followed(&field(MAX_INTERIM_BYTES + 1)).is_endless());
    }
}
