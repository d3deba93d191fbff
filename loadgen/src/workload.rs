//! The jobs of a run. Their number is bounded, and their request bodies and expected results are
//! computed once, so that a long run costs no more than a short one.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use storm_shared::{
    models::{HandlerName, Records, ReportName, ReportSpec},
    services::report::{Report, expected},
};

use crate::{answers::RequestFailure, cli::Payload};

/// The jobs of one run: reports of the same size with different names, or jobs of a handler with
/// the same payload.
#[derive(Debug)]
pub struct Workload {
    orders: Vec<Order>,
    ideal: Duration,
}

/// One job to request, and its expected result.
#[derive(Debug)]
pub struct Order {
    expected: Expected,
    body: Bytes,
}

/// What a job must end with.
#[derive(Debug)]
pub(crate) enum Expected {
    /// This report.
    Report(ReportSpec, Report),
    /// A result of the handler. Only the handler knows which.
    Handler(HandlerName),
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
        let ideal = match &orders[0].expected {
            Expected::Report(spec, _) => spec.ideal_duration(),
            Expected::Handler(_) => Duration::ZERO,
        };
        Self { orders, ideal }
    }

    /// Jobs of a handler, with the same payload and the same `callback_url`.
    pub fn of_handler(handler: HandlerName, payload: &Payload, callback_url: Option<&str>) -> Self {
        // The bytes of the payload as they are: as a value, it could change.
        let mut body = [b"{\"payload\":", payload.as_bytes()].concat();
        if let Some(url) = callback_url {
            body.extend_from_slice(format!(",\"callback_url\":{}", Value::from(url)).as_bytes());
        }
        body.push(b'}');
        let order = Order {
            expected: Expected::Handler(handler),
            body: body.into(),
        };
        Self {
            orders: vec![order],
            ideal: Duration::ZERO,
        }
    }

    /// The order of request `number`. Requests cycle through the orders.
    pub fn order(&self, number: usize) -> &Order {
        &self.orders[number % self.orders.len()]
    }

    /// The duration of each report without any queueing; zero for jobs of a handler, of which it is
    /// not known.
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
            expected: Expected::Report(spec.clone(), expected(&spec)),
            body,
        }
    }

    /// The request body.
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// What the job must end with.
    pub(crate) fn expected(&self) -> &Expected {
        &self.expected
    }

    /// Whether a completed job may have this JSON as its result. Of a handler, it may have any.
    pub fn is_result(&self, result: &str) -> bool {
        match &self.expected {
            Expected::Report(_, report) => {
                serde_json::from_str(result).is_ok_and(|it: Report| it == *report)
            }
            Expected::Handler(_) => true,
        }
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
        match &self.expected {
            Expected::Report(_, report)
                if answer.status == "completed" && answer.report == *report =>
            {
                Ok(())
            }
            _ => Err(RequestFailure::WrongAnswer(
                "not the requested report".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use storm_shared::models::Records;

    use super::{Expected, Workload};
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
        assert_ne!(workload.order(0).body(), workload.order(1).body());
        assert_eq!(workload.order(0).body(), workload.order(2).body());
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
            let Expected::Report(_, report) = workload.order(number).expected() else {
                panic!("no report")
            };
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
