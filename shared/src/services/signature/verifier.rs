//! The receiver's side.

use std::{fmt, sync::Arc, time::Duration};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use thiserror::Error;

use super::{
    ID, SIGNATURE, TIMESTAMP, content,
    key::{Key, KeyError, parse_all},
};

/// The largest difference between an attempt's timestamp and the receiver's clock. The published
/// libraries use the same value.
pub const TOLERANCE: Duration = Duration::from_mins(5);

/// The most signatures of a callback that are verified. Our callbacks have at most one per secret.
const MAX_SIGNATURES: usize = 100;

/// Verifies callbacks with a list of keys, any of which may have signed. Clones share the keys.
#[derive(Clone)]
pub struct Verifier {
    keys: Arc<[Key]>,
}

/// The signed headers of a verified callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// The message id, by which to deduplicate.
    pub id: &'a str,
    /// When the attempt began.
    pub at: Timestamp,
}

/// Why a callback is rejected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// A header is missing, repeated or not text.
    #[error("expected exactly one header {0}")]
    Header(HeaderName),
    /// The timestamp is not a number of seconds.
    #[error("the webhook-timestamp is not a number of seconds")]
    Timestamp,
    /// Too far from the receiver's clock: the callback was replayed, or a clock is wrong.
    #[error(
        "the webhook-timestamp is more than {} minutes from this host's clock",
        TOLERANCE.as_secs() / 60
    )]
    Stale,
    /// No signature was made by one of the keys.
    #[error("no signature is valid")]
    Wrong,
}

impl Verifier {
    /// Parses the sender's secrets, or their public keys (`whpk_`), separated by commas or white
    /// space.
    ///
    /// # Errors
    /// The number of the first key that is not accepted, and why. The error does not contain the
    /// key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let keys = parse_all(text)?.into_iter().map(|parsed| parsed.key);
        Ok(Self {
            keys: keys.collect(),
        })
    }

    /// Whether there are no keys, so that every callback is rejected.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Verifies a callback that arrived `now`. One of its signatures must have been made by one of
    /// the keys over exactly these bytes, and its timestamp must be within [`TOLERANCE`] of `now`.
    ///
    /// # Errors
    /// Why the callback is rejected.
    pub fn verify<'a>(
        &self,
        headers: &'a HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Signed<'a>, SignatureError> {
        let (id, at) = (only(headers, ID)?, only(headers, TIMESTAMP)?);
        let signatures = only(headers, SIGNATURE)?;
        let at = seconds(at).ok_or(SignatureError::Timestamp)?;
        // Both ways: a timestamp from the future could otherwise be replayed for longer.
        if at.duration_since(now).unsigned_abs() > TOLERANCE {
            return Err(SignatureError::Stale);
        }
        let content = content(id, at, body);
        // The sender chooses how many there are, and each costs a verification per key.
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

/// The header's value, if the header occurs exactly once.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<&str, SignatureError> {
    let mut values = headers.get_all(&name).iter();
    // Of two values, a proxy or the handler behind this could read the other one.
    match (values.next().map(HeaderValue::to_str), values.next()) {
        (Some(Ok(value)), None) => Ok(value),
        _ => Err(SignatureError::Header(name)),
    }
}

/// Parses a timestamp. Accepts only the canonical form, digits without a leading zero: the signed
/// content is rebuilt from the number, and must equal the text that the sender signed.
fn seconds(text: &str) -> Option<Timestamp> {
    let digits = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = text.parse().ok().filter(|_| digits)?;
    Timestamp::from_second(seconds).ok()
}
