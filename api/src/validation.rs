//! From a body's bytes to a checked submission, or to every fault in them at once.

mod faults;
mod fields;
mod page;
mod values;

use storm_shared::{
    models::{CallbackUrl, Records, ReportSpec},
    services::ssrf::Policy,
};

use crate::{metrics::Metrics, reply::Problem};
use faults::Faults;
use fields::Fields;
pub use page::page;

/// What a client asks for, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The report.
    pub spec: ReportSpec,
    /// Where to call back; without one, the client polls.
    pub callback_url: Option<CallbackUrl>,
}

/// What an endpoint asks for.
pub struct Form {
    max_records: u32,
    /// What judges a `callback_url`, and counts what it refuses; without one, that field is
    /// unknown.
    judge: Option<(Policy, Metrics)>,
}

impl Form {
    /// `POST /sync`: few records, nobody to call back.
    pub fn sync() -> Self {
        Self {
            max_records: Records::MAX_SYNC,
            judge: None,
        }
    }

    /// `POST /async`: a callback where `policy` lets it go; one that it refuses is counted in
    /// `metrics`.
    pub fn asynchronous(policy: Policy, metrics: Metrics) -> Self {
        Self {
            max_records: Records::MAX_ASYNC,
            judge: Some((policy, metrics)),
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// It is no JSON object (400), or its fields are wrong (422, every fault of them).
    pub fn read(&self, body: &[u8]) -> Result<Submission, Problem> {
        let fields = Fields::read(body)?;
        let mut faults = Faults::default();
        for name in &fields.unknown {
            faults.add(name, self.unknown());
        }
        for name in &fields.repeated {
            faults.add(name, "must stand once, not several times".to_owned());
        }
        let records = values::records(fields.records, self.max_records);
        let records = faults.keep("records", records);
        let report_name = faults.keep("report_name", values::report_name(fields.report_name));
        let callback_url = match (&self.judge, fields.callback_url) {
            (_, None) => Ok(None),
            (None, Some(_)) => Err(self.unknown()),
            (Some((policy, metrics)), Some(sent)) => {
                values::callback_url(sent, policy, metrics).map(Some)
            }
        };
        let callback_url = faults.keep("callback_url", callback_url);
        match (records, report_name, callback_url) {
            (Some(records), Some(report_name), Some(callback_url)) if faults.0.is_empty() => {
                let spec = ReportSpec {
                    report_name,
                    records,
                };
                Ok(Submission { spec, callback_url })
            }
            _ => Err(Problem::validation(faults.0)),
        }
    }

    fn unknown(&self) -> String {
        let known = match self.judge {
            Some(_) => "`records`, `report_name` and `callback_url`",
            None => "`records` and `report_name`",
        };
        format!("is unknown here; the fields are {known}")
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::services::ssrf::Policy;

    use super::{Form, Submission};
    use crate::{metrics::Metrics, reply::Problem};

    fn sync(body: &str) -> Result<Submission, Problem> {
        Form::sync().read(body.as_bytes())
    }

    fn asynchronous(body: &str) -> Result<Submission, Problem> {
        Form::asynchronous(Policy::default(), Metrics::new()).read(body.as_bytes())
    }

    /// The faults of a body as `field: detail`.
    fn faults(form: impl Fn(&str) -> Result<Submission, Problem>, body: &str) -> Vec<String> {
        let problem = form(body).expect_err(body);
        let errors = problem.errors().iter();
        errors
            .map(|error| format!("{}: {}", error.field, error.detail))
            .collect()
    }

    #[test]
    fn a_right_body_is_read_as_it_was_sent() {
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
    fn every_fault_of_a_body_is_told_at_once() {
        let body = r#"{"records": 0, "report_name": "", "callback_url": "ftp://a/", "speed": 9}"#;
        assert_eq!(
            faults(asynchronous, body),
            [
                "speed: is unknown here; the fields are `records`, `report_name` and `callback_url`",
                "records: must be a whole number from 1 to 100000",
                "report_name: must have 1 to 200 characters, not 0",
                "callback_url: must begin with `http://` or `https://`",
            ]
        );
    }

    #[test]
    fn sync_takes_fewer_records_and_no_callback() {
        let body = r#"{"records": 50, "report_name": "a", "callback_url": "http://example.com/"}"#;
        assert!(asynchronous(body).is_ok());
        assert_eq!(
            faults(sync, body),
            [
                "records: must be a whole number from 1 to 49",
                "callback_url: is unknown here; the fields are `records` and `report_name`",
            ]
        );
    }

    #[test]
    fn a_field_that_stands_twice_is_refused_whatever_its_values() {
        let body = r#"{"records": 1, "records": 1, "report_name": "a", "records": 2}"#;
        let detail = "must stand once, not several times";
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
        let told = &faults(sync, &body)[0];
        assert_eq!(told.split(':').next().unwrap().chars().count(), 65);
    }
}
