//! A client's key for a submission, by which the service recognises a repeat of it.

use std::sync::Arc;

use thiserror::Error;

/// The value of the header `Idempotency-Key`: 1 to 255 visible ASCII characters, kept as they are.
/// Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

/// The bytes are not an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdempotencyKeyError {
    /// It is empty or too long.
    #[error("must have 1 to {max} characters, not {0}", max = IdempotencyKey::MAX_CHARS)]
    Length(usize),
    /// It contains a space, a control character or a character outside ASCII.
    #[error("must consist of visible ASCII characters, without spaces")]
    Invisible,
}

impl IdempotencyKey {
    /// The longest key, in characters.
    pub const MAX_CHARS: usize = 255;

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&[u8]> for IdempotencyKey {
    type Error = IdempotencyKeyError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        // Characters first: of others, the number of bytes says nothing to the client.
        if !bytes.iter().all(u8::is_ascii_graphic) {
            return Err(IdempotencyKeyError::Invisible);
        }
        if !(1..=Self::MAX_CHARS).contains(&bytes.len()) {
            return Err(IdempotencyKeyError::Length(bytes.len()));
        }
        // Never an error: it is ASCII.
        str::from_utf8(bytes)
            .map(|text| Self(text.into()))
            .map_err(|_| IdempotencyKeyError::Invisible)
    }
}

#[cfg(test)]
mod tests {
    use super::{IdempotencyKey, IdempotencyKeyError};

    #[test]
    fn a_key_has_1_to_255_visible_ascii_characters_and_is_kept_as_it_is() {
        let longest = "k".repeat(255);
        for key in [
            "a",
            "01a210fc-8665-7199-9e23-48e1bf3252ac",
            "\"quoted\"",
            "a,b;c=\\!~",
            longest.as_str(),
        ] {
            let parsed = IdempotencyKey::try_from(key.as_bytes()).unwrap();
            assert_eq!(parsed.as_str(), key);
        }
        let too_long = "k".repeat(256);
        for key in ["", too_long.as_str()] {
            let refused = IdempotencyKey::try_from(key.as_bytes());
            assert_eq!(refused, Err(IdempotencyKeyError::Length(key.len())));
        }
        for key in ["a b", " ", "a\t", "\u{7f}", "é", &"é".repeat(200)] {
            let refused = IdempotencyKey::try_from(key.as_bytes());
            assert_eq!(refused, Err(IdempotencyKeyError::Invisible), "{key:?}");
        }
        let no_utf8 = IdempotencyKey::try_from(b"a\xff".as_slice());
        assert_eq!(no_utf8, Err(IdempotencyKeyError::Invisible));
    }
}
