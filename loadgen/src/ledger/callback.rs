//! A parsed callback.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use storm_shared::{models::RequestId, services::report::Report};

use crate::{
    signatures::SignatureCheck,
    workload::{Expected, Order},
};

/// The content of a callback, and a fingerprint of its bytes.
#[derive(Debug)]
pub(super) struct Callback {
    /// The id of the job.
    pub(super) id: RequestId,
    /// A hash of the body, to recognise exact repeats. Keeping the bodies of two million callbacks
    /// would take half a gigabyte.
    pub(super) fingerprint: u64,
    /// The result of the signature check.
    pub(super) signature: SignatureCheck,
    content: Content,
}

/// What a callback means for its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The job is completed, as ordered.
    Right,
    /// The job of a handler has failed.
    Failed,
    /// It is not what was ordered.
    Wrong,
}

#[derive(Debug)]
enum Content {
    Report(OfReport),
    Handler(OfHandler),
}

#[derive(Debug, Deserialize)]
struct OfReport {
    request_id: RequestId,
    status: String,
    report_name: String,
    records: u32,
    #[serde(flatten)]
    report: Report,
}

/// A result is not kept: it may be large, and the fingerprint covers it.
#[derive(Debug, Deserialize)]
struct OfHandler {
    request_id: RequestId,
    handler: String,
    status: String,
    #[serde(default, rename = "result", deserialize_with = "is_there")]
    has_result: bool,
    failure: Option<FailureView>,
}

#[derive(Debug, Deserialize)]
struct FailureView {
    reason: String,
}

/// True for any value: null is a result, too.
fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

impl Callback {
    pub(super) fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        // Reports first: a report's callback is small, and must cost little at high rates.
        let content = serde_json::from_slice(body)
            .map(Content::Report)
            .or_else(|_| serde_json::from_slice(body).map(Content::Handler))?;
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        Ok(Self {
            id: match &content {
                Content::Report(content) => content.request_id,
                Content::Handler(content) => content.request_id,
            },
            fingerprint: hasher.finish(),
            signature: SignatureCheck::Skipped,
            content,
        })
    }

    /// The same callback with the result of its signature check.
    pub(super) fn with_signature(self, signature: SignatureCheck) -> Self {
        Self { signature, ..self }
    }

    /// Compares every field with the order.
    pub(super) fn judge(&self, order: &Order) -> Verdict {
        match (&self.content, order.expected()) {
            (Content::Report(content), Expected::Report(spec, report))
                if content.status == "completed"
                    && content.report_name == spec.report_name.as_str()
                    && content.records == spec.records.count()
                    && content.report == *report =>
            {
                Verdict::Right
            }
            (Content::Handler(content), Expected::Handler(handler))
                if content.handler == handler.as_str() =>
            {
                content.end()
            }
            _ => Verdict::Wrong,
        }
    }
}

impl OfHandler {
    fn end(&self) -> Verdict {
        match (self.status.as_str(), self.has_result, &self.failure) {
            ("completed", true, None) => Verdict::Right,
            ("failed", false, Some(failure)) if !failure.reason.is_empty() => Verdict::Failed,
            _ => Verdict::Wrong,
        }
    }
}
