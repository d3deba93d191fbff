//! The text form of secrets and public keys: a prefix for the kind, and base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    hmac,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use thiserror::Error;

use super::{
    MAX_SECRETS,
    strength::{self, Weakness},
};
use crate::list;

/// The length of a secret for HMAC-SHA256, in bytes, as Standard Webhooks defines it. HMAC would
/// hash a longer secret down first.
const HMAC_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The length of an ed25519 seed, and of a public key, in bytes.
const ED25519_BYTES: usize = 32;

/// A key, and what the start of the service has to say about it.
pub(super) struct Parsed {
    pub(super) key: Key,
    pub(super) weakness: Option<Weakness>,
    /// The bytes that the key consists of, to find the same key twice.
    material: Vec<u8>,
}

/// A key.
pub(super) enum Key {
    /// `whsec_`: symmetric. The receiver's key can also sign.
    Hmac(hmac::Key),
    /// `whsk_`: private. It signs, and its public key verifies.
    Ed25519(Ed25519KeyPair),
    /// `whpk_`: public. It only verifies.
    Ed25519Public([u8; ED25519_BYTES]),
}

/// Why a list of keys is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// One key is not accepted.
    #[error("the {} key {fault}", ordinal(*number))]
    Key {
        /// The key's number in the list, from 1.
        number: usize,
        /// What is wrong with it.
        fault: KeyFault,
    },
    /// More than [`MAX_SECRETS`].
    #[error("expected at most {MAX_SECRETS} keys, not {0}")]
    TooMany(usize),
    /// Only separators. Accepting it would disable signing although the setting is not empty.
    #[error("it contains only separators; leave it empty to disable signing")]
    OnlySeparators,
}

/// Why a text is not a key, and what is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyFault {
    /// No known prefix.
    #[error("must begin with `whsec_` (HMAC-SHA256) or `whsk_` (ed25519, private)")]
    Prefix,
    /// A public key where a secret is required.
    #[error("is public and cannot sign; expected the `whsk_` key that belongs to it")]
    Public,
    /// The text after the prefix is not base64.
    #[error("must be base64 after its prefix (A-Z, a-z, 0-9, `+`, `/`), padded with `=`")]
    Base64,
    /// Too short or too long for HMAC.
    #[error("must be the base64 of 24 to 64 random bytes, not of {0}")]
    HmacLength(usize),
    /// Neither a seed nor a seed with its public key.
    #[error(
        "must be the base64 of an ed25519 seed (32 bytes), or of seed and public key (64 bytes), \
         not of {0} bytes"
    )]
    SeedLength(usize),
    /// The second half is not the public key of the first half.
    #[error("must end with the public key of its own seed, or be the seed alone")]
    Pair,
    /// Bytes that no random generator makes, such as a placeholder.
    #[error(
        "repeats a few byte values; expected 24 to 64 random bytes, as `head -c 32 \
         /dev/urandom | base64` makes them"
    )]
    Placeholder,
    /// The same bytes as an earlier key, whatever the kind of both.
    #[error("has the same bytes as an earlier one; expected each key once")]
    Repeated,
    /// Not the length of a public key.
    #[error("must be the base64 of a public ed25519 key, 32 bytes, not of {0}")]
    PublicLength(usize),
}

impl Parsed {
    fn parse(text: &str) -> Result<Self, KeyFault> {
        if let Some(rest) = text.strip_prefix("whsec_") {
            let secret = decode(rest)?;
            if !HMAC_BYTES.contains(&secret.len()) {
                return Err(KeyFault::HmacLength(secret.len()));
            }
            let key = Key::Hmac(hmac::Key::new(hmac::HMAC_SHA256, &secret));
            return Self::secret(key, secret);
        }
        if let Some(rest) = text.strip_prefix("whsk_") {
            let mut seed = decode(rest)?;
            let key = Key::Ed25519(key_pair(&seed)?);
            seed.truncate(ED25519_BYTES);
            return Self::secret(key, seed);
        }
        if let Some(rest) = text.strip_prefix("whpk_") {
            let material = decode(rest)?;
            let key = material.as_slice().try_into();
            return Ok(Self {
                key: key
                    .map(Key::Ed25519Public)
                    .map_err(|_| KeyFault::PublicLength(material.len()))?,
                weakness: None, // it is no secret
                material,
            });
        }
        Err(KeyFault::Prefix)
    }

