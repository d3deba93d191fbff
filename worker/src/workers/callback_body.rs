//! What a receiver gets.

use bytes::Bytes;
use serde::Serialize;
use storm_shared::{
    models::{ReportName, ReportSpec, RequestId},
    services::report::Report,
};
use uuid::Uuid;

/// The callback's bytes: the same on every try, on every worker.
pub(super) fn callback_body(request_id: RequestId, spec: &ReportSpec, report: &Report) -> Bytes {
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
    // No map with keys that are no strings, and no float: this can't fail.
    serde_json::to_vec(&body).map_or_else(|_| unreachable!("plain JSON"), Bytes::from)
}
