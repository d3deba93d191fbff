//! Reads untrusted lines with a bounded buffer.

use std::{
    io::{self, ErrorKind, Read},
    mem,
};

/// The length in bytes of the longest possible callback URL, plus the `\r` of a line ending.
const MAX_BYTES: usize = 4 * storm_shared::models::CallbackUrl::MAX_CHARS + 1;

/// The most bytes to read at a time.
const CHUNK: usize = 16 * 1024;

/// A line without its ending.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// The line was longer than any URL and was dropped.
    TooLong,
}

/// Passes the lines of `input` to `hand_over` in batches as they arrive, until the end of `input`
/// or until `hand_over` returns false. Lines end with `\n` or `\r\n`; the last needs no ending.
pub(super) fn read(
    mut input: impl Read,
    mut hand_over: impl FnMut(Vec<Line>) -> bool,
) -> io::Result<()> {
    let mut chunk = [0; CHUNK];
    let mut open = Open::default();
    loop {
        let read = match input.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        let lines = if read == 0 {
            open.take().into_iter().collect()
        } else {
            open.continue_by(&chunk[..read])
        };
        if !lines.is_empty() && !hand_over(lines) || read == 0 {
            return Ok(());
        }
    }
}

/// An incomplete line.
#[derive(Default)]
struct Open {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Open {
    /// The lines that end within `chunk`. The rest is kept.
    fn continue_by(&mut self, chunk: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(rest) => {
                    self.push(rest);
                    lines.push(self.close());
                }
                None => self.push(piece),
            }
        }
        lines
    }

    fn push(&mut self, piece: &[u8]) {
        self.too_long |= self.bytes.len() + piece.len() > MAX_BYTES;
        if self.too_long {
            // Dropped at once: a line without an end must not grow the buffer.
            self.bytes.clear();
        } else {
            self.bytes.extend_from_slice(piece);
        }
    }

    fn close(&mut self) -> Line {
        let Self {
            mut bytes,
            too_long,
        } = mem::take(self);
        if too_long {
            return Line::TooLong;
        }
        bytes.pop_if(|byte| *byte == b'\r');
        Line::Bytes(bytes)
    }

    /// The last line, if it has no line ending.
    fn take(&mut self) -> Option<Line> {
        (self.too_long || !self.bytes.is_empty()).then(|| self.close())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use super::{Line, MAX_BYTES, read};

    /// Returns a few bytes per read.
    struct Dripping<'a>(&'a [u8], usize);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let few = self.1.min(buffer.len());
            (&mut self.0).take(few as u64).read(buffer)
        }
    }

    fn lines(text: &[u8]) -> Vec<Line> {
        let mut whole = Vec::new();
        read(text, |lines| {
            whole.extend(lines);
            true
        })
        .unwrap();
        for step in [1, 3, 1000] {
            let mut pieces = Vec::new();
            read(Dripping(text, step), |lines| {
                pieces.extend(lines);
                true
            })
            .unwrap();
            assert_eq!(pieces, whole);
        }
        whole
    }

    fn line(text: &str) -> Line {
        Line::Bytes(text.into())
    }

    #[test]
    fn every_line_ending_is_accepted() {
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"\n"), [line("")]);
        assert_eq!(lines(b"a"), [line("a")]);
        assert_eq!(
            lines(b"a\r\n\r\n\nb\r\r\nc\r"),
            [line("a"), line(""), line(""), line("b\r"), line("c"),]
        );
        assert_eq!(lines(b"\xff\n"), [Line::Bytes(vec![0xff])]);
    }

    #[test]
    fn an_overlong_line_is_dropped_and_still_counted() {
        let longest = "x".repeat(MAX_BYTES);
        let text = format!("a\n{longest}x\nb\n{longest}\n{longest}{longest}");
        assert_eq!(
            lines(text.as_bytes()),
            [
                line("a"),
                Line::TooLong,
                line("b"),
                line(&longest),
                Line::TooLong,
            ]
        );
    }
}
