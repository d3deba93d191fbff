//! The handlers of a worker, by name: what the job pipeline knows of each of them.

mod gate;
mod report;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use serde::Serialize;
use serde_json::value::RawValue;
use storm_shared::{
    config::{RetrySettings, Settings},
    models::{self, HandlerName, RequestId},
    services::store::{self, WorkResult, Worked},
};

pub(crate) use self::{
    gate::{Admission, Gate},
    report::Report,
};
use crate::{
    handler::{Context, Failure, Handler, Job, Output},
    schedule::Schedule,
};

/// A handler as the pipeline sees it. Every [`Handler`] is one.
pub(crate) trait Work: Send + Sync {
    /// [`Handler::run`].
    fn run<'a>(
        &'a self,
        job: &'a Job,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Output, Failure>>;

    /// How long the work is expected to take, if that is known.
    fn expected(&self, job: &Job) -> Option<Duration>;

    /// Whether each attempt gives the same result, and never fails. Then no attempt is recorded,
    /// and the result of quick work can be stored together with its first outcome.
    fn is_deterministic(&self) -> bool;

    /// The body of the callback: the same bytes on every attempt and every worker, so that
    /// receivers can compare repeats.
    ///
    /// # Errors
    /// What is stored of the job was edited outside the service.
    fn callback_body(&self, job: &store::Job, worked: &Worked) -> Result<Bytes, models::Failure>;
}

/// A handler that is nothing but code.
pub(crate) struct Code<H>(pub(crate) H);

impl<H: Handler> Work for Code<H> {
    fn run<'a>(
        &'a self,
        job: &'a Job,
        context: &'a Context,
    ) -> BoxFuture<'a, Result<Output, Failure>> {
        self.0.run(job, context).boxed()
    }

    fn expected(&self, _: &Job) -> Option<Duration> {
        None
    }

    fn is_deterministic(&self) -> bool {
        false
    }

    fn callback_body(&self, job: &store::Job, worked: &Worked) -> Result<Bytes, models::Failure> {
        Ok(callback_body(job.claim.id, &job.handler, worked))
    }
}

/// No report takes longer than a few minutes. Nothing ends one at this time.
const LONGEST_REPORT: Duration = Duration::from_hours(1);

/// The limits of a handler.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Jobs that run at a time in this worker.
    pub(crate) concurrency: usize,
    /// Time for one attempt.
    pub(crate) timeout: Duration,
    /// When a failed attempt is followed by another one.
    pub(crate) retry: RetrySettings,
}

/// A handler that this worker serves.
pub(crate) struct Served {
    pub(crate) name: HandlerName,
    pub(crate) work: Arc<dyn Work>,
    pub(crate) limits: Limits,
    pub(crate) schedule: Schedule,
    pub(crate) gate: Gate,
}

impl Served {
    /// `work` under a name.
    pub(crate) fn new(name: HandlerName, work: Arc<dyn Work>, limits: Limits) -> Self {
        Self {
            name,
            work,
            schedule: Schedule::new(&limits.retry),
            gate: Gate::new(),
            limits,
        }
    }
}

/// The handlers that a worker serves. Clones share them.
#[derive(Clone)]
pub struct Handlers(Arc<BTreeMap<HandlerName, Arc<Served>>>);

impl Handlers {
    /// The report and the handlers of `settings`, of which none is in Rust.
    pub fn without_code(settings: &Settings) -> Self {
        Self::of(settings, BTreeMap::new())
    }

    /// The report and the handlers of `settings`, with `code` by the names of those in Rust.
    pub(crate) fn of(settings: &Settings, code: BTreeMap<HandlerName, Arc<dyn Work>>) -> Self {
        let report = Limits {
            concurrency: settings.worker.concurrency as usize,
            timeout: LONGEST_REPORT,
            retry: settings.callback.retry.clone(),
        };
        let report = Served::new(HandlerName::REPORT, Arc::new(Report), report);
        let others = code.into_iter().map(|(name, work)| {
            let limits = Limits {
                concurrency: 100,
                timeout: Duration::from_secs(30),
                retry: settings.callback.retry.clone(),
            };
            Served::new(name, work, limits)
        });
        let all = [report].into_iter().chain(others);
        Self(Arc::new(
            all.map(|served| (served.name.clone(), Arc::new(served)))
                .collect(),
        ))
    }

    /// The one with this name, if this worker serves it.
    pub(crate) fn get(&self, name: &HandlerName) -> Option<&Arc<Served>> {
        self.0.get(name)
    }

    /// All but the report.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.0.values().filter(|it| it.name != HandlerName::REPORT)
    }

    /// The names of all but the report.
    pub(crate) fn names(&self) -> Vec<HandlerName> {
        self.others().map(|it| it.name.clone()).collect()
    }

    /// The body of a job's callback. Any worker can make it, also one that does not serve the
    /// job's handler.
    ///
    /// # Errors
    /// What is stored of the job was edited outside the service.
    pub(crate) fn callback_body(
        &self,
        job: &store::Job,
        worked: &Worked,
    ) -> Result<Bytes, models::Failure> {
        match self.get(&job.handler) {
            Some(served) => served.work.callback_body(job, worked),
            None => Ok(callback_body(job.claim.id, &job.handler, worked)),
        }
    }
}

/// The body that says how the work ended.
fn callback_body(request_id: RequestId, handler: &HandlerName, worked: &Worked) -> Bytes {
    // serde writes the fields in this order. Another order would change the bytes between two
    // attempts of a job that is in the table.
    #[derive(Serialize)]
    struct Body<'a> {
        request_id: RequestId,
        handler: &'a str,
        status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        failure: Option<&'a models::Failure>,
    }
    #[expect(clippy::expect_used, reason = "a `WorkResult` is JSON")]
    let raw = |result: &'_ WorkResult| -> Box<RawValue> {
        RawValue::from_string(result.as_str().to_owned()).expect("JSON")
    };
    let result = worked.as_ref().ok().map(raw);
    let body = Body {
        request_id,
        handler: handler.as_str(),
        status: if worked.is_ok() {
            "completed"
        } else {
            "failed"
        },
        result: result.as_deref(),
        failure: worked.as_ref().err(),
    };
    to_bytes(&body)
}

#[expect(
    clippy::expect_used,
    reason = "only maps with non-string keys and I/O can fail"
)]
fn to_bytes(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body)
        .expect("strings and numbers are JSON")
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;
    use storm_shared::{
        models::{Failure, FailureReason, HandlerName, RequestId},
        services::store::WorkResult,
    };

    use super::callback_body;

    #[test]
    fn a_callback_says_how_the_work_ended() {
        let id: RequestId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let handler: HandlerName = "thumbnails".parse().unwrap();
        let result = RawValue::from_string(r#"{ "b": 1.0, "a": "\u0000" }"#.to_owned()).unwrap();
        let done = callback_body(id, &handler, &Ok(WorkResult::from_json(&result)));
        assert_eq!(
            done,
            r#"{"request_id":"01890a5d-ac96-774b-bcce-b302099a8057","handler":"thumbnails","status":"completed","result":{ "b": 1.0, "a": "\u0000" }}"#
        );
        let failure = Failure::new(FailureReason::WorkFailed, "The handler answered 404.");
        let failed = callback_body(id, &handler, &Err(failure));
        assert_eq!(
            failed,
            r#"{"request_id":"01890a5d-ac96-774b-bcce-b302099a8057","handler":"thumbnails","status":"failed","failure":{"reason":"work_failed","detail":"The handler answered 404."}}"#
        );
    }
}
