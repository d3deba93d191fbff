//! The work of a handler.

use super::Story;
use crate::chaos::history::{Record, WorkAttempt, WorkEnd, WorkRequest, WorkStored};

/// The digest of the result.
const RESULT: &str = "e1";

impl Story {
    /// A job of the handler that is inserted `millis` milliseconds after the start, and accepted.
    pub(in super::super::super) fn of_handler(millis: u64) -> Self {
        let mut story = Self::nothing_of(millis);
        story.handler = Some("chaos".to_owned());
        story.inserted().accepted()
    }

    pub(super) fn work_result() -> &'static str {
        r#"{"stored_in":"bodies","bytes":5000}"#
    }

    /// What a callback says of the work.
    pub(super) fn work_end(&self) -> Option<WorkEnd> {
        self.handler.as_ref()?;
        Some(if self.work_failed {
            WorkEnd::Failure("work_failed".to_owned())
        } else {
            WorkEnd::Result(RESULT.to_owned())
        })
    }

    /// The endpoint reads a request, and answers with this status.
    pub(in super::super::super) fn worked(mut self, answered: Option<u16>) -> Self {
        let request = WorkRequest {
            at: self.now,
            id: self.id,
            attempt: self.state.attempts + 1,
            right: true,
            answered,
            result_sha256: (answered == Some(200)).then(|| RESULT.to_owned()),
        };
        self.push(Record::WorkRequest(request));
        self
    }

    /// An attempt at the work has failed, and another one follows.
    pub(in super::super::super) fn work_attempt_failed(self, status: Option<u16>) -> Self {
        self.work_attempt(status).moved(|state| {
            state.status = storm_shared::models::Status::Pending;
            state.owner = None;
            state.attempts += 1;
        })
    }

    /// What came of the work is stored: a result, or a failure.
    pub(in super::super::super) fn work_stored(mut self, status: Option<u16>) -> Self {
        self.work_failed = status != Some(200);
        let end = self.work_end();
        let result = (!self.work_failed).then(|| self.result());
        let (at, id) = (self.now, self.id);
        let story = self.work_attempt(status).moved(|state| {
            state.attempts += 1;
            state.result = result;
        });
        story.stored_as(at, id, end)
    }

    fn stored_as(
        mut self,
        at: jiff::Timestamp,
        id: storm_shared::models::RequestId,
        end: Option<WorkEnd>,
    ) -> Self {
        let stored = end.map(|end| WorkStored {
            at,
            not_before: at,
            id,
            end,
        });
        self.records.extend(stored.map(Record::WorkStored));
        self
    }

    fn work_attempt(mut self, status: Option<u16>) -> Self {
        self.records.push(Record::WorkAttempt(WorkAttempt {
            id: self.id,
            number: self.state.attempts + 1,
            claim: self.state.claim,
            class: match status {
                Some(200) => "success",
                Some(_) => "status",
                None => "timeout",
            }
            .to_owned(),
            status,
        }));
        self
    }

    /// The callback has told that the work failed.
    pub(in super::super::super) fn told_of_failure(self) -> Self {
        self.moved(|state| {
            state.status = storm_shared::models::Status::Failed;
            state.attempts += 1;
        })
        .row(Some("work_failed"))
    }
}
