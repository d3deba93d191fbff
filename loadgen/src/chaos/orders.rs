//! The reports of a run: each request's is its own, and its number tells everything about it.

use bytes::Bytes;
use fastrand::Rng;
use serde::Serialize;
use storm_shared::{
    models::{Records, ReportName, ReportSpec},
    services::report::{Report, expected},
};

/// One in so many jobs has no callback URL.
const POLLED: u64 = 20;

/// One in so many jobs is a long one.
const LONG: u64 = 100;

/// The size of a long one, two seconds: longer than a worker's drain. The others' is up to
/// `SHORT_RECORDS`.
const LONG_RECORDS: u64 = 200;
const SHORT_RECORDS: u64 = 30;

/// What the requests of one run ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orders {
    seed: u64,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) spec: ReportSpec,
    /// Which receiver is to be called back, to be taken modulo their number; none where the client
    /// looks at the job instead.
    pub(super) receiver: Option<usize>,
}

impl Orders {
    /// The requests of `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The request of this number.
    pub(super) fn order(self, number: u64) -> Order {
        // A generator for each number: a callback comes with its number alone.
        let mut random = Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let records = if random.u64(..LONG) == 0 {
            LONG_RECORDS
        } else {
            random.u64(1..=SHORT_RECORDS)
        };
        let polled = random.u64(..POLLED) == 0;
        let receiver = random.usize(..);
        Order {
            spec: ReportSpec {
                report_name: ReportName::try_from(self.name(number))
                    .expect("two numbers make a short name"),
                records: Records::new(records, Records::MAX_ASYNC)
                    .expect("both sizes are within the bounds"),
            },
            receiver: (!polled).then_some(receiver),
        }
    }

    /// The request that has this name; none where the name is not of this run.
    pub(super) fn by_name(self, name: &str) -> Option<Order> {
        let number = name.rsplit('-').next()?.parse().ok()?;
        (self.name(number) == name).then(|| self.order(number))
    }

    fn name(self, number: u64) -> String {
        format!("chaos-{}-{number:06}", self.seed)
    }
}

impl Order {
    /// The request's body, where the receivers have these URLs.
    pub(super) fn body(&self, receivers: &[String]) -> Bytes {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(flatten)]
            spec: &'a ReportSpec,
            #[serde(skip_serializing_if = "Option::is_none")]
            callback_url: Option<&'a str>,
        }
        let body = Body {
            spec: &self.spec,
            callback_url: self
                .receiver
                .map(|index| receivers[index % receivers.len()].as_str()),
        };
        serde_json::to_vec(&body)
            .expect("a struct of strings and numbers is JSON")
            .into()
    }

    /// What must come back.
    pub(super) fn expected(&self) -> Report {
        expected(&self.spec)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::{LONG_RECORDS, Orders};

    #[test]
    fn a_name_tells_its_order() {
        let orders = Orders::new(5);
        for number in [0, 1, 999_999, 1_000_000] {
            let order = orders.order(number);
            let found = orders.by_name(order.spec.report_name.as_str()).unwrap();
            assert_eq!(found.spec, order.spec);
            assert_eq!(found.receiver, order.receiver);
        }
        for foreign in ["chaos-6-000001", "chaos-5-1", "chaos-5-", "Q1_Finance"] {
            assert!(orders.by_name(foreign).is_none(), "{foreign}");
        }
    }

    #[test]
    fn the_load_is_a_mix() {
        let receivers = ["http://a/".to_owned(), "http://b/".to_owned()];
        let orders = (0..2000).map(|number| Orders::new(1).order(number));
        let (mut names, mut urls, mut long) = (HashSet::new(), HashSet::new(), 0);
        for order in orders {
            let body: Value = serde_json::from_slice(&order.body(&receivers)).unwrap();
            names.insert(body["report_name"].as_str().unwrap().to_owned());
            urls.insert(body["callback_url"].as_str().map(str::to_owned));
            long += u32::from(body["records"] == LONG_RECORDS);
        }
        assert_eq!((names.len(), urls.len()), (2000, 3));
        assert!((5..50).contains(&long));
    }
}
