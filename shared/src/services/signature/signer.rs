//! The sender's side.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

use super::{
    content,
    key::{Key, KeyError, KeyFault, parse_all},
};

/// Signs every attempt with each of its secrets. Clones share the secrets.
#[derive(Clone)]
pub struct Signer {
    keys: Arc<[Key]>,
}

impl Signer {
    /// A signer without secrets, which signs nothing.
    pub fn none() -> Self {
        Self { keys: [].into() }
    }

    /// Parses secrets that are separated by commas or white space. An empty text has no secrets.
    ///
    /// # Errors
    /// The number of the first secret that is not accepted, and why. The error does not contain the
    /// secret.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let keys = parse_all(text)?;
        // A public key in this setting would sign nothing, and callbacks would go out unsigned.
        let is_public = |key: &Key| matches!(key, Key::Ed25519Public(_));
        match keys.iter().position(is_public) {
            None => Ok(Self { keys: keys.into() }),
            Some(index) => Err(KeyError::Key {
                number: index + 1,
                fault: KeyFault::Public,
            }),
        }
    }

    /// The number of secrets.
    pub fn secrets(&self) -> usize {
        self.keys.len()
    }

    /// The signatures of an attempt that begins at `at`, one per secret and in the order of the
    /// secrets. `None` without secrets.
    pub fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> Option<String> {
        if self.keys.is_empty() {
            return None;
        }
        let content = content(id, at, body);
        let signatures: Vec<_> = self
            .keys
            .iter()
            // None is left out: `parse` has refused public keys.
            .filter_map(|key| key.sign(&content))
            .collect();
        // Standard Webhooks separates signatures by a space; a receiver accepts if any is valid.
        Some(signatures.join(" "))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", self.keys.len())
    }
}
