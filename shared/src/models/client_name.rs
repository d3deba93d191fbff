//! The name of a client (a tenant), to which API tokens belong.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

/// A name of 1 to 64 ASCII letters, digits, dots, underscores and hyphens. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientName(Arc<str>);

/// The text is not a client name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "expected a name of 1 to {} characters from A-Z, a-z, 0-9, dot, underscore and hyphen",
    ClientName::MAX_CHARS
)]
pub struct ClientNameError;

impl ClientName {
    /// The longest name, in characters.
    pub const MAX_CHARS: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientName {
    type Err = ClientNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // No comma, colon or white space, which separate the entries of API_TOKENS.
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=Self::MAX_CHARS).contains(&text.len()) && text.bytes().all(is_name_byte) {
            Ok(Self(text.into()))
        } else {
            Err(ClientNameError)
        }
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::ClientName;

    #[test]
    fn a_name_is_short_and_has_no_separators_or_white_space() {
        let longest = "a".repeat(64);
        for name in ["a", "billing", "eu-1.reports_Q1", "-", longest.as_str()] {
            assert_eq!(name.parse::<ClientName>().unwrap().as_str(), name);
        }
        let too_long = "a".repeat(65);
        for name in ["", "a b", "a:b", "a,b", "é", "a\n", too_long.as_str()] {
            assert!(name.parse::<ClientName>().is_err(), "{name:?}");
        }
    }
}
