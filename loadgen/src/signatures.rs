//! The check of callback signatures.

use std::{env, fmt};

use anyhow::{Context as _, Result};
use hyper::HeaderMap;
use jiff::Timestamp;
use serde::Serialize;
use storm_shared::{
    models::RequestId,
    services::signature::{KeyError, SignatureError, Verifier},
};

/// The environment variable with the worker's signing secrets. There is no command-line option
/// because every user of a host can see command lines.
pub const VARIABLE: &str = "CALLBACK_SIGNING_SECRETS";

/// The keys that verify callbacks. Without a key, signatures are not checked.
#[derive(Clone, Debug, Default)]
pub struct Signatures {
    verifier: Option<Verifier>,
}

/// The result of checking one callback's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureCheck {
    /// No key is configured.
    Skipped,
    /// A signature matches, the timestamp is current, and the signed id is the body's id.
    Valid,
    /// The check failed.
    Invalid(SignatureFault),
}

/// Why a signature is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureFault {
    /// A header is missing, duplicated or malformed.
    Headers,
    /// The signed id is not the body's id.
    Id,
    /// The timestamp is too old, or in the future.
    Stale,
    /// No signature matches the body.
    Wrong,
}

/// The counts of signature checks in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SignatureCounts {
    /// Whether signatures are checked.
    pub checked: bool,
    /// Valid signatures.
    pub right: u64,
    /// Callbacks with a missing, duplicated or malformed header.
    pub headers: u64,
    /// Callbacks signed for another id than the body's.
    pub id: u64,
    /// Callbacks with a timestamp more than five minutes off.
    pub stale: u64,
    /// Callbacks without a matching signature.
    pub wrong: u64,
}

impl Signatures {
    /// Reads the secrets or public keys from the environment.
    ///
    /// # Errors
    /// A key is invalid. The error message does not contain it.
    pub fn from_environment() -> Result<Self> {
        // Lossy: a value that is not UTF-8 fails as an invalid key, and its text is not shown.
        let text = env::var_os(VARIABLE).unwrap_or_default();
        Self::parse(&text.to_string_lossy()).with_context(|| format!("{VARIABLE}=(hidden)"))
    }

    /// Parses keys separated by commas or white space. With an empty text, nothing is checked.
    ///
    /// # Errors
    /// A key is invalid; the message gives its position and what is accepted.
    pub fn parse(keys: &str) -> Result<Self, KeyError> {
        let verifier = Verifier::parse(keys)?;
        Ok(Self {
            verifier: Some(verifier).filter(|verifier| !verifier.is_empty()),
        })
    }

    /// Counts of zero.
    pub fn new_counts(&self) -> SignatureCounts {
        SignatureCounts {
            checked: self.verifier.is_some(),
            ..SignatureCounts::default()
        }
    }

    /// Checks a callback that arrives now. `id` is the request id in its body.
    pub fn check(&self, headers: &HeaderMap, body: &[u8], id: RequestId) -> SignatureCheck {
        self.check_at(Timestamp::now(), headers, body, id)
    }

    /// The same, where the worker's clock says `now`.
    pub fn check_at(
        &self,
        now: Timestamp,
        headers: &HeaderMap,
        body: &[u8],
        id: RequestId,
    ) -> SignatureCheck {
        let Some(verifier) = &self.verifier else {
            return SignatureCheck::Skipped;
        };
        match verifier.verify(headers, body, now) {
            // The signature covers the header's id. It must be the body's id too; otherwise the
            // callback of one job could be passed off as another's.
            Ok(signed) if signed.id == id.to_string() => SignatureCheck::Valid,
            Ok(_) => SignatureCheck::Invalid(SignatureFault::Id),
            Err(SignatureError::Header(_) | SignatureError::Timestamp) => {
                SignatureCheck::Invalid(SignatureFault::Headers)
            }
            Err(SignatureError::Stale) => SignatureCheck::Invalid(SignatureFault::Stale),
            Err(SignatureError::Wrong) => SignatureCheck::Invalid(SignatureFault::Wrong),
        }
    }
}

impl SignatureCounts {
    /// Counts one check.
    pub fn add(&mut self, checked: SignatureCheck) {
        let count = match checked {
            SignatureCheck::Skipped => return,
            SignatureCheck::Valid => &mut self.right,
            SignatureCheck::Invalid(SignatureFault::Headers) => &mut self.headers,
            SignatureCheck::Invalid(SignatureFault::Id) => &mut self.id,
            SignatureCheck::Invalid(SignatureFault::Stale) => &mut self.stale,
            SignatureCheck::Invalid(SignatureFault::Wrong) => &mut self.wrong,
        };
        *count += 1;
    }

    /// Invalid signatures.
    pub fn bad(&self) -> u64 {
        self.headers + self.id + self.stale + self.wrong
    }
}

/// One line of text.
impl fmt::Display for SignatureCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.checked {
            return write!(f, "not checked: {VARIABLE} is not set");
        }
        let (right, bad) = (self.right, self.bad());
        if bad == 0 {
            return write!(f, "all {right} verified");
        }
        let kinds = [
            (self.headers, "with missing or invalid headers"),
            (self.id, "for another id"),
            (self.stale, "with an old or future timestamp"),
            (self.wrong, "with a wrong signature"),
        ];
        let kinds = kinds.iter().filter(|(count, _)| *count > 0);
        let kinds: Vec<_> = kinds
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect();
        write!(f, "{bad} of {} bad: {}", right + bad, kinds.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::{SignatureCheck, SignatureFault, Signatures};

    #[test]
    fn the_counts_name_each_fault_and_its_number() {
        let mut counts = Signatures::default().new_counts();
        assert!(counts.to_string().starts_with("not checked"));
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        counts = Signatures::parse(key).unwrap().new_counts();
        assert_eq!(counts.to_string(), "all 0 verified");
        for checked in [
            SignatureCheck::Valid,
            SignatureCheck::Invalid(SignatureFault::Headers),
            SignatureCheck::Invalid(SignatureFault::Stale),
            SignatureCheck::Invalid(SignatureFault::Stale),
        ] {
            counts.add(checked);
        }
        let text =
            "3 of 4 bad: 1 with missing or invalid headers, 2 with an old or future timestamp";
        assert_eq!(counts.to_string(), text);
    }
}
