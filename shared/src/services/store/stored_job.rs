//! A claimed job as its row has it, which an edit by hand may have changed.

use std::{error::Error, fmt::Display, str::from_utf8, time::Duration};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Claim, InvalidJob, Job, WorkResult};
use crate::{
    models::{
        CallbackUrl, ClientName, Failure, FailureReason, HandlerName, ReportSpec, Traceparent,
    },
    services::report::Report,
};

/// What an engine reads of a job that a claim has won. It is parsed after the commit: no other
/// write waits for that, and a row that can't be parsed undoes no other claim.
pub(super) struct StoredJob {
    pub(super) claim: Claim,
    pub(super) attempts: u32,
    pub(super) attempts_before: u32,
    /// How long the job has been parked; of the last pause, only the time after it.
    pub(super) parked_for: Duration,
    pub(super) input: Vec<u8>,
    pub(super) result: Option<Vec<u8>>,
    /// The callback URL in normal form.
    pub(super) target: Option<Vec<u8>>,
    /// `None`: the report.
    pub(super) handler: Option<Vec<u8>>,
    pub(super) is_long: bool,
    pub(super) traceparent: Traceparent,
    pub(super) created_by: Option<ClientName>,
    pub(super) created_at: Option<Timestamp>,
    pub(super) failure: Option<Failure>,
}

impl StoredJob {
    /// The bytes of its bodies.
    pub(super) fn bytes(&self) -> usize {
        self.input.len() + self.result.as_ref().map_or(0, Vec::len)
    }

    /// The job. Only an edit from outside can produce a row that can't be parsed. `last` is the URL
    /// of the one before, and then of this one.
    pub(super) fn into_job(self, last: &mut Option<CallbackUrl>) -> Result<Job, InvalidJob> {
        let claim = self.claim;
        self.parse(last).map_err(|error| {
            tracing::error!(id = %claim.id, %error, "can't parse a row");
            let detail = format!("The row can't be parsed: {error}.");
            InvalidJob {
                claim,
                failure: Failure::new(FailureReason::InvalidRow, detail),
            }
        })
    }

    fn parse(self, last: &mut Option<CallbackUrl>) -> Result<Job, String> {
        let bytes = self.bytes();
        let handler = handler(self.handler.as_deref()).map_err(in_column("handler"))?;
        let is_report = handler == HandlerName::REPORT;
        let report = read_json::<ReportSpec>(&self.input, is_report);
        let result = self.result.as_deref();
        let result = result
            .map(|result| {
                read_json::<Report>(result, is_report)?;
                WorkResult::stored(result)
            })
            .transpose();
        // Stored before the callback says so.
        let failure = self.failure.filter(|failure| failure.reason.is_of_work());
        Ok(Job {
            claim: self.claim,
            bytes,
            handler,
            report: report.map_err(in_column("input_payload"))?,
            // A stored result is used as it is: the callback has the same bytes on every attempt.
            worked: result
                .map_err(in_column("result_payload"))?
                .map(Ok)
                .or(failure.map(Err)),
            input: self.input.into(),
            is_long: self.is_long,
            callback: self
                .target
                .as_deref()
                .map(|stored| callback(stored, last))
                .transpose()
                .map_err(in_column("callback_url"))?,
            traceparent: self.traceparent,
            attempts: self.attempts,
            attempts_before: self.attempts_before,
            parked_for: self.parked_for,
            created_by: self.created_by,
            created_at: self.created_at,
        })
    }
}

fn handler(stored: Option<&[u8]>) -> Result<HandlerName, Box<dyn Error>> {
    stored.map_or(
        Ok(HandlerName::REPORT),
        |name| Ok(from_utf8(name)?.parse()?),
    )
}

/// The URL in a column. Many jobs of a claim have the same one, which is parsed once: that takes as
/// long as everything else of a row.
fn callback(stored: &[u8], last: &mut Option<CallbackUrl>) -> Result<CallbackUrl, Box<dyn Error>> {
    let stored = from_utf8(stored)?;
    if let Some(last) = last.as_ref().filter(|last| last.as_str() == stored) {
        return Ok(last.clone());
    }
    let url = CallbackUrl::from_target(stored)?;
    *last = Some(url.clone());
    Ok(url)
}

/// Parses a body as a `Model` if it is that of a report. What other handlers get and return can be
/// any JSON, and is only checked.
fn read_json<'a, Model: Deserialize<'a>>(
    body: &'a [u8],
    is_report: bool,
) -> Result<Option<Model>, serde_json::Error> {
    if is_report {
        serde_json::from_slice(body).map(Some)
    } else {
        serde_json::from_slice::<&RawValue>(body).map(|_| None)
    }
}

/// Names the column in which an error was found.
fn in_column<E: Display>(column: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("{column}: {error}")
}
