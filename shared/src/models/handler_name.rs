//! The name of a handler: the kind of work that a job asks for.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

/// A name of 1 to 64 characters: a lower-case letter, then lower-case letters, digits and single
/// underscores.
///
/// Two underscores in a row separate the parts of an environment variable, such as
/// `HANDLERS__THUMBNAILS__URL`. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandlerName(Name);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Name {
    Report,
    Other(Arc<str>),
}

/// The text is not a handler name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "expected a name of 1 to {} characters: a lower-case letter, then a-z, 0-9 and single \
     underscores",
    HandlerName::MAX_CHARS
)]
pub struct HandlerNameError;

impl HandlerName {
    /// The longest name, in characters.
    pub const MAX_CHARS: usize = 64;

    /// The built-in handler.
    pub const REPORT: Self = Self(Name::Report);

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Name::Report => "report",
            Name::Other(text) => text,
        }
    }
}

impl FromStr for HandlerName {
    type Err = HandlerNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name_byte =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_name = text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.len() <= Self::MAX_CHARS
            && text.bytes().all(is_name_byte)
            && !text.contains("__");
        if !is_name {
            return Err(HandlerNameError);
        }
        if text == Self::REPORT.as_str() {
            return Ok(Self::REPORT);
        }
        Ok(Self(Name::Other(text.into())))
    }
}

impl fmt::Display for HandlerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::HandlerName;

    #[test]
    fn a_name_is_short_and_lower_case_and_fits_into_an_environment_variable() {
        let longest = "a".repeat(64);
        for name in ["a", "report", "thumbnails", "pdf_2", "a_", longest.as_str()] {
            assert_eq!(name.parse::<HandlerName>().unwrap().as_str(), name);
        }
        let too_long = "a".repeat(65);
        for name in [
            "",
            "A",
            "2pdf",
            "_a",
            "a__b",
            "a-b",
            "a b",
            "é",
            "a\n",
            "a.b",
            too_long.as_str(),
        ] {
            assert!(name.parse::<HandlerName>().is_err(), "{name:?}");
        }
        assert_eq!("report".parse(), Ok(HandlerName::REPORT));
    }
}
