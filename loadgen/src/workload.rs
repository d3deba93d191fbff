//! The reports of a run. Their number is bounded, and their request bodies and expected results are
//! computed once, so that a long run costs no more than a short one.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use storm_shared::{
    models::{Records, ReportName, ReportSpec},
    services::report::{Report, expected},
};

use crate::answers::RequestFailure;

/// The reports of one run. All have the same size, and each has a different name.
#[derive(Debug)]
pub struct Workload {
    orders: Vec<Order>,
    ideal: Duration,
}

/// One report to request, and its expected result.
#[derive(Debug)]
pub struct Order {
    spec: ReportSpec,
    expected: Report,
    body: Bytes,
}

#[derive(Serialize)]
struct RequestBody<'a> {
    #[serde(flatten)]
    spec: &'a ReportSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_url: Option<&'a str>,
}

impl Workload {
    /// `names` reports named `<prefix>_0001` and so on, with `records` records each, and the same
    /// `callback_url`.
    ///
    /// # Panics
    /// `names` is 0, or the prefix makes a report name too long.
    pub fn new(prefix: &str, names: usize, records: Records, callback_url: Option<&str>) -> Self {
        assert!(names > 0, "a workload has at least one report");
        // Different names give different checksums, so a result that belongs to another job is
        // detected.
        let orders: Vec<_> = (1..=names)
            .map(|number| Order::new(format!("{prefix}_{number:04}"), records, callback_url))
            .collect();
        // There is a first order, as asserted above, and all have the same size.
        let ideal = orders[0].spec.ideal_duration();
        Self { orders, ideal }
    }

    /// The order of request `number`. Requests cycle through the orders.
    pub fn order(&self, number: usize) -> &Order {
        &self.orders[number % self.orders.len()]
    }

    /// The duration of each report without any queueing.
    pub fn ideal(&self) -> Duration {
        self.ideal
    }
}

impl Order {
    fn new(name: String, records: Records, callback_url: Option<&str>) -> Self {
        #[expect(clippy::expect_used, reason = "the prefixes are short constants")]
        let report_name = ReportName::try_from(name).expect("a short prefix makes a valid name");
        let spec = ReportSpec {
            report_name,
            records,
        };
        let body = serde_json::to_vec(&RequestBody {
            spec: &spec,
            callback_url,
        });
        #[expect(
            clippy::expect_used,
            reason = "a struct of strings and numbers is valid JSON"
        )]
        let body = body.expect("strings and numbers serialise").into();
        Self {
            expected: expected(&spec),
            spec,
            body,
        }
    }

    /// The request body.
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// Whether `report` is the expected report.
    pub fn matches(&self, report: &Report) -> bool {
        self.expected == *report
    }

    /// The specification of the report.
    pub fn spec(&self) -> &ReportSpec {
        &self.spec
    }

    /// Checks the body of a `200` answer of `/sync`.
    ///
    /// # Errors
    /// [`RequestFailure::WrongAnswer`]: the body is not the expected completed report.
    pub fn check_sync(&self, body: &[u8]) -> Result<(), RequestFailure> {
        #[derive(Deserialize)]
        struct Completed {
            status: String,
            #[serde(flatten)]
            report: Report,
        }
        let answer: Completed = serde_json::from_slice(body)
            .map_err(|error| RequestFailure::WrongAnswer(format!("not a report: {error}")))?;
        if answer.status == "completed" && self.matches(&answer.report) {
            Ok(())
        } else {
            Err(RequestFailure::WrongAnswer(
                "not the requested report".to_owned(),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use storm_shared::models::Records;

    use super::Workload;
    use crate::answers::RequestFailure;

    fn workload(callback_url: Option<&str>) -> Workload {
        Workload::new("Test", 2, Records::new(3, 49).unwrap(), callback_url)
    }

    #[test]
    fn each_order_has_a_different_name_and_requests_cycle_through_the_orders() {
        let workload = workload(Some("http://localhost:8001/webhook"));
        let body: Value = serde_json::from_slice(&workload.order(3).body()).unwrap();
        assert_eq!(
            body,
            json!({"report_name": "Test_0002", "records": 3, "callback_url": "http://localhost:8001/webhook"})
        );
        assert_ne!(workload.order(0).spec(), workload.order(1).spec());
        assert_eq!(workload.order(0).spec(), workload.order(2).spec());
    }

    #[test]
    fn without_a_callback_url_the_body_has_no_callback_url_field() {
        let body: Value = serde_json::from_slice(&workload(None).order(0).body()).unwrap();
        assert_eq!(body, json!({"report_name": "Test_0001", "records": 3}));
    }

    #[test]
    fn a_sync_answer_must_be_the_requested_report() {
        let workload = workload(None);
        let answer = |number: usize, status: &str| {
            let report = &workload.order(number).expected;
            json!({"report_id": report.report_id, "status": status, "checksum": report.checksum})
        };
        let check = |body: Value| workload.order(0).check_sync(body.to_string().as_bytes());
        assert_eq!(check(answer(0, "completed")), Ok(()));
        for wrong in [
            answer(1, "completed"),
            answer(0, "pending"),
            json!({}),
            json!("no"),
        ] {
            assert!(matches!(check(wrong), Err(RequestFailure::WrongAnswer(_))));
        }
    }
}
