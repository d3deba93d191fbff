//! The requests of a run. Each is a function of the seed and of its number.

mod work;

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use fastrand::Rng;
use hyper::header::HeaderValue;
use serde::Serialize;
use storm_shared::{
    models::{Records, ReportName, ReportSpec},
    services::report::{Report, expected},
};

pub(super) use self::work::{HANDLER, WorkAnswer, WorkOrder};
use super::stack::ATTEMPTS;

/// One in this many jobs has no callback URL and is polled.
const POLLED_ONE_IN: u64 = 20;

/// One in this many jobs is submitted with an idempotency key, and more than once.
const KEYED_ONE_IN: u64 = 4;

/// One in this many jobs is long.
const LONG_ONE_IN: u64 = 100;

/// The size of a long job: two seconds of work, longer than `DRAIN_TIMEOUT`, so that a deploy has
/// to release it. All others have at most `SHORT_RECORDS`.
const LONG_RECORDS: u64 = 200;
const SHORT_RECORDS: u64 = 30;

/// One in this many jobs is cancelled by its client, soon after it was accepted. Its work takes so
/// long that a callback of a worker that neither was told nor loses its claim would be later than
/// the answer allows.
const DOOMED_ONE_IN: u64 = 400;
const DOOMED_RECORDS: u64 = 800;

/// One in this many jobs is one of the HTTP handler.
const HANDLED_ONE_IN: u64 = 5;

/// One in this many jobs has a receiver that answers `500` at first.
const REFUSED_ONE_IN: u64 = 50;

/// How many callbacks such a receiver refuses: those of one or two series, so that the job is
/// `FAILED`, and its first or second redelivery succeeds.
const REFUSALS: [usize; 2] = [ATTEMPTS, 2 * ATTEMPTS];

/// The first requests are redelivered again and again. Their receiver accepts some deliveries, then
/// refuses those of one series, and so on.
pub(super) const FAVOURITES: usize = 16;

/// What comes before the name of a handler's job in the query of its callback URL.
pub(super) const NAME_IN_URL: &str = "job=";

/// The requests of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChaosOrders {
    seed: u64,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct ChaosOrder {
    pub(super) spec: ReportSpec,
    /// What the HTTP handler gets and answers, if it does the work. The report's name is then that
    /// of the job.
    pub(super) work: Option<WorkOrder>,
    /// The receiver's index, modulo the number of receivers; none if the client polls the job.
    pub(super) receiver: Option<usize>,
    /// Whether it has an idempotency key, which is the report's name.
    pub(super) keyed: bool,
    pub(super) refusals: Refusals,
    /// How long after its acceptance the client cancels it, if it does in any case.
    pub(super) cancelled_after: Option<Duration>,
}

/// Which callbacks of a job its receiver answers with `500` instead of `200`: those with these
/// numbers, from 0, modulo `period`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusals {
    callbacks: Range<usize>,
    period: usize,
}

impl Refusals {
    fn first(count: usize) -> Self {
        Self {
            callbacks: 0..count,
            period: usize::MAX,
        }
    }

    pub(super) fn include(&self, callback: usize) -> bool {
        self.callbacks.contains(&(callback % self.period))
    }
}

impl ChaosOrders {
    /// The requests of `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The request with this number.
    #[expect(
        clippy::expect_used,
        reason = "the generated name and both sizes are within the bounds of a request"
    )]
    pub(super) fn order(self, number: u64) -> ChaosOrder {
        // One generator per number: a receiver knows only the number from the report's name, and
        // must be able to derive the request from it. The factor is 2^64 divided by the golden
        // ratio, which spreads consecutive numbers over all seeds.
        let mut random = Rng::with_seed(self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let records = if random.u64(..LONG_ONE_IN) == 0 {
            LONG_RECORDS
        } else {
            random.u64(1..=SHORT_RECORDS)
        };
        let polled = random.u64(..POLLED_ONE_IN) == 0;
        let receiver = random.usize(..);
        let keyed = random.u64(..KEYED_ONE_IN) == 0;
        let refusals = if number < FAVOURITES as u64 {
            Refusals {
                callbacks: ATTEMPTS..2 * ATTEMPTS,
                period: 3 * ATTEMPTS,
            }
        } else if random.u64(..REFUSED_ONE_IN) == 0 {
            Refusals::first(random.choice(REFUSALS).unwrap_or_default())
        } else {
            Refusals::first(0)
        };
        // Last, so that the other draws are the same with and without it.
        let doomed = random.u64(..DOOMED_ONE_IN) == 0 && number >= FAVOURITES as u64;
        let after = Duration::from_millis(random.u64(..1500));
        let records = if doomed { DOOMED_RECORDS } else { records };
        let handled = random.u64(..HANDLED_ONE_IN) == 0 && !doomed;
        let work = handled.then(|| WorkOrder::draw(&mut random));
        ChaosOrder {
            spec: ReportSpec {
                report_name: ReportName::try_from(self.name(number))
                    .expect("two numbers make a valid, short report name"),
                records: Records::new(records, Records::MAX_ASYNC)
                    .expect("all sizes are at most MAX_ASYNC"),
            },
            work,
            receiver: (!polled).then_some(receiver),
            // With a key, it is sent until its id is known.
            keyed: keyed || doomed,
            refusals,
            cancelled_after: doomed.then_some(after),
        }
    }

    /// The request with this name; none if the name does not belong to this run.
    pub(super) fn by_name(self, name: &str) -> Option<ChaosOrder> {
        let number = name.rsplit('-').next()?.parse().ok()?;
        // The whole name is compared: a name of another seed may end with the same number.
        (self.name(number) == name).then(|| self.order(number))
    }

    fn name(self, number: u64) -> String {
        format!("chaos-{}-{number:06}", self.seed)
    }
}

