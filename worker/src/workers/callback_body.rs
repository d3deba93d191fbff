//! The body of a callback.

use bytes::Bytes;
use serde::Serialize;
use storm_shared::{
    models::{ReportName, ReportSpec, RequestId},
    services::report::Report,
};
use uuid::Uuid;

/// Serialises the body: the same bytes on every attempt and every worker, so that receivers can
/// compare repeats.
pub(super) fn callback_body(request_id: RequestId, spec: &ReportSpec, report: &Report) -> Bytes {
    // serde writes the fields in this order. Another order would change the bytes between two
    // attempts of a job that is in the table.
    #[derive(Serialize)]
    struct Body<'a> {
        request_id: RequestId,
        report_id: Uuid,
        status: &'static str,
        checksum: &'a str,
        report_name: &'a ReportName,
        records: u32,
    }
    let body = Body {
        request_id,
        report_id: report.report_id,
        status: "completed",
        checksum: &report.checksum,
        report_name: &spec.report_name,
        records: spec.records.count(),
    };
    #[expect(
        clippy::expect_used,
        reason = "only maps with non-string keys and I/O can fail"
    )]
    let bytes = serde_json::to_vec(&body).expect("strings and numbers are JSON");
    bytes.into()
}
