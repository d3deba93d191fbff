//! The built-in handler: the monthly financial report.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use serde::Serialize;
use serde_json::from_slice;
use storm_shared::{
    models::{self, FailureReason, ReportName, ReportSpec, RequestId},
    services::{
        report,
        store::{self, Worked},
    },
};
use uuid::Uuid;

use super::{Work, callback_body::to_bytes};
use crate::handler::{Context, Failure, Handler, Job, Output};

/// Makes reports. Their payload is a [`ReportSpec`].
pub(crate) struct Report;

impl Handler for Report {
    async fn run(&self, job: &Job, _: &Context) -> Result<Output, Failure> {
        let spec: ReportSpec = from_slice(&job.payload).map_err(|error| {
            // The API accepts no other payload.
            let detail = format!("The row can't be parsed: input_payload: {error}.");
            Failure {
                reason: FailureReason::InvalidRow,
                ..Failure::last(detail)
            }
        })?;
        let report = report::generate(&spec).await;
        Output::json(&report).map_err(|error| Failure::last(error.to_string()))
    }
}

impl Work for Report {
    fn run<'a>(
        &'a self,
        job: &'a Job,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Output, Failure>> {
        Handler::run(self, job, context).boxed()
    }

    fn expected(&self, payload: &[u8]) -> Option<Duration> {
        let spec: ReportSpec = from_slice(payload).ok()?;
        Some(spec.ideal_duration())
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
        let spec: ReportSpec = from_slice(&job.input).map_err(invalid("input_payload"))?;
        let report: report::Report =
            serde_json::from_str(result.as_str()).map_err(invalid("result_payload"))?;
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

fn invalid(column: &'static str) -> impl FnOnce(serde_json::Error) -> models::Failure {
    move |error| {
        let detail = format!("The row can't be parsed: {column}: {error}.");
        models::Failure::new(FailureReason::InvalidRow, detail)
    }
}
