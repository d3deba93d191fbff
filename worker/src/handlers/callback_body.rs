//! What a callback says of the work of a job.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use storm_shared::{
    models::{Failure, RequestId},
    services::store::{self, WorkResult, Worked},
};

/// The body that says how the work of `job` ended. That of a report has another form.
pub(super) fn of(job: &store::Job, worked: &Worked) -> Bytes {
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
        failure: Option<&'a Failure>,
    }
    let result = worked.as_ref().ok().map(WorkResult::json);
    to_bytes(&Body {
        request_id: job.claim.id,
        handler: job.handler.as_str(),
        status: if worked.is_ok() {
            "completed"
        } else {
            "failed"
        },
        result,
        failure: worked.as_ref().err(),
    })
}

#[expect(
    clippy::expect_used,
    reason = "only maps with non-string keys and I/O can fail"
)]
pub(super) fn to_bytes(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body)
        .expect("strings and numbers are JSON")
        .into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::value::RawValue;
    use storm_shared::{
        models::{Failure, FailureReason, RequestId, Traceparent},
        services::store::{Claim, Job, OwnerId, Work, WorkResult, Worked},
    };

    fn body(worked: &Worked) -> String {
        let id: RequestId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let job = Job {
            claim: Claim {
                id,
                work: Work::Job,
                owner: OwnerId::NOBODY,
                number: 1,
            },
            handler: "thumbnails".parse().unwrap(),
            input: "null".into(),
            report: None,
            is_long: false,
            worked: None,
            callback: None,
            traceparent: Traceparent::of(id),
            attempts: 0,
            attempts_before: 0,
            created_by: None,
            created_at: None,
            parked_for: Duration::ZERO,
            bytes: 0,
        };
        String::from_utf8(super::of(&job, worked).to_vec()).unwrap()
    }

    #[test]
    fn a_callback_says_how_the_work_ended() {
        let start =
            r#"{"request_id":"01890a5d-ac96-774b-bcce-b302099a8057","handler":"thumbnails","#;
        let result = RawValue::from_string(r#"{ "b": 1.0, "a": "\u0000" }"#.to_owned()).unwrap();
        assert_eq!(
            body(&Ok(WorkResult::from_json(result))),
            format!(r#"{start}"status":"completed","result":{{ "b": 1.0, "a": "\u0000" }}}}"#)
        );
        let failure = Failure::new(FailureReason::WorkFailed, "The work failed: 404.");
        assert_eq!(
            body(&Err(failure)),
            format!(
                r#"{start}"status":"failed","failure":{{"reason":"work_failed","detail":"The work failed: 404."}}}}"#
            )
        );
    }
}
