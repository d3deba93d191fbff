//! The built-in handler: the monthly financial report.

use std::{fmt::Display, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use serde::Serialize;
use storm_shared::{
    models::{self, FailureReason, ReportName, ReportSpec, RequestId},
    services::{
        report,
        store::{self, Worked},
    },
};
use uuid::Uuid;

use super::{Work, callback_body::to_bytes};
use crate::handler::{Context, Failure, Output};

/// Makes reports.
pub(crate) struct Report;

impl Work for Report {
    fn run<'a>(
        &'a self,
        job: &'a store::Job,
        _: &'a Context,
    ) -> BoxFuture<'a, Result<Output, Failure>> {
        async {
            let spec = spec(job).map_err(|no_report| Failure {
                reason: no_report.reason,
                ..Failure::last(no_report.detail)
            })?;
            let report = report::generate(spec).await;
            Output::json(&report).map_err(|error| Failure::last(error.to_string()))
        }
        .boxed()
    }

    fn expected(&self, job: &store::Job) -> Option<Duration> {
        job.report.as_ref().map(ReportSpec::ideal_duration)
    }

    fn is_deterministic(&self) -> bool {
        true
    }

    /// The form that the specification has. A report can't fail.
    fn callback_body(&self, job: &store::Job, worked: &Worked) -> Result<Bytes, models::Failure> {
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
        let result = worked.as_ref().map_err(Clone::clone)?;
        let spec = spec(job)?;
        let report: report::Report = serde_json::from_str(result.as_str())
            .map_err(|error| invalid("result_payload", error))?;
        Ok(to_bytes(&Body {
            request_id: job.claim.id,
            report_id: report.report_id,
            status: "completed",
            checksum: &report.checksum,
            report_name: &spec.report_name,
            records: spec.records.count(),
        }))
    }
}

/// The report that a job is to make. The store has parsed it.
fn spec(job: &store::Job) -> Result<&ReportSpec, models::Failure> {
    let spec = job.report.as_ref();
    spec.ok_or_else(|| invalid("input_payload", "it is no report"))
}

fn invalid(column: &str, error: impl Display) -> models::Failure {
    let detail = format!("The row can't be parsed: {column}: {error}.");
    models::Failure::new(FailureReason::InvalidRow, detail)
}
