//! The clients of a run: they ask for reports at an open rate, and look at what they were promised.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::StatusCode;
use jiff::Timestamp;
use storm_shared::models::{Mode, RequestId};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::{
    history::{Answer, Looked, Record, Told},
    journal::Journal,
    orders::Orders,
};
use crate::{answers::RequestFailure, client::Api, requester::accepted_id, storm::pace::Pace};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Requests on their way at a time. One more that falls due is not sent: what can't be answered for
/// so long is no load any more.
const IN_FLIGHT: usize = 5000;

/// How often somebody looks at a job during the load.
const LOOK: Duration = Duration::from_millis(10);

/// Somebody looks at one of so many newest jobs, every other time.
const NEWEST: usize = 200;

/// Looks at a time when every job without a callback is looked at.
const LOOKS_AT_ONCE: usize = 16;

/// The clients. Clones are the same clients.
#[derive(Clone, Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    api: Api,
    orders: Orders,
    receivers: Vec<String>,
    journal: Journal,
    promised: Mutex<Vec<Promised>>,
    not_sent: AtomicU64,
    strange: Mutex<Vec<String>>,
}

/// A job that a client was promised.
#[derive(Clone, Copy, Debug)]
struct Promised {
    id: RequestId,
    /// Nobody is called back.
    polled: bool,
}

impl Load {
    /// Clients of `api`, to be called back at `receivers`.
    pub(super) fn new(api: Api, orders: Orders, receivers: Vec<String>, journal: Journal) -> Self {
        Self {
            shared: Arc::new(Shared {
                api,
                orders,
                receivers,
                journal,
                promised: Mutex::default(),
                not_sent: AtomicU64::new(0),
                strange: Mutex::default(),
            }),
        }
    }

    /// Sends the requests of these numbers, `rate` a second, and waits for their answers. No request
    /// is sent again: nobody could tell its two jobs apart.
    pub(super) async fn send(&self, numbers: Range<u64>, rate: u32) {
        let requests = TaskTracker::new();
        let pace = Pace::new(rate, numbers.end - numbers.start);
        pace.run(|step, _| {
            if requests.len() < IN_FLIGHT {
                let (load, number) = (self.clone(), numbers.start + step);
                requests.spawn(async move { load.ask(number).await });
            } else {
                self.shared.not_sent.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
        requests.close();
        requests.wait().await;
    }

    /// Looks at one job after the other, for ever: at old and new ones by turns, as `seed` has it.
    pub(super) async fn look_around(&self, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        for turn in 0_u64.. {
            sleep(LOOK).await;
            let looked_at = {
                let promised = lock(&self.shared.promised);
                let from = if turn.is_multiple_of(2) {
                    promised.len().saturating_sub(NEWEST)
                } else {
                    0
                };
                random.choice(&promised[from..]).copied()
            };
            if let Some(promised) = looked_at {
                self.look(promised.id).await;
            }
        }
    }

    /// Looks at every job that called nobody back.
    pub(super) async fn look_at_polled(&self) {
        let polled: Vec<_> = lock(&self.shared.promised)
            .iter()
            .filter_map(|promised| promised.polled.then_some(promised.id))
            .collect();
        let looks = TaskTracker::new();
        let each = polled.len().div_ceil(LOOKS_AT_ONCE).max(1);
        for ids in polled.chunks(each) {
            let (load, ids) = (self.clone(), ids.to_vec());
            looks.spawn(async move {
                for id in ids {
                    load.look(id).await;
                }
            });
        }
        looks.close();
        looks.wait().await;
    }

    /// Requests that were due and could not be sent.
    pub(super) fn not_sent(&self) -> u64 {
        self.shared.not_sent.load(Ordering::Relaxed)
    }

    /// Good answers that are no answers to what was asked.
    pub(super) fn take_strange(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.shared.strange))
    }

    async fn ask(&self, number: u64) {
        let Shared {
            api,
            orders,
            receivers,
            journal,
            ..
        } = &*self.shared;
        let order = orders.order(number);
        let body = order.body(receivers);
        let answer = api
            .submit(Mode::Async, body, Instant::now() + PATIENCE)
            .await;
        let at = Timestamp::now();
        let answer = match answer.and_then(|body| accepted_id(&body)) {
            Ok(id) => Answer::Accepted(id),
            Err(RequestFailure::Refused(status) | RequestFailure::Status(status, _)) => {
                Answer::Refused(status.as_u16())
            }
            Err(nothing) => {
                self.judge(&nothing);
                Answer::Nothing(nothing.to_string())
            }
        };
        if let Answer::Accepted(id) = answer {
            let polled = order.receiver.is_none();
            lock(&self.shared.promised).push(Promised { id, polled });
        }
        journal.note(Record::Told(Told {
            at,
            report_name: order.spec.report_name.into(),
            records: order.spec.records.count(),
            answer,
        }));
    }

    /// Looks at a job. That nobody answers is no news of the job.
    async fn look(&self, id: RequestId) {
        let asked_at = Timestamp::now();
        let job = self.shared.api.job(id, Instant::now() + PATIENCE).await;
        let status = match job {
            Ok(job) => Some(job.status),
            Err(RequestFailure::Status(StatusCode::NOT_FOUND, _)) => None,
            Err(nothing) => return self.judge(&nothing),
        };
        self.shared.journal.note(Record::Looked(Looked {
            asked_at,
            at: Timestamp::now(),
            id,
            status,
        }));
    }

    /// An answer that doesn't come is a client's lot in a storm. A wrong one is nobody's.
    fn judge(&self, failure: &RequestFailure) {
        if let RequestFailure::WrongAnswer(what) = failure {
            lock(&self.shared.strange).push(what.clone());
        }
    }
}

/// Whoever panicked while it held a list left it whole.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
