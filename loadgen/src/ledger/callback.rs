//! A parsed callback.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use storm_shared::{models::RequestId, services::report::Report};

use crate::{signatures::SignatureCheck, workload::Order};

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

#[derive(Debug, Deserialize)]
struct Content {
    request_id: RequestId,
    status: String,
    report_name: String,
    records: u32,
    #[serde(flatten)]
    report: Report,
}

impl Callback {
    pub(super) fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        let content: Content = serde_json::from_slice(body)?;
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        Ok(Self {
            id: content.request_id,
            fingerprint: hasher.finish(),
            signature: SignatureCheck::Skipped,
            content,
        })
    }

    /// The same callback with the result of its signature check.
    pub(super) fn with_signature(self, signature: SignatureCheck) -> Self {
        Self { signature, ..self }
    }

    /// Whether every field matches the order.
    pub(super) fn matches(&self, order: &Order) -> bool {
        let Content {
            status,
            report_name,
            records,
            report,
            ..
        } = &self.content;
        status == "completed"
            && report_name == order.spec().report_name.as_str()
            && *records == order.spec().records.count()
            && order.matches(report)
    }
}
