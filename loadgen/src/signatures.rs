//! Whether callbacks are signed as they have to be.

use std::{env, fmt};

use anyhow::{Context as _, Result};
use hyper::HeaderMap;
use jiff::Timestamp;
use serde::Serialize;
use storm_shared::{
    models::RequestId,
    services::signature::{KeyError, SignatureError, Verifier},
};

/// The variable with the secrets that callbacks are signed with, as the worker has it. No option has them:
/// every user of a machine sees what a program was started with.
pub const VARIABLE: &str = "CALLBACK_SIGNING_SECRETS";

/// What callbacks' signatures are checked by. Without a key they are not checked.
#[derive(Clone, Debug, Default)]
pub struct Signatures {
    verifier: Option<Verifier>,
}

/// What became of one callback's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureCheck {
    /// There is no key to check it by.
    Skipped,
    /// One of the signatures is right, the attempt has just begun, and the id is the body's.
    Valid,
    /// It is not to be believed.
    Invalid(SignatureFault),
}

/// Why a callback is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureFault {
    /// A header is missing, or there twice, or can't be read.
    Headers,
    /// The headers' id is not the body's.
    Id,
    /// The attempt began too long ago, or begins in the future.
    Stale,
    /// No signature is right for these bytes.
    Wrong,
}

/// What the signatures of a run's callbacks were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SignatureCounts {
    /// Whether they were checked.
    pub checked: bool,
    /// Callbacks that were signed right.
    pub right: u64,
    /// Callbacks without all three headers, each once and readable.
    pub headers: u64,
    /// Callbacks signed for another id than their body's.
    pub id: u64,
    /// Callbacks whose attempt began more than five minutes away.
    pub stale: u64,
    /// Callbacks none of whose signatures was right.
    pub wrong: u64,
}

impl Signatures {
    /// By the secrets, or the public keys, in the environment.
    ///
    /// # Errors
    /// One of them can't be used. The error doesn't show it.
    pub fn from_environment() -> Result<Self> {
        let text = env::var_os(VARIABLE).unwrap_or_default();
        let problem = || format!("{VARIABLE}=(hidden)");
        Self::parse(&text.to_string_lossy()).with_context(problem)
    }

    /// By the keys between commas or white space; from an empty text nothing is checked.
    ///
    /// # Errors
    /// Which one can't be used, and what is accepted.
    pub fn parse(keys: &str) -> Result<Self, KeyError> {
        let verifier = Verifier::parse(keys)?;
        Ok(Self {
            verifier: Some(verifier).filter(|verifier| !verifier.is_empty()),
        })
    }

    /// Nothing counted yet.
    pub fn new_counts(&self) -> SignatureCounts {
        SignatureCounts {
            checked: self.verifier.is_some(),
            ..SignatureCounts::default()
        }
    }

    /// Checks a callback that arrived now, whose body is about the request `id`.
    pub fn check(&self, headers: &HeaderMap, body: &[u8], id: RequestId) -> SignatureCheck {
        let Some(verifier) = &self.verifier else {
            return SignatureCheck::Skipped;
        };
        match verifier.verify(headers, body, Timestamp::now()) {
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
    /// Counts one more.
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

    /// Callbacks that are not to be believed.
    pub fn bad(&self) -> u64 {
        self.headers + self.id + self.stale + self.wrong
    }
}

/// In words, on one line.
impl fmt::Display for SignatureCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.checked {
            return write!(f, "not checked, for {VARIABLE} is not set");
        }
        let (right, bad) = (self.right, self.bad());
        if bad == 0 {
            return write!(f, "all {right} verified");
        }
        let kinds = [
            (self.headers, "without all its headers"),
            (self.id, "for another id"),
            (self.stale, "of another time"),
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
    fn the_counts_say_what_is_wrong_and_how_often() {
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
        let said = "3 of 4 bad: 1 without all its headers, 2 of another time";
        assert_eq!(counts.to_string(), said);
    }
}
