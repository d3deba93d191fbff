//! The receiver's side.

use std::{fmt, sync::Arc, time::Duration};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use thiserror::Error;

use super::{
    ID, SIGNATURE, TIMESTAMP, content,
    key::{Key, KeyError, parse_all},
};

/// How far an attempt's timestamp may be from the receiver's clock, as in the published libraries.
pub const TOLERANCE: Duration = Duration::from_mins(5);

/// The most signatures of a callback that are looked at. Who sends more sends no callback of ours.
const MAX_SIGNATURES: usize = 100;

/// Keys, any of which may have signed; clones share them.
#[derive(Clone)]
pub struct Verifier {
    keys: Arc<[Key]>,
}

/// What the headers of a callback that was verified say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// The message, to tell a repeat by.
    pub id: &'a str,
    /// When the attempt began.
    pub at: Timestamp,
}

/// Why a callback is not to be believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// A header is missing, given twice, or no text.
    #[error("it has not one {0}")]
    Header(HeaderName),
    /// The timestamp is no number of seconds.
    #[error("its webhook-timestamp is no time")]
    Timestamp,
    /// Too far from the receiver's clock: an old one sent again, or a clock is wrong.
    #[error("its webhook-timestamp is more than {} minutes away", TOLERANCE.as_secs() / 60)]
    Stale,
    /// None of its signatures is one of these keys'.
    #[error("no signature is right")]
    Wrong,
}

impl Verifier {
    /// Reads the sender's secrets, or the public keys that belong to them (`whpk_`), between commas,
    /// white space, or both.
    ///
    /// # Errors
    /// Which one can't be used, and what is accepted. The secret itself is not in it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        parse_all(text).map(|keys| Self { keys: keys.into() })
    }

    /// Whether there is no key, so that nothing would ever be believed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks a callback that arrived `now`: one of its signatures has to be one of these keys', over
    /// these very bytes, and its attempt must have begun within [`TOLERANCE`].
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub fn verify<'a>(
        &self,
        headers: &'a HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Signed<'a>, SignatureError> {
        let (id, at) = (only(headers, ID)?, only(headers, TIMESTAMP)?);
        let signatures = only(headers, SIGNATURE)?;
        let at = seconds(at).ok_or(SignatureError::Timestamp)?;
        if at.duration_since(now).unsigned_abs() > TOLERANCE {
            return Err(SignatureError::Stale);
        }
        let content = content(id, at, body);
        let mut signatures = signatures.split(' ').take(MAX_SIGNATURES);
        if signatures.any(|one| self.keys.iter().any(|key| key.verifies(&content, one))) {
            Ok(Signed { id, at })
        } else {
            Err(SignatureError::Wrong)
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} keys)", self.keys.len())
    }
}

/// The header's value, if there is exactly one.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<&str, SignatureError> {
    let mut values = headers.get_all(&name).iter();
    match (values.next().map(HeaderValue::to_str), values.next()) {
        (Some(Ok(value)), None) => Ok(value),
        _ => Err(SignatureError::Header(name)),
    }
}

/// A time of digits alone, so that what is signed anew here is what was signed there.
fn seconds(text: &str) -> Option<Timestamp> {
    let digits = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = text.parse().ok().filter(|_| digits)?;
    Timestamp::from_second(seconds).ok()
}
