//! The sender's side.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

use super::{
    content,
    key::{Key, KeyError, KeyFault, ordinal, parse_all},
};

/// The most characters of a signature and the space before it: that of ed25519.
const MAX_SIGNATURE: usize = " v1a,".len() + 88;

/// Signs every attempt with each of its secrets. Clones share the secrets.
#[derive(Clone)]
pub struct Signer {
    keys: Arc<[Key]>,
    weaknesses: Arc<[String]>,
}

impl Signer {
    /// A signer without secrets, which signs nothing.
    pub fn none() -> Self {
        Self {
            keys: [].into(),
            weaknesses: [].into(),
        }
    }

    /// Parses secrets that are separated by commas or white space. An empty text has no secrets.
    ///
    /// # Errors
    /// The number of the first secret that is not accepted, and why. The error does not contain the
    /// secret.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (mut keys, mut weaknesses) = (Vec::new(), Vec::new());
        for (number, parsed) in (1..).zip(parse_all(text)?) {
            // A public key in this setting would sign nothing, and callbacks would go out unsigned.
            if matches!(parsed.key, Key::Ed25519Public(_)) {
                let fault = KeyFault::Public;
                return Err(KeyError::Key { number, fault });
            }
            if let Some(weakness) = parsed.weakness {
                weaknesses.push(format!("the {} key {weakness}", ordinal(number)));
            }
            keys.push(parsed.key);
        }
        Ok(Self {
            keys: keys.into(),
            weaknesses: weaknesses.into(),
        })
    }

    /// What is wrong with secrets that are accepted and can be guessed. Log a warning for each.
    pub fn weaknesses(&self) -> &[String] {
        &self.weaknesses
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
        let mut signatures = String::with_capacity(self.keys.len() * MAX_SIGNATURE);
        for key in self.keys.iter() {
            // As Standard Webhooks says. A receiver accepts the callback if any of them is valid.
            if !signatures.is_empty() {
                signatures.push(' ');
            }
            key.sign(&content, &mut signatures);
        }
        Some(signatures)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", self.keys.len())
    }
}
