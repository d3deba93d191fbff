//! Secrets and public keys as texts: a prefix that tells the kind, and base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    hmac,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use thiserror::Error;

use super::MAX_SECRETS;

/// Bytes of a secret for HMAC: fewer could be guessed, more would only be hashed down.
const HMAC_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Bytes of an ed25519 seed, and of a public key.
const ED25519_BYTES: usize = 32;

/// One key, of whichever kind.
pub(super) enum Key {
    /// `whsec_`: who verifies could sign as well.
    Hmac(hmac::Key),
    /// `whsk_`: signs, and its public key verifies.
    Ed25519(Ed25519KeyPair),
    /// `whpk_`: only verifies.
    Ed25519Public([u8; ED25519_BYTES]),
}

/// A list of keys that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// One of them.
    #[error("the {} key {fault}", ordinal(*number))]
    Key {
        /// Which one, from 1.
        number: usize,
        /// Why.
        fault: KeyFault,
    },
    /// More than [`MAX_SECRETS`].
    #[error("expected at most {MAX_SECRETS} keys, not {0}")]
    TooMany(usize),
    /// Commas and nothing between them, which would sign nothing and look like it did.
    #[error("expected keys between the commas; empty, nothing is signed")]
    NoneBetween,
}

/// Why a text is no key, and what is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyFault {
    /// Of no known kind.
    #[error("must begin with `whsec_` (HMAC-SHA256) or `whsk_` (ed25519, private)")]
    Prefix,
    /// A public key where a secret is needed.
    #[error("is a public one, which can't sign: give the `whsk_` that belongs to it")]
    Public,
    /// The rest is no base64.
    #[error(
        "must be base64 after its prefix, of A to Z, a to z, 0 to 9, `+` and `/`, padded with `=`"
    )]
    Base64,
    /// Too short or too long for HMAC.
    #[error("must be the base64 of 24 to 64 random bytes, not of {0}")]
    HmacLength(usize),
    /// Neither a seed nor a seed with its public key.
    #[error(
        "must be the base64 of an ed25519 seed (32 bytes), or of seed and public key (64), not of {0} bytes"
    )]
    SeedLength(usize),
    /// The second half is not the first one's public key.
    #[error("must end with the public key of its own seed, or be the seed alone")]
    Pair,
    /// No public key's length.
    #[error("must be the base64 of a public ed25519 key, 32 bytes, not of {0}")]
    PublicLength(usize),
}

impl Key {
    fn parse(text: &str) -> Result<Self, KeyFault> {
        if let Some(rest) = text.strip_prefix("whsec_") {
            let secret = decode(rest)?;
            if !HMAC_BYTES.contains(&secret.len()) {
                return Err(KeyFault::HmacLength(secret.len()));
            }
            return Ok(Self::Hmac(hmac::Key::new(hmac::HMAC_SHA256, &secret)));
        }
        if let Some(rest) = text.strip_prefix("whsk_") {
            return key_pair(&decode(rest)?).map(Self::Ed25519);
        }
        if let Some(rest) = text.strip_prefix("whpk_") {
            let key = decode(rest)?.try_into();
            let wrong = |bytes: Vec<u8>| KeyFault::PublicLength(bytes.len());
            return key.map(Self::Ed25519Public).map_err(wrong);
        }
        Err(KeyFault::Prefix)
    }

    /// A signature with its version before it; a public key makes none.
    pub(super) fn sign(&self, content: &[u8]) -> Option<String> {
        match self {
            Self::Hmac(key) => {
                let tag = hmac::sign(key, content);
                Some(format!("v1,{}", STANDARD.encode(tag)))
            }
            Self::Ed25519(pair) => {
                let signature = pair.sign(content);
                Some(format!("v1a,{}", STANDARD.encode(signature)))
            }
            Self::Ed25519Public(_) => None,
        }
    }

    /// Whether `signature`, with its version before it, is this key's for `content`.
    pub(super) fn verifies(&self, content: &[u8], signature: &str) -> bool {
        let Some((version, signature)) = signature.split_once(',') else {
            return false;
        };
        let Ok(signature) = STANDARD.decode(signature) else {
            return false;
        };
        let ed25519 = |key: &[u8]| {
            let key = UnparsedPublicKey::new(&ED25519, key);
            version == "v1a" && key.verify(content, &signature).is_ok()
        };
        match self {
            // In constant time.
            Self::Hmac(key) => version == "v1" && hmac::verify(key, content, &signature).is_ok(),
            Self::Ed25519(pair) => ed25519(pair.public_key().as_ref()),
            Self::Ed25519Public(key) => ed25519(key),
        }
    }
}

/// Every key in a text, between commas, white space, or both.
pub(super) fn parse_all(text: &str) -> Result<Vec<Key>, KeyError> {
    let separates = |c: char| c == ',' || c.is_whitespace();
    let texts: Vec<_> = text
        .split(separates)
        .filter(|text| !text.is_empty())
        .collect();
    if texts.is_empty() && text.contains(',') {
        return Err(KeyError::NoneBetween);
    }
    if texts.len() > MAX_SECRETS {
        return Err(KeyError::TooMany(texts.len()));
    }
    let parse = |(index, text): (usize, &&str)| {
        let number = index + 1;
        Key::parse(text).map_err(|fault| KeyError::Key { number, fault })
    };
    texts.iter().enumerate().map(parse).collect()
}

fn decode(text: &str) -> Result<Vec<u8>, KeyFault> {
    STANDARD.decode(text).map_err(|_| KeyFault::Base64)
}

fn key_pair(bytes: &[u8]) -> Result<Ed25519KeyPair, KeyFault> {
    match bytes.split_at_checked(ED25519_BYTES) {
        Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
        Some((seed, public)) if public.len() == ED25519_BYTES => {
            Ed25519KeyPair::from_seed_and_public_key(seed, public)
        }
        _ => return Err(KeyFault::SeedLength(bytes.len())),
    }
    .map_err(|_| KeyFault::Pair)
}

/// `1st`, `2nd` and so on, as far as there are keys.
fn ordinal(number: usize) -> String {
    let suffix = match number {
        1 => "st",
        2 => "nd",
        3 => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}
