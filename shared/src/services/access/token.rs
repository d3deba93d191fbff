//! A random token, and the hash that is kept of it.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;

/// What a token of ours begins with, so that people and scanners of sources know one when they see it.
const PREFIX: &str = "storm_";

/// A token in clear: made, printed once, and never kept.
pub struct Token(String);

/// The SHA-256 of a token, in words that are compared at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u64; 4]);

/// The text is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a token's SHA-256 has 64 hexadecimal digits")]
pub struct TokenHashError;

impl Token {
    /// 256 bits of the system's randomness.
    ///
    /// # Errors
    /// The system has none to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        Ok(Self(format!("{PREFIX}{}", hex(words(random)))))
    }

    /// What a client sends.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl TokenHash {
    /// Of a token as it was sent.
    pub fn of(token: &[u8]) -> Self {
        Self(words(Sha256::digest(token).into()))
    }

    /// Whether it is this token's, in a time that tells nothing.
    pub fn is_of(&self, token: &[u8]) -> bool {
        self.ct_eq(&Self::of(token)).into()
    }

    /// 64 lower-case digits.
    pub fn to_hex(self) -> String {
        hex(self.0)
    }
}

impl ConstantTimeEq for TokenHash {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl FromStr for TokenHash {
    type Err = TokenHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, rest) = text.as_bytes().as_chunks::<16>();
        let digits: &[_; 4] = digits.try_into().map_err(|_| TokenHashError)?;
        let mut words = [0; 4];
        for (word, digits) in words.iter_mut().zip(digits) {
            // A sign would be read as one, too.
            let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
            let text = str::from_utf8(digits).ok().filter(|_| is_hex);
            let read = text.and_then(|text| u64::from_str_radix(text, 16).ok());
            *word = read.ok_or(TokenHashError)?;
        }
        if rest.is_empty() {
            Ok(Self(words))
        } else {
            Err(TokenHashError)
        }
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

fn words(bytes: [u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_be_bytes(*bytes);
    }
    words
}

fn hex(words: [u64; 4]) -> String {
    words.map(|word| format!("{word:016x}")).concat()
}

#[cfg(test)]
mod tests {
    use super::{Token, TokenHash};

    #[test]
    fn a_hash_is_sha_256_as_every_other_tool_prints_it() {
        // printf storm | sha256sum
        let hex = "9a105749cfcbac2e07d7640697861f62dfcc7c02bc24519e9c287431bc493f9d";
        let hash = TokenHash::of(b"storm");
        assert_eq!(hash.to_hex(), hex);
        assert_eq!(hex.parse(), Ok(hash));
        assert_eq!(hex.to_uppercase().parse(), Ok(hash));
        assert!(hash.is_of(b"storm") && !hash.is_of(b"Storm"));
    }

    #[test]
    fn only_64_digits_are_a_hash() {
        for text in [
            String::new(),
            "0".repeat(63),
            "0".repeat(65),
            "0".repeat(80),
            "+0".repeat(32),
            "é".repeat(32),
        ] {
            assert!(text.parse::<TokenHash>().is_err(), "{text}");
        }
    }

    #[test]
    fn no_two_tokens_are_alike() {
        let [one, other] = [(); 2].map(|()| Token::generate().unwrap());
        assert_ne!(one.as_str(), other.as_str());
        assert_eq!(one.as_str().len(), "storm_".len() + 64);
    }
}
