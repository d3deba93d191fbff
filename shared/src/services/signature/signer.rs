//! The sender's side.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

use super::{
    content,
    key::{Key, KeyError, KeyFault, parse_all},
};

/// Secrets, each of which signs every attempt; clones share them.
#[derive(Clone)]
pub struct Signer {
    keys: Arc<[Key]>,
}

impl Signer {
    /// One that signs nothing.
    pub fn none() -> Self {
        Self { keys: [].into() }
    }

    /// Reads secrets between commas, white space, or both; from an empty text, none.
    ///
    /// # Errors
    /// Which secret can't be used, and what is accepted. The secret itself is not in it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let keys = parse_all(text)?;
        let public = |key: &Key| matches!(key, Key::Ed25519Public(_));
        match keys.iter().position(public) {
            None => Ok(Self { keys: keys.into() }),
            Some(index) => Err(KeyError::Key {
                number: index + 1,
                fault: KeyFault::Public,
            }),
        }
    }

    /// How many secrets sign.
    pub fn secrets(&self) -> usize {
        self.keys.len()
    }

    /// The signatures of an attempt that begins at `at`, one for each secret, in the secrets' order;
    /// nothing without any secret.
    pub fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> Option<String> {
        if self.keys.is_empty() {
            return None;
        }
        let content = content(id, at, body);
        let signatures: Vec<_> = self
            .keys
            .iter()
            .filter_map(|key| key.sign(&content))
            .collect();
        Some(signatures.join(" "))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", self.keys.len())
    }
}
