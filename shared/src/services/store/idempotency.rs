//! Idempotency: whether a submission is new, or repeats an earlier one. Value types, no SQL.

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::job::NewJob;
use crate::models::{CallbackUrl, HandlerName, ReportSpec, RequestId};

/// What became of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is stored, as the job that was submitted.
    Stored,
    /// Its idempotency key has stored the same submission before. Nothing was written.
    Replayed {
        /// The first one's request.
        id: RequestId,
        /// When the first one was expected to be done, as it was accepted: by the wall clock, in
        /// milliseconds.
        expected_at: Timestamp,
    },
    /// The job is for a handler, and a worker of the previous release still runs, which would take
    /// it for a report. Nothing was written.
    OldWorkers,
    /// Its idempotency key has stored another submission, or one whose request was erased since:
    /// whether it was the same is not known any more. Nothing was written.
    Conflicting,
}

/// What tells one submission from another: the SHA-256 of its fields, as they were parsed.
///
/// It is stored, and compared by other releases: fields that are added later must not change it for
/// submissions without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of a job.
    pub(super) fn of(job: &NewJob) -> Self {
        let callback = job.callback.as_ref();
        match job.report_spec() {
            Some(spec) => Self::of_report(&spec, callback),
            None => Self::of_payload(&job.handler, &job.input, callback),
        }
    }

    /// Of 64 bits that are 1, which no report's name has as its length, the handler's name and a
    /// zero byte, the payload's length in bytes (64 bits, big-endian), the payload as it was sent,
    /// and the callback URL as it was sent, or nothing.
    fn of_payload(handler: &HandlerName, payload: &str, callback: Option<&CallbackUrl>) -> Self {
        let hash = Sha256::new()
            .chain_update([0xff; 8])
            .chain_update(handler.as_str())
            .chain_update([0])
            .chain_update((payload.len() as u64).to_be_bytes())
            .chain_update(payload)
            .chain_update(callback.map_or("", CallbackUrl::as_str));
        Self(hash.finalize().into())
    }

    /// Of the name's length in bytes (64 bits, big-endian), the name, the number of records (32
    /// bits, big-endian), and the callback URL as it was sent, or nothing.
    fn of_report(spec: &ReportSpec, callback: Option<&CallbackUrl>) -> Self {
        let name = spec.report_name.as_str();
        let hash = Sha256::new()
            .chain_update((name.len() as u64).to_be_bytes())
            .chain_update(name)
            .chain_update(spec.records.count().to_be_bytes())
            // A URL is never empty.
            .chain_update(callback.map_or("", CallbackUrl::as_str));
        Self(hash.finalize().into())
    }

    /// Its bytes, as they are stored.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::Fingerprint;
    use crate::{
        models::{CallbackUrl, Records, ReportName, ReportSpec, RequestId},
        services::store::NewJob,
    };

    fn fingerprint(name: &str, records: u64, callback: Option<&str>) -> Fingerprint {
        let spec = ReportSpec {
            report_name: ReportName::try_from(name.to_owned()).unwrap(),
            records: Records::new(records, Records::MAX_ASYNC).unwrap(),
        };
        let callback = callback.map(|url| CallbackUrl::parse(url).unwrap());
        Fingerprint::of(&NewJob::new(RequestId::generate(), &spec, callback))
    }

    fn of_payload(handler: &str, payload: &str, callback: Option<&str>) -> Fingerprint {
        let payload = RawValue::from_string(payload.to_owned()).unwrap();
        let callback = callback.map(|url| CallbackUrl::parse(url).unwrap());
        let (handler, id) = (handler.parse().unwrap(), RequestId::generate());
        Fingerprint::of(&NewJob::for_handler(handler, id, &payload, callback))
    }

    #[test]
    fn a_fingerprint_is_the_same_in_every_release() {
        let url = "https://example.com/hook";
        for (callback, stored) in [
            (
                None,
                "59245dcad06795ff29b1b6bc9e4f7edec2ca5e7327026e590924428c921c650d",
            ),
            (
                Some(url),
                "e5287a0ae7e252fd4b230f66b74c5978074d8fa9d7b6b714498c654bca93bc44",
            ),
        ] {
            let bytes = fingerprint("Q1_Finance", 10, callback);
            let hex: Vec<_> = bytes
                .as_bytes()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            assert_eq!(hex.concat(), stored);
        }
    }

    #[test]
    fn every_field_changes_the_fingerprint_and_so_does_the_spelling_of_the_url() {
        let all = [
            fingerprint("a", 1, None),
            fingerprint("a1", 1, None),
            fingerprint("a", 2, None),
            fingerprint("a", 1, Some("http://example.com/")),
            fingerprint("a", 1, Some("http://example.com:80/")),
            fingerprint("a", 1, Some("http://example.com")),
            of_payload("a", "1", None),
            of_payload("b", "1", None),
            of_payload("a", "[1]", Some("http://example.com/")),
            of_payload("a", "[1 ]", Some("http://example.com/")),
            of_payload("a", r#"{"report_name":"a","records":1}"#, None),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one), "{at}");
        }
        assert_eq!(all[0], fingerprint("a", 1, None));
    }
}
