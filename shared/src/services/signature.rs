//! Signatures of callbacks, as defined by Standard Webhooks 1.0.
//!
//! The signed content is `{id}.{timestamp}.{body}`, with the exact bytes of the body. Our ids and
//! timestamps contain no dot, so the content can be split in only one way.
//!
//! * [`Signer`]: signs each attempt with every secret, so that a secret can be replaced without an
//!   interruption.
//! * [`Verifier`]: the receiver's side.
//! * `key`: parses secrets and public keys. No error and no `Debug` output shows one. `strength`
//!   finds the secrets that can be guessed.

mod key;
mod signer;
mod strength;
mod verifier;

use hyper::header::HeaderName;
use jiff::Timestamp;

pub use key::{KeyError, KeyFault};
pub use signer::Signer;
pub use verifier::{SignatureError, Signed, TOLERANCE, Verifier};

/// The header with the message id, which is the same on every attempt.
pub const ID: HeaderName = HeaderName::from_static("webhook-id");
/// The header with the time at which the attempt began, in seconds since 1970.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The header with the signatures, separated by spaces.
pub const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The most secrets. Each adds a signature to every callback.
pub const MAX_SECRETS: usize = 10;

/// The signed content.
fn content(id: &str, at: Timestamp, body: &[u8]) -> Vec<u8> {
    let at = at.as_second().to_string();
    [id.as_bytes(), at.as_bytes(), body].join(&b'.')
}

#[cfg(test)]
mod tests;
