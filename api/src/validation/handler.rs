//! The body of `POST /async/{handler}`: a payload.

use storm_shared::{models::HandlerName, services::ssrf::Policy};

use super::{
    Faults, Form, Invalid, JobInput, Submission, callback,
    fields::{Fields, Names},
    report, submission, values,
};
use crate::{body::LIMIT, reply::Problem};

/// A valid body.
const EXAMPLE: &str = r#"{"payload": {"any": "JSON"}}"#;

/// `POST /async/{handler}`: a payload and a callback, if the policy allows its URL.
pub struct HandlerForm {
    handler: HandlerName,
    max_payload: usize,
    policy: Policy,
}

impl HandlerForm {
    /// The form of `handler`, which takes payloads of up to `max_payload` bytes.
    pub fn new(handler: HandlerName, max_payload: usize, policy: Policy) -> Self {
        Self {
            handler,
            max_payload,
            policy,
        }
    }

    /// Whose it is.
    pub fn handler(&self) -> &HandlerName {
        &self.handler
    }
}

impl Form for HandlerForm {
    type Work = JobInput;

    fn body_limit(&self) -> usize {
        self.max_payload + LIMIT
    }

    fn read(&self, body: &[u8]) -> Result<Submission<JobInput>, Invalid> {
        let fields: Fields<'_, Job, 2> = Fields::read(body, EXAMPLE)?;
        let [payload, callback_url] = fields.values;
        let bytes = payload.map_or(0, |payload| payload.get().len());
        if bytes > self.max_payload {
            let problem = Problem::payload_too_large(&self.handler, self.max_payload, bytes);
            return Err(problem.into());
        }
        let mut faults = Faults::default();
        fields.check("", "`payload` and `callback_url`", &mut faults);
        let payload = faults.keep("payload", values::payload(payload));
        let input = payload.and_then(|payload| {
            if self.handler == HandlerName::REPORT {
                return report::within_payload(payload, &mut faults).map(JobInput::Report);
            }
            Some(JobInput::Payload {
                handler: self.handler.clone(),
                payload: payload.to_owned(),
            })
        });
        let callback = callback(callback_url, &self.policy, &mut faults);
        submission(input, callback, faults)
    }
}

struct Job;

impl Names<2> for Job {
    const NAMES: [&'static str; 2] = ["payload", "callback_url"];
}

#[cfg(test)]
mod tests {
    use storm_shared::services::ssrf::Policy;

    use super::{HandlerForm, LIMIT};
    use crate::validation::{Form as _, Invalid, JobInput, Submission, faults::described};

    const MAX_PAYLOAD: usize = 1024;

    fn read(handler: &str, body: &str) -> Result<Submission<JobInput>, Invalid> {
        let handler = handler.parse().unwrap();
        HandlerForm::new(handler, MAX_PAYLOAD, Policy::default()).read(body.as_bytes())
    }

    fn payload(body: &str) -> String {
        let Ok(submission) = read("pdf", body) else {
            panic!("{body}");
        };
        match submission.work {
            JobInput::Payload { handler, payload } => {
                assert_eq!(handler.as_str(), "pdf");
                payload.get().to_owned()
            }
            JobInput::Report(_) => panic!("a report"),
        }
    }

    fn faults(handler: &str, body: &str) -> Vec<String> {
        described(&read(handler, body).err().unwrap().problem)
    }

    #[test]
    fn a_payload_is_any_json_and_kept_as_it_was_sent() {
        for sent in [
            "null",
            "0",
            "-0.0e+10",
            "12345678901234567890123456789.5",
            r#""""#,
            r#"{"a":1,  "a" : 2, "\u0061": 3}"#,
            r#"["\u0000\ud800\udfff", "\ud83d\ude00", "\/é"]"#,
            "[\n\t{}\r ]",
        ] {
            let body = format!("{{\"payload\" :  {sent} \n, \"callback_url\": null}}");
            assert_eq!(payload(&body), sent);
            assert_eq!(payload(&format!("{{\"p\\u0061yload\":{sent}}}")), sent);
        }
    }

    #[test]
    fn a_payload_is_bounded_to_the_byte() {
        let body = |bytes: usize| format!("{{\"payload\": \"{}\"}}", "é".repeat(bytes / 2 - 1));
        assert_eq!(payload(&body(MAX_PAYLOAD)).len(), MAX_PAYLOAD);
        let odd = body(MAX_PAYLOAD).replacen('é', "abc", 1);
        let problem = read("pdf", &odd).err().unwrap().problem;
        let detail = "The payload has 1025 bytes. `pdf` takes at most 1024.";
        assert_eq!(problem.detail(), detail);
        let handler = "pdf".parse().unwrap();
        let form = HandlerForm::new(handler, MAX_PAYLOAD, Policy::default());
        assert_eq!(form.body_limit(), MAX_PAYLOAD + LIMIT);
    }

    #[test]
    fn every_fault_of_a_submission_is_reported_at_once() {
        let unknown = "is not a field of this request; its fields are `payload` and `callback_url`";
        let missing = "payload: is missing; it may be any JSON, also null";
        let (open, close) = ("[".repeat(129), "]".repeat(129));
        for (body, expected) in [
            ("{}".to_owned(), vec![missing.to_owned()]),
            (
                r#"{"records": 1, "callback_url": "http://10.0.0.1/"}"#.to_owned(),
                vec![
                    format!("records: {unknown}"),
                    missing.to_owned(),
                    "callback_url: must lead to a public address; this one is private".to_owned(),
                ],
            ),
            (
                r#"{"payload": 1, "callback_url": null, "payload": 1, "callback_url": 1}"#
                    .to_owned(),
                vec![
                    "payload: must be given once, not several times".to_owned(),
                    "callback_url: must be given once, not several times".to_owned(),
                    "callback_url: must be an absolute http or https URL, null, or left out, not a \
                     number"
                        .to_owned(),
                ],
            ),
            (
                format!("{{\"payload\": {open}{close}, \"x\": 1}}"),
                vec![
                    format!("x: {unknown}"),
                    "payload: must have at most 128 levels of arrays and objects within each other"
                        .to_owned(),
                ],
            ),
        ] {
            assert_eq!(faults("pdf", &body), expected, "{body}");
        }
        let url = r#"{"payload": 1, "callback_url": "http://10.0.0.1/"}"#;
        assert!(read("pdf", url).err().unwrap().refused_by.is_some());
    }

    #[test]
    fn the_payload_of_the_report_has_its_fields() {
        let body = r#"{"payload": {"report_name": "a", "records": 100000}}"#;
        let Ok(submission) = read("report", body) else {
            panic!("it is valid");
        };
        let JobInput::Report(spec) = submission.work else {
            panic!("no report");
        };
        assert_eq!(spec.records.count(), 100_000);
        let body = r#"{"payload": {"records": 0, "speed": 1, "records": 0}}"#;
        assert_eq!(
            faults("report", body),
            [
                "payload.speed: is not a field of this request; its fields are `records` and \
                 `report_name`",
                "payload.records: must be given once, not several times",
                "payload.records: must be a whole number from 1 to 100000",
                "payload.report_name: is missing; it must be a string of 1 to 200 characters",
            ]
        );
        for (payload, kind) in [("null", "null"), ("[{}]", "an array")] {
            let fault = &faults("report", &format!("{{\"payload\": {payload}}}"))[0];
            assert!(fault.starts_with("payload: must be an object") && fault.ends_with(kind));
        }
    }
}
