//! The payload of a handler's jobs, read from a file.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
};

use bytes::Bytes;
use serde::de::IgnoredAny;

/// The largest payload that any handler takes, in bytes: the most that its `max_payload` can be.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// One JSON value, without white space around it. Its bytes are sent as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

impl Payload {
    /// The JSON.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads a payload from a file.
    pub(super) fn read(path: &str) -> Result<Self, String> {
        let text = beginning(path).map_err(|error| format!("the file can't be read: {error}"))?;
        if text.trim_ascii().len() > MAX_BYTES || text.len() > 2 * MAX_BYTES {
            return Err(format!(
                "the file must have at most {MAX_BYTES} bytes, which is the largest payload of a handler"
            ));
        }
        Self::parse(&text).map_err(|error| format!("the file must have one JSON value: {error}"))
    }

    /// Takes the JSON as it is.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        let text = text.trim_ascii();
        // For UTF-8; JSON alone would not look into strings that nobody reads.
        let text = str::from_utf8(text).map_err(serde::de::Error::custom)?;
        serde_json::from_str::<IgnoredAny>(text)?;
        Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
    }
}

/// A file's bytes: of a longer one, or an endless one such as a device, more than are accepted.
fn beginning(path: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let most = 2 * MAX_BYTES as u64 + 1;
    File::open(path)?.take(most).read_to_end(&mut text)?;
    Ok(text)
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_BYTES, Payload};

    fn read(content: &[u8]) -> Result<Payload, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        Payload::read(file.path().to_str().unwrap())
    }

    #[test]
    fn a_payload_is_kept_byte_for_byte_without_white_space_around_it() {
        let odd = r#"{"a": 1, "a" :2.50, "b": "\ud800\u0000", "c": 1e999}"#;
        let payload = read(format!("\n  {odd}\n").as_bytes()).unwrap();
        assert_eq!(payload.as_bytes(), odd.as_bytes());
        assert_eq!(read(b"null").unwrap().as_bytes(), b"null");
    }

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        for wrong in ["", "  ", "{", "{} {}", "{\"a\": }", "NaN", "{'a': 1}"] {
            let error = read(wrong.as_bytes()).expect_err(wrong);
            assert!(error.contains("one JSON value"), "{wrong}: {error}");
        }
        assert!(read(b"\"\xff\"").unwrap_err().contains("utf-8"));
    }

    #[test]
    fn a_payload_of_the_largest_size_is_read_and_a_larger_one_is_refused() {
        let largest = format!("\"{}\"", "a".repeat(MAX_BYTES - 2));
        assert_eq!(
            read(largest.as_bytes()).unwrap().as_bytes().len(),
            MAX_BYTES
        );
        let larger = format!("\"{}\"", "a".repeat(MAX_BYTES - 1));
        for larger in [larger.as_str(), &" ".repeat(3 * MAX_BYTES)] {
            let error = read(larger.as_bytes()).unwrap_err();
            assert!(error.contains("at most 4194304 bytes"), "{error}");
        }
    }

    #[test]
    fn a_file_that_can_not_be_read_is_an_error_that_says_why() {
        let error = Payload::read("/no/such/file").unwrap_err();
        assert!(error.contains("can't be read: No such file"), "{error}");
        assert!(Payload::read("/").unwrap_err().contains("can't be read"));
    }
}
