//! The result of the work.

mod check;

use std::{fmt, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use storm_shared::memory::Reservation;
use thiserror::Error;

/// A result, as JSON that every parser can read: nested at most [`Output::MAX_DEPTH`] deep, and
/// without escapes of half a surrogate pair. Clones share its reservation.
#[derive(Clone)]
pub struct Output {
    json: Box<RawValue>,
    held: Option<Arc<Reservation>>,
    status: Option<StatusCode>,
}

/// The value can't be a result.
#[derive(Debug, Error)]
pub enum InvalidOutput {
    /// It is no JSON.
    #[error("the result is not valid JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// It is nested too deeply.
    #[error("the result's JSON is nested deeper than {} levels", Output::MAX_DEPTH)]
    TooDeep,
    /// An escape, such as `\ud800` alone, stands for no character.
    #[error("the result's JSON has an escape of half a surrogate pair, which is no character")]
    LoneSurrogate,
}

impl Output {
    /// The most levels of arrays and objects. Common parsers refuse much more.
    pub const MAX_DEPTH: usize = 128;

    /// `value` as JSON.
    ///
    /// # Errors
    /// `value` can't be written as JSON: a map with keys that are no strings, for example. Or it is
    /// nested too deeply.
    pub fn json(value: &impl Serialize) -> Result<Self, InvalidOutput> {
        Self::checked(serde_json::value::to_raw_value(value)?)
    }

    /// A text that is JSON already, kept as it is, but for white space around it.
    ///
    /// # Errors
    /// `text` is not valid JSON, is nested too deeply, or has an escape of half a surrogate pair.
    pub fn from_json(text: String) -> Result<Self, InvalidOutput> {
        Self::checked(RawValue::from_string(text)?)
    }

    /// `null`: there is no result but the end of the work.
    pub fn null() -> Self {
        Self::known(&())
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

    /// Keeps `reservation`, from which its bytes are, until the last clone is dropped.
    pub fn holding(mut self, reservation: Reservation) -> Self {
        self.held = Some(Arc::new(reservation));
        self
    }

    /// Adds the status that an endpoint has answered with.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The HTTP status, if an endpoint has answered.
    pub fn status(&self) -> Option<u16> {
        self.status.map(|status| status.as_u16())
    }

    /// The JSON.
    pub fn as_str(&self) -> &str {
        self.json.get()
    }

    /// The JSON, and the reservation of the memory budget that its bytes are from, if there is one.
    pub fn into_parts(self) -> (Box<RawValue>, Option<Arc<Reservation>>) {
        (self.json, self.held)
    }

    fn checked(json: Box<RawValue>) -> Result<Self, InvalidOutput> {
        check::check(json.get())?;
        Ok(Self {
            json,
            held: None,
            status: None,
        })
    }

    #[expect(clippy::expect_used, reason = "strings are always JSON")]
    fn known(value: &impl Serialize) -> Self {
        Self::json(value).expect("strings are JSON")
    }
}

// A result must not get into a log.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} bytes)", self.as_str().len())
    }
}
