//! Random tokens and their hashes.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;

/// The prefix of a token, by which people and secret scanners recognise one.
const PREFIX: &str = "storm_";

/// A token in plain text. It is generated, printed once, and never stored.
pub struct Token(String);

/// The SHA-256 of a token. Four words instead of 32 bytes make the constant-time comparison with
/// every entry cheap.
// `==` and `Hash` serve the parser of the settings. A presented token is compared by `ct_eq`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u64; 4]);

/// The text is not a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected a token's SHA-256, 64 hexadecimal digits")]
pub struct TokenHashError;

impl Token {
    /// Generates a token from 256 random bits of the operating system.
    ///
    /// # Errors
    /// The operating system provides no random bits.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        Ok(Self(format!("{PREFIX}{}", hex(words(random)))))
    }

    /// The text that a client sends.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The token's hash, which is stored in the settings.
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
    /// The hash of a token as a client sent it.
    pub fn of(token: &[u8]) -> Self {
        Self(words(Sha256::digest(token).into()))
    }

    /// Whether this is the hash of `token`. The comparison takes constant time.
    pub fn is_of(&self, token: &[u8]) -> bool {
        self.ct_eq(&Self::of(token)).into()
    }

    /// 64 lower-case hexadecimal digits.
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
            // `from_str_radix` would accept a leading `+`.
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
        // Big-endian, so that the words in order are the usual hexadecimal text of a SHA-256.
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
    fn a_hash_is_the_sha_256_that_other_tools_print() {
        // printf storm | sha256sum
        let hex = "9a105749cfcbac2e07d7640697861f62dfcc7c02bc24519e9c287431bc493f9d";
        let hash = TokenHash::of(b"storm");
        assert_eq!(hash.to_hex(), hex);
        assert_eq!(hex.parse(), Ok(hash));
        assert_eq!(hex.to_uppercase().parse(), Ok(hash));
        assert!(hash.is_of(b"storm") && !hash.is_of(b"Storm"));
    }

    #[test]
    fn only_64_hexadecimal_digits_are_a_hash() {
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
    fn two_tokens_differ() {
        let [one, other] = [(); 2].map(|()| Token::generate().unwrap());
        assert_ne!(one.as_str(), other.as_str());
        assert_eq!(one.as_str().len(), "storm_".len() + 64);
    }
}
