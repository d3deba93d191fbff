//! The bodies of `POST /sync` and `POST /async`: the report's fields.

use serde_json::value::RawValue;
use storm_shared::{
    models::{Records, ReportSpec},
    services::ssrf::Policy,
};

use super::{
    Faults, Form, Invalid, JobInput, Submission, callback,
    fields::{Fields, Names},
    submission, values,
};

/// A valid body.
const EXAMPLE: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

const OF_REPORT: &str = "`records` and `report_name`";

/// `POST /sync`: few records and no callback.
pub struct SyncForm;

/// `POST /async`: a callback, if the policy allows its URL.
pub struct AsyncForm {
    policy: Policy,
}

impl AsyncForm {
    /// The form with the SSRF policy of callbacks.
    pub fn new(policy: Policy) -> Self {
        Self { policy }
    }
}

impl Form for SyncForm {
    type Work = ReportSpec;

    fn read(&self, body: &[u8]) -> Result<Submission<ReportSpec>, Invalid> {
        // With the callback, though none is taken: `null` is the same as no field.
        let fields: Fields<'_, Job, 3> = Fields::read(body, EXAMPLE)?;
        let [records, report_name, callback_url] = fields.values;
        let mut faults = Faults::default();
        fields.check("", OF_REPORT, &mut faults);
        let sent = [records, report_name];
        let work = spec(sent, Report::NAMES, Records::MAX_SYNC, &mut faults);
        if callback_url.is_some_and(|value| value.get() != "null") {
            faults.unknown("callback_url", OF_REPORT);
        }
        submission(work, Ok(None), faults)
    }
}

impl Form for AsyncForm {
    type Work = JobInput;

    fn read(&self, body: &[u8]) -> Result<Submission<JobInput>, Invalid> {
        let fields: Fields<'_, Job, 3> = Fields::read(body, EXAMPLE)?;
        let [records, report_name, callback_url] = fields.values;
        let mut faults = Faults::default();
        let known = "`records`, `report_name` and `callback_url`";
        fields.check("", known, &mut faults);
        let sent = [records, report_name];
        let spec = spec(sent, Report::NAMES, Records::MAX_ASYNC, &mut faults);
        let callback = callback(callback_url, &self.policy, &mut faults);
        submission(spec.map(JobInput::Report), callback, faults)
    }
}

/// The report of the field `payload`, which has the fields of a report.
pub(super) fn within_payload(payload: &RawValue, faults: &mut Faults) -> Option<ReportSpec> {
    let Some(fields) = Fields::<'_, Report, 2>::within(payload) else {
        let kind = values::kind(payload);
        let detail = format!("must be an object, such as {EXAMPLE}, not {kind}");
        faults.add("payload", detail);
        return None;
    };
    fields.check("payload.", OF_REPORT, faults);
    let names = ["payload.records", "payload.report_name"];
    spec(fields.values, names, Records::MAX_ASYNC, faults)
}

/// Parses the report's fields. Their faults have these `names`.
fn spec(
    [records, report_name]: [Option<&RawValue>; 2],
    names: [&str; 2],
    max_records: u32,
    faults: &mut Faults,
) -> Option<ReportSpec> {
    let records = values::records(records, max_records);
    let records = faults.keep(names[0], records);
    let report_name = values::report_name(report_name);
    let report_name = faults.keep(names[1], report_name);
    Some(ReportSpec {
        report_name: report_name?,
        records: records?,
    })
}

struct Job;

impl Names<3> for Job {
    const NAMES: [&'static str; 3] = ["records", "report_name", "callback_url"];
}

struct Report;

impl Names<2> for Report {
    const NAMES: [&'static str; 2] = ["records", "report_name"];
}

#[cfg(test)]
mod tests {
    use storm_shared::{models::ReportSpec, services::ssrf::Policy};

    use super::{AsyncForm, SyncForm};
    use crate::validation::{Form, Invalid, JobInput, Submission, faults::described};

    fn sync(body: &str) -> Result<Submission<ReportSpec>, Invalid> {
        SyncForm.read(body.as_bytes())
    }

    fn asynchronous(body: &str) -> Result<Submission<ReportSpec>, Invalid> {
        let submission = AsyncForm::new(Policy::default()).read(body.as_bytes())?;
        let JobInput::Report(work) = submission.work else {
            panic!("no report");
        };
        Ok(Submission {
            work,
            callback_url: submission.callback_url,
        })
    }

    /// The faults of a body as `field: detail`.
    fn faults(
        form: impl Fn(&str) -> Result<Submission<ReportSpec>, Invalid>,
        body: &str,
    ) -> Vec<String> {
        described(&form(body).expect_err(body).problem)
    }

    #[test]
    fn a_valid_body_is_kept_as_it_was_sent() {
        let url = "HTTPS://example.com:443/a/../b?q#f";
        let body = format!(
            r#" {{"callback_url": "{url}", "report\u005fname": "\u00e9", "records": 100000}} "#
        );
        let submission = asynchronous(&body).unwrap();
        assert_eq!(submission.work.report_name.as_str(), "é");
        assert_eq!(submission.work.records.count(), 100_000);
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
