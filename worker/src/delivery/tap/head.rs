//! Follows the head of an answer, byte by byte, up to its final status.

/// The most interim (1xx) heads before the final status. Servers send one or two.
const MAX_INTERIM: u8 = 16;
/// The most bytes of them in all, with the empty lines before a status line.
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
    /// The bytes of interim heads, and of empty lines before a status line.
    skipped: usize,
    status: Option<u16>,
    is_ambiguous: bool,
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug)]
enum At {
    /// Before a status line, or in its prefix: that many bytes of it were seen.
    Prefix(usize),
    /// The minor version.
    Version,
    /// After this many spaces before the status code.
    Spaces(u8),
    /// After this many digits of the status code.
    Code { digits: u8, value: u16 },
    /// The rest of the status line, after a CR if `cr`.
    Reason { cr: bool },
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

    /// Whether a line was not plain, in an interim head or the final one. A header line: folded,
    /// without a colon or a name, with a space in its name or a control character. A status line:
    /// of a later version, without one space before the code, or with a control character. Two
    /// parsers may disagree on where such an answer ends.
    pub(super) const fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }

    /// Whether there were more interim heads than an honest server sends.
    pub(super) const fn is_endless(&self) -> bool {
        self.status.is_none()
            && self.interim > 0
            && (self.interim > MAX_INTERIM || self.skipped > MAX_INTERIM_BYTES)
    }

    /// Whether any byte of an answer has come. An empty line before a status line is no part of it.
    pub(super) const fn has_begun(&self) -> bool {
        self.interim > 0 || !matches!(self.at, At::Prefix(0))
    }

    /// Whether the last bytes are the beginning of a status line that may still be an interim one.
    pub(super) const fn is_undecided(&self) -> bool {
        matches!(
            self.at,
            At::Prefix(1..) | At::Version | At::Spaces(_) | At::Code { .. }
        )
    }

    /// Follows the next bytes of the connection. Returns how many of them stand before the final
    /// head, as far as that is known: those of interim heads and of empty lines.
    pub(super) fn read(&mut self, bytes: &[u8]) -> usize {
        let mut before = 0;
        for (index, byte) in bytes.iter().enumerate() {
            if matches!(self.at, At::Body | At::Garbage) || self.is_endless() {
                break;
            }
            self.at = self.step(*byte);
            if self.is_before_final() {
                before = index + 1;
            }
            if self.interim > 0 || !self.has_begun() {
                self.skipped += 1;
            }
        }
        before
    }

    /// Whether the last byte was one of an interim head or of an empty line.
    const fn is_before_final(&self) -> bool {
        self.status.is_none() && !self.is_undecided() && !matches!(self.at, At::Garbage)
    }

    fn step(&mut self, byte: u8) -> At {
        match (self.at, byte) {
            // A receiver may send an empty line too many after its last answer.
            (At::Prefix(0), b'\r' | b'\n') if self.skipped < MAX_INTERIM_BYTES => At::Prefix(0),
            (At::Prefix(seen), _) if byte == PREFIX[seen] => match seen + 1 {
                whole if whole == PREFIX.len() => At::Version,
                part => At::Prefix(part),
            },
            (At::Version, b'0'..=b'9') => {
                self.is_ambiguous |= byte > b'1';
                At::Spaces(0)
            }
            // Bounded, because the tap holds back what is undecided.
            (At::Spaces(seen), b' ') if seen < u8::MAX => At::Spaces(seen + 1),
            (At::Spaces(seen), b'1'..=b'9') => {
                self.is_ambiguous |= seen != 1;
                At::Code {
                    digits: 1,
                    value: u16::from(byte - b'0'),
                }
            }
            (At::Code { digits, value }, b'0'..=b'9') if digits < 3 => At::Code {
                digits: digits + 1,
                value: value * 10 + u16::from(byte - b'0'),
            },
            (At::Code { digits: 3, value }, b' ' | b'\t' | b'\r' | b'\n') => {
                self.found(value);
                self.is_ambiguous |= byte == b'\t';
                self.reason(false, byte)
            }
            (At::Prefix(_) | At::Version | At::Spaces(_) | At::Code { .. }, _) => At::Garbage,
            (At::Reason { cr }, _) => self.reason(cr, byte),
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

    fn reason(&mut self, cr: bool, byte: u8) -> At {
        self.is_ambiguous |= !is_plain_text(cr, byte);
        if byte == b'\n' {
            At::Line { cr: false }
        } else {
            At::Reason { cr: byte == b'\r' }
        }
    }

    fn header(&mut self, byte: u8) -> At {
        let is_plain = match self.at {
            At::Line { cr: false } => is_token(byte),
            At::Name => byte == b':' || is_token(byte),
            At::Value { cr } => is_plain_text(cr, byte),
            _ => false,
        };
        self.is_ambiguous |= !is_plain;
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

/// Whether `byte` may stand in a value or a reason phrase, or may end its line. Only LF may follow
/// a CR.
const fn is_plain_text(cr: bool, byte: u8) -> bool {
    match byte {
        b'\n' => true,
        b'\t' | b'\r' | b' '..=b'~' | 0x80.. => !cr,
        _ => false,
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
            assert_eq!(Head::default().read(text.as_bytes()), interim.len());
        }
    }

    #[test]
    fn a_body_that_looks_like_a_head_changes_nothing() {
        let text = "HTTP/1.1 200 OK\r\na: b\r\n\r\nHTTP/1.1 500 No\r\n bad\r\n\r\n";
        assert_eq!(followed(text).status(), Some(200));
        assert!(!followed(text).is_ambiguous());
    }

    #[test]
    fn a_line_that_parsers_disagree_on_makes_a_head_ambiguous() {
        for (line, is_ambiguous) in [
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
            assert_eq!(followed(&text).is_ambiguous(), is_ambiguous, "{line:?}");
        }
    }

    #[test]
    fn a_status_line_that_parsers_disagree_on_makes_a_head_ambiguous() {
        for (line, is_ambiguous) in [
            ("HTTP/1.1 103", false),
            ("HTTP/1.1 103 ", false),
            ("HTTP/1.0 103 Early\tH\u{e9}nts", false),
            ("HTTP/1.7 103 x", true),
            ("HTTP/1.1  103 x", true),
            ("HTTP/1.1103 x", true),
            ("HTTP/1.1 103\tx", true),
            ("HTTP/1.1 103 x\0", true),
            ("HTTP/1.1 103 x\x7f", true),
            ("HTTP/1.1 103 x\rHTTP/1.1 200 OK", true),
        ] {
            let text = format!("{line}\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
            assert_eq!(followed(&text).is_ambiguous(), is_ambiguous, "{line:?}");
            assert_eq!(followed(&text).status(), Some(200), "{line:?}");
        }
    }

    #[test]
    fn what_stands_before_a_status_line_is_bounded() {
        let lines = "\r\n".repeat(MAX_INTERIM_BYTES / 2);
        let answered = |lines: &str| followed(&format!("{lines}HTTP/1.1 200 OK\r\n")).status();
        assert_eq!(answered(&lines), Some(200));
        assert_eq!(answered(&format!("{lines}\n")), None);
        assert!(!followed(&format!("{lines}\n")).is_endless(), "no interim");

        let spaced = |spaces| followed(&format!("HTTP/1.1{}200 x", " ".repeat(spaces)));
        assert_eq!(spaced(255).status(), Some(200));
        assert_eq!(spaced(256).status(), None);
        assert!(!spaced(256).is_undecided());
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
