//! One callback: which job it is for, and what it says.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use storm_shared::{models::RequestId, services::report::Report};

use crate::{signatures::SignatureCheck, workload::Order};

/// A callback's content, and a stand-in for its bytes.
#[derive(Debug)]
pub(super) struct Callback {
    /// The job.
    pub(super) id: RequestId,
    /// Equal for equal bytes. The bytes of two million callbacks would be half a gigabyte.
    pub(super) fingerprint: u64,
    /// Whether it is to be believed.
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

    /// The same, with what its signature was found to be.
    pub(super) fn signed(self, signature: SignatureCheck) -> Self {
        Self { signature, ..self }
    }

    /// Whether every field is right for a job that was ordered so.
    pub(super) fn meets(&self, order: &Order) -> bool {
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
            && order.is_met_by(report)
    }
}