    fn secret(key: Key, material: Vec<u8>) -> Result<Self, KeyFault> {
        if strength::is_placeholder(&material) {
            return Err(KeyFault::Placeholder);
        }
        Ok(Self {
            key,
            weakness: strength::weakness(&material),
            material,
        })
    }
}

impl Key {
    /// Adds its signature of `content` to `text`, with its version as a prefix. A public key adds
    /// nothing.
    pub(super) fn sign(&self, content: &[u8], text: &mut String) {
        match self {
            Self::Hmac(key) => {
                text.push_str("v1,");
                STANDARD.encode_string(hmac::sign(key, content), text);
            }
            Self::Ed25519(pair) => {
                text.push_str("v1a,");
                STANDARD.encode_string(pair.sign(content), text);
            }
            Self::Ed25519Public(_) => {}
        }
    }

    /// Whether `signature`, with its version as a prefix, is this key's signature of `content`.
    pub(super) fn verifies(&self, content: &[u8], signature: &str) -> bool {
        let Some((version, signature)) = signature.split_once(',') else {
            return false;
        };
        let Ok(signature) = STANDARD.decode(signature) else {
            return false;
        };
        // The version must belong to the kind of the key: the header alone must not choose the
        // algorithm.
        let ed25519 = |key: &[u8]| {
            let key = UnparsedPublicKey::new(&ED25519, key);
            version == "v1a" && key.verify(content, &signature).is_ok()
        };
        match self {
            // `hmac::verify` compares in constant time.
            Self::Hmac(key) => version == "v1" && hmac::verify(key, content, &signature).is_ok(),
            Self::Ed25519(pair) => ed25519(pair.public_key().as_ref()),
            Self::Ed25519Public(key) => ed25519(key),
        }
    }
}

/// Parses keys that are separated by commas or white space.
pub(super) fn parse_all(text: &str) -> Result<Vec<Parsed>, KeyError> {
    let texts = list::entries(text).ok_or(KeyError::OnlySeparators)?;
    if texts.len() > MAX_SECRETS {
        return Err(KeyError::TooMany(texts.len()));
    }
    let mut keys: Vec<Parsed> = Vec::with_capacity(texts.len());
    for (number, text) in (1..).zip(texts) {
        let refused = |fault| KeyError::Key { number, fault };
        let parsed = Parsed::parse(text).map_err(refused)?;
        // Of any kind: receivers know the bytes of a `whsec_`, so they must be no private key.
        if keys.iter().any(|key| key.material == parsed.material) {
            return Err(refused(KeyFault::Repeated));
        }
        keys.push(parsed);
    }
    Ok(keys)
}

fn decode(text: &str) -> Result<Vec<u8>, KeyFault> {
    STANDARD.decode(text).map_err(|_| KeyFault::Base64)
}

fn key_pair(bytes: &[u8]) -> Result<Ed25519KeyPair, KeyFault> {
    match bytes.split_at_checked(ED25519_BYTES) {
        // Unchecked, because a seed alone brings no public key to compare with.
        Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
        Some((seed, public)) if public.len() == ED25519_BYTES => {
            Ed25519KeyPair::from_seed_and_public_key(seed, public)
        }
        _ => return Err(KeyFault::SeedLength(bytes.len())),
    }
    .map_err(|_| KeyFault::Pair)
}

/// `1st`, `2nd` and so on. Correct up to [`MAX_SECRETS`].
pub(super) fn ordinal(number: usize) -> String {
    let suffix = match number {
        1 => "st",
        2 => "nd",
        3 => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}
