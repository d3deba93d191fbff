//! Parses a body into a checked submission, or reports every fault in it at once.

mod admin;
mod bulk;
mod faults;
mod fields;
mod list;
mod page;
mod query;
mod values;

use storm_shared::{
    models::{CallbackUrl, Records, ReportSpec},
    services::ssrf::{Policy, Rule},
};

use crate::reply::Problem;
pub use admin::{AuditPage, audit, paused};
pub use bulk::{BulkForm, bulk};
use faults::Faults;
use fields::Fields;
pub use list::list;
pub use page::page;

/// A valid request for a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The report.
    pub spec: ReportSpec,
    /// Where to deliver the result; without one, the client polls.
    pub callback_url: Option<CallbackUrl>,
}

/// Why a body is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The answer.
    pub problem: Box<Problem>,
    /// The rule of the SSRF policy that refused the callback's URL, if one did.
    pub refused_by: Option<Rule>,
}

impl From<Problem> for Invalid {
    fn from(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            refused_by: None,
        }
    }
}

/// The fields that an endpoint accepts.
pub struct Form {
    max_records: u32,
    /// Checks a `callback_url`. Without one, that field is unknown.
    policy: Option<Policy>,
}

impl Form {
    /// `POST /sync`: few records and no callback.
    pub fn sync() -> Self {
        Self {
            max_records: Records::MAX_SYNC,
            policy: None,
        }
    }

    /// `POST /async`: a callback, if `policy` allows its URL.
    pub fn asynchronous(policy: Policy) -> Self {
        Self {
            max_records: Records::MAX_ASYNC,
            policy: Some(policy),
        }
    }

    /// Parses a body.
    ///
    /// # Errors
    /// It is not a JSON object (400), or its fields are invalid (422, with every fault).
    pub fn read(&self, body: &[u8]) -> Result<Submission, Invalid> {
        let fields = Fields::read(body)?;
        let mut faults = Faults::default();
        for name in &fields.unknown {
            faults.add(name, self.unknown());
        }
        for name in &fields.repeated {
            faults.add(name, "must be given once, not several times".to_owned());
        }
        let records = values::records(fields.records, self.max_records);
        let records = faults.keep("records", records);
        let report_name = faults.keep("report_name", values::report_name(fields.report_name));
        let mut refused_by = None;
        let callback_url = match (&self.policy, fields.callback_url) {
            (_, None) => Ok(None),
            (None, Some(_)) => Err(self.unknown()),
            (Some(policy), Some(sent)) => {
                let url = values::callback_url(sent, policy).map(Some);
                url.map_err(|fault| {
                    // Returned and not counted here: parsing has no side effects.
                    refused_by = fault.refused_by;
                    fault.detail
                })
            }
        };
        let callback_url = faults.keep("callback_url", callback_url);
        match (records, report_name, callback_url) {
            // All three can be valid beside an unknown or repeated field.
            (Some(records), Some(report_name), Some(callback_url)) if faults.0.is_empty() => {
                let spec = ReportSpec {
                    report_name,
                    records,
                };
                Ok(Submission { spec, callback_url })
            }
            _ => Err(Invalid {
                problem: Box::new(Problem::validation(faults.0)),
                refused_by,
            }),
        }
    }

    fn unknown(&self) -> String {
        let known = match self.policy {
            Some(_) => "`records`, `report_name` and `callback_url`",
            None => "`records` and `report_name`",
        };
        format!("is not a field of this request; its fields are {known}")
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::services::ssrf::Policy;

    use super::{Form, Invalid, Submission, faults::described};

    fn sync(body: &str) -> Result<Submission, Invalid> {
        Form::sync().read(body.as_bytes())
    }

    fn asynchronous(body: &str) -> Result<Submission, Invalid> {
        Form::asynchronous(Policy::default()).read(body.as_bytes())
    }

    /// The faults of a body as `field: detail`.
    fn faults(form: impl Fn(&str) -> Result<Submission, Invalid>, body: &str) -> Vec<String> {
        described(&form(body).expect_err(body).problem)
    }

    #[test]
    fn a_valid_body_is_kept_as_it_was_sent() {
        let url = "HTTPS://example.com:443/a/../b?q#f";
        let body = format!(
            r#" {{"callback_url": "{url}", "report\u005fname": "\u00e9", "records": 100000}} "#
        );
        let submission = asynchronous(&body).unwrap();
        assert_eq!(submission.spec.report_name.as_str(), "é");
        assert_eq!(submission.spec.records.count(), 100_000);
        assert_eq!(submission.callback_url.unwrap().as_str(), url);
    }

    #[test]
    fn a_callback_url_may_be_left_out_or_null() {
        for body in [
            r#"{"records": 1, "report_name": "a"}"#,
            r#"{"records": 1, "report_name": "a", "callback_url": null}"#,
        ] {
            assert_eq!(asynchronous(body).unwrap().callback_url, None);
            assert_eq!(sync(body).unwrap().callback_url, None);
        }
    }

    #[test]
    fn every_fault_of_a_body_is_reported_at_once() {
        let body = r#"{"records": 0, "report_name": "", "callback_url": "ftp://a/", "speed": 9}"#;
        assert_eq!(
            faults(asynchronous, body),
            [
                "speed: is not a field of this request; its fields are `records`, `report_name` and `callback_url`",
                "records: must be a whole number from 1 to 100000",
                "report_name: must have 1 to 200 characters, not 0",
                "callback_url: must begin with `http://` or `https://`",
            ]
        );
    }

    #[test]
    fn sync_accepts_fewer_records_and_no_callback() {
        let body = r#"{"records": 50, "report_name": "a", "callback_url": "http://example.com/"}"#;
        assert!(asynchronous(body).is_ok());
        assert_eq!(
            faults(sync, body),
            [
                "records: must be a whole number from 1 to 49",
                "callback_url: is not a field of this request; its fields are `records` and `report_name`",
            ]
        );
    }

    #[test]
    fn a_repeated_field_is_refused_whatever_its_values() {
        let body = r#"{"records": 1, "records": 1, "report_name": "a", "records": 2}"#;
        let detail = "must be given once, not several times";
        assert_eq!(faults(sync, body), [format!("records: {detail}")]);
        let body = r#"{"records": 1, "report_name": "a", "callback_url": "http://example.com/",
            "callback_url": null}"#;
        assert_eq!(
            faults(asynchronous, body),
            [format!("callback_url: {detail}")]
        );
    }

    #[test]
    fn a_thousand_unknown_fields_get_a_short_answer() {
        let many = (0..1000).map(|n| format!(r#""f{n}": 0, "#));
        let many = many.collect::<Vec<_>>().concat();
        let body = format!(r#"{{{many}"records": 1, "report_name": "a"}}"#);
        assert_eq!(faults(sync, &body).len(), 8);
        let long = "é".repeat(5000);
        let body = format!(r#"{{"{long}": 0, "records": 1, "report_name": "a"}}"#);
        let fault = &faults(sync, &body)[0];
        assert_eq!(fault.split(':').next().unwrap().chars().count(), 65);
    }
}