impl ChaosOrder {
    /// The request's body, for receivers at these URLs.
    #[expect(
        clippy::expect_used,
        reason = "a struct of strings and numbers always serialises to JSON"
    )]
    pub(super) fn body(&self, receivers: &[String]) -> Bytes {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(flatten)]
            spec: &'a ReportSpec,
            #[serde(skip_serializing_if = "Option::is_none")]
            callback_url: Option<&'a str>,
        }
        let callback_url = self.receiver_of(receivers).map(String::as_str);
        if let Some(work) = &self.work {
            // A callback that says that the work failed has no name: the URL has.
            let url = callback_url.map(|url| format!("{url}?{NAME_IN_URL}{}", self.name()));
            return work.body(self.name(), url.as_deref()).into();
        }
        let body = Body {
            spec: &self.spec,
            callback_url,
        };
        serde_json::to_vec(&body)
            .expect("strings and numbers serialise to JSON")
            .into()
    }

    /// That of its receiver, among what all receivers have; none if the client polls the job.
    pub(super) fn receiver_of<'a, T>(&self, receivers: &'a [T]) -> Option<&'a T> {
        self.receiver
            .map(|index| &receivers[index % receivers.len()])
    }

    /// Its name, which no other job of the run has.
    pub(super) fn name(&self) -> &str {
        self.spec.report_name.as_str()
    }

    /// Its idempotency key, if it has one.
    pub(super) fn key(&self) -> Option<HeaderValue> {
        let name = self.name();
        // Never an error: the generated name is ASCII.
        self.keyed.then(|| HeaderValue::from_str(name).ok())?
    }

    /// The report that must be delivered.
    pub(super) fn expected(&self) -> Report {
        expected(&self.spec)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::{ChaosOrders, LONG_RECORDS};

    #[test]
    fn the_name_of_a_report_identifies_its_order() {
        let orders = ChaosOrders::new(5);
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
    fn the_first_jobs_are_refused_now_and_then() {
        let refusals = ChaosOrders::new(5).order(0).refusals;
        let refused = (0..24).filter(|callback| refusals.include(*callback));
        let refused: Vec<_> = refused.collect();
        assert_eq!(refused, [4, 5, 6, 7, 16, 17, 18, 19]);
    }

    #[test]
    fn the_load_mixes_receivers_sizes_and_polled_jobs() {
        let receivers = ["http://a/".to_owned(), "http://b/".to_owned()];
        let orders = (0..2000).map(|number| ChaosOrders::new(1).order(number));
        let (mut names, mut urls, mut long) = (HashSet::new(), HashSet::new(), 0);
        let (mut refused, mut cancelled, mut handled) = (0, 0, 0);
        for order in orders {
            cancelled += u32::from(order.cancelled_after.is_some());
            refused += u32::from(order.refusals.include(0));
            let body: Value = serde_json::from_slice(&order.body(&receivers)).unwrap();
            handled += u32::from(order.work.is_some());
            let job = body.get("payload").unwrap_or(&body);
            names.insert(job["report_name"].as_str().unwrap().to_owned());
            let url = body["callback_url"].as_str();
            urls.insert(url.map(|url| url.split('?').next().unwrap().to_owned()));
            long += u32::from(body["records"] == LONG_RECORDS);
        }
        assert_eq!((names.len(), urls.len()), (2000, 3));
        assert!((5..50).contains(&long));
        assert!((10..100).contains(&refused));
        assert!((1..20).contains(&cancelled));
        assert!((300..500).contains(&handled));
    }
}
