//! The result of the work.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use serde_json::value::RawValue;
use thiserror::Error;

/// A result, as JSON.
#[derive(Clone, Debug)]
pub struct Output(Box<RawValue>);

/// The value can't be a result.
#[derive(Debug, Error)]
#[error("the result is not valid JSON: {0}")]
pub struct InvalidOutput(#[from] serde_json::Error);

impl Output {
    /// `value` as JSON.
    ///
    /// # Errors
    /// `value` can't be written as JSON: a map with keys that are no strings, for example.
    pub fn of(value: &impl Serialize) -> Result<Self, InvalidOutput> {
        Ok(Self(serde_json::value::to_raw_value(value)?))
    }

    /// A text that is JSON already, kept as it is.
    ///
    /// # Errors
    /// `text` is not valid JSON.
    pub fn from_json(text: String) -> Result<Self, InvalidOutput> {
        Ok(Self(RawValue::from_string(text)?))
    }

    /// `text` as a JSON string.
    pub fn text(text: &str) -> Self {
        Self::known(&text)
    }

    /// Other content, as `{"content_type", "base64"}`.
    pub fn bytes(content_type: &str, bytes: &[u8]) -> Self {
        #[derive(Serialize)]
        struct Encoded<'a> {
            content_type: &'a str,
            base64: String,
        }
        Self::known(&Encoded {
            content_type,
            base64: BASE64_STANDARD.encode(bytes),
        })
    }

    #[expect(clippy::expect_used, reason = "strings are always JSON")]
    fn known(value: &impl Serialize) -> Self {
        Self::of(value).expect("strings are JSON")
    }

    /// The JSON.
    pub fn json(&self) -> &RawValue {
        &self.0
    }
}
