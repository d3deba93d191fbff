//! The jobs of the HTTP handler: what it gets, and what its endpoint answers.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;

/// The name of the handler.
pub(in crate::chaos) const HANDLER: &str = "chaos";

/// Bodies of more than 4 KiB are in the table `bodies`: one payload and one result in this many.
const LARGE_ONE_IN: u64 = 3;

/// The sizes of the text that fills up a large body, and another one.
const LARGE: std::ops::Range<usize> = 5_000..9_000;
const SMALL: std::ops::Range<usize> = 0..100;

/// Every request for this job.
const ALWAYS: usize = usize::MAX;

/// One job of the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chaos) struct WorkOrder {
    /// How many requests the endpoint does not answer with a result, and how else.
    failures: usize,
    fault: WorkAnswer,
    /// How long it takes to answer the others.
    delay: Duration,
    payload_filler: usize,
    result_filler: usize,
}

/// What the endpoint does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chaos) enum WorkAnswer {
    /// It answers 200 with a result after this time.
    Result(Duration),
    /// It answers with this status.
    Status(u16),
    /// It never answers.
    Nothing,
}

impl WorkOrder {
    pub(super) fn draw(random: &mut Rng) -> Self {
        use WorkAnswer::{Nothing, Status};

        let (failures, fault) = match random.u8(..16) {
            0 | 1 => (1, Status(500)),
            2 => (2, Status(503)),
            3 => (1, Status(429)),
            4 => (1, Nothing),
            5 => (ALWAYS, Status(422)),
            6 => (ALWAYS, Status(500)),
            7 => (ALWAYS, Nothing),
            _ => (0, Nothing),
        };
        let is_slow = random.u8(..4) == 0;
        let delay = if is_slow { random.u64(50..400) } else { 0 };
        let mut filler = || {
            let is_large = random.u64(..LARGE_ONE_IN) == 0;
            random.usize(if is_large { LARGE } else { SMALL })
        };
        Self {
            failures,
            fault,
            delay: Duration::from_millis(delay),
            payload_filler: filler(),
            result_filler: filler(),
        }
    }

    /// The payload, with the job's name. Its bytes are not those that a serializer would write.
    pub(in crate::chaos) fn payload(&self, name: &str) -> String {
        let filler = "p".repeat(self.payload_filler);
        format!(
            r#"{{"report_name":"{name}", "kept": [1.50, 1E2 ,"\u0041\u0000"],"filler":"{filler}"}}"#
        )
    }

    /// The body of the submission.
    pub(super) fn body(&self, name: &str, callback_url: Option<&str>) -> String {
        let payload = self.payload(name);
        let url = callback_url.map(|url| format!(r#","callback_url":{}"#, json!(url)));
        format!(r#"{{"payload":{payload}{}}}"#, url.unwrap_or_default())
    }

    /// What the endpoint does with the request for this job that has this number, from 0.
    pub(in crate::chaos) fn answer(&self, request: usize) -> WorkAnswer {
        if request < self.failures {
            self.fault
        } else {
            WorkAnswer::Result(self.delay)
        }
    }

    /// The result in the answer to that request. No two requests get the same one, so it shows of
    /// which a stored result is.
    pub(in crate::chaos) fn result(&self, name: &str, request: usize) -> String {
        let filler = "r".repeat(self.result_filler);
        format!(
            r#"{{"report_name":"{name}", "request": {request}, "kept": 1.50,"filler":"{filler}"}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::{WorkAnswer, WorkOrder};

    #[test]
    fn the_handlers_jobs_mix_answers_and_sizes() {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut kinds, mut large_payloads, mut large_results) = (HashSet::new(), 0, 0);
        for _ in 0..1000 {
            let order = WorkOrder::draw(&mut random);
            kinds.insert(match (order.answer(0), order.answer(9)) {
                (WorkAnswer::Result(_), _) => "result",
                (WorkAnswer::Status(_), WorkAnswer::Result(_)) => "retried",
                (WorkAnswer::Nothing, WorkAnswer::Result(_)) => "silent at first",
                (WorkAnswer::Status(422), _) => "refused",
                (WorkAnswer::Status(_), _) => "failing",
                (WorkAnswer::Nothing, _) => "silent",
            });
            for body in [
                order.payload("a"),
                order.result("a", 0),
                order.body("a", Some("u")),
            ] {
                serde_json::from_str::<Value>(&body).unwrap();
            }
            large_payloads += u32::from(order.payload("a").len() > 4096);
            large_results += u32::from(order.result("a", 0).len() > 4096);
            assert_ne!(order.result("a", 0), order.result("a", 1));
        }
        assert_eq!(kinds.len(), 6);
        assert!((200..500).contains(&large_payloads));
        assert!((200..500).contains(&large_results));
    }
}
