//! Signatures of callbacks, as Standard Webhooks 1.0 has them.
//!
//! What is signed is `{id}.{timestamp}.{body}`, of the exact bytes that are sent. No id and no timestamp
//! of ours holds a dot, so that there is only one way to take the three apart.
//!
//! * [`Signer`]: every secret signs each attempt, so that secrets can be replaced one after the other.
//! * [`Verifier`]: what a receiver does.
//! * `key`: secrets as texts, and why one can't be used. No error and no `Debug` shows one.

mod key;
mod signer;
mod verifier;

use hyper::header::HeaderName;
use jiff::Timestamp;

pub use key::{KeyError, KeyFault};
pub use signer::Signer;
pub use verifier::{SignatureError, Signed, TOLERANCE, Verifier};

/// The header that names the message, the same on every attempt.
pub const ID: HeaderName = HeaderName::from_static("webhook-id");
/// The header that tells when the attempt began, in seconds since 1970.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The header with the signatures, between spaces.
pub const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The most secrets that are taken: each costs every callback a signature.
pub const MAX_SECRETS: usize = 10;

/// What is signed.
fn content(id: &str, at: Timestamp, body: &[u8]) -> Vec<u8> {
    let mut content = format!("{id}.{}.", at.as_second()).into_bytes();
    content.extend_from_slice(body);
    content
}

#[cfg(test)]
mod tests;
