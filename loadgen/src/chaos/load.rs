//! The clients of a run: they submit requests at an open rate, poll accepted jobs, ask for
//! redeliveries, cancel both, and erase what is over. An operator pauses and resumes, and cancels
//! and redelivers by filter.

mod erase;
mod filters;
mod pause;

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::StatusCode;
use storm_shared::models::{Mode, RequestId};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    clock,
    history::{
        CancelAnswer, CancelAsked, Polled, Record, RedeliveryAnswer, RedeliveryAsked, SubmitAnswer,
        Submitted,
    },
    journal::Journal,
    orders::{ChaosOrder, ChaosOrders, FAVOURITES, HANDLER},
    receivers::Receivers,
    stack::{CLIENT, RETENTION},
    wall_clock::WallClock,
};
use crate::{
    answers::RequestFailure,
    client::{Api, JobView},
    requester::accepted,
    storm::pace::Pace,
};

/// How long a client waits for a response.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum concurrent requests. Requests that fall due above it are counted and not sent: once the
/// api leaves this many unanswered, more requests add no load.
const MAX_IN_FLIGHT: usize = 5000;

/// How often a job is polled during the load.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Every other poll is for one of this many newest jobs.
const NEWEST: usize = 200;

/// How often a redelivery is asked for during the load.
const REDELIVERY_INTERVAL: Duration = Duration::from_millis(20);

/// How often something is cancelled during the load.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);

/// Half of that is one of this many newest jobs, which are mostly unfinished.
const UNFINISHED: usize = 50;

/// Concurrency of the final polls of jobs without a callback, and of the final repeats.
const POLL_CONCURRENCY: usize = 16;

/// How often a request with an idempotency key is sent again, at the most, until it is accepted,
/// and the wait before each time.
const REPEATS: usize = 10;
const REPEAT_AFTER: Duration = Duration::from_millis(300);

/// How long after its first time a request is sent again. Together with its timeout it is shorter
/// than the window of its key, after which it would make another job.
const REPEAT_WITHIN: Duration = Duration::from_secs(RETENTION.as_secs() / 2);

/// How often an accepted request with a key is sent again during the load.
const REPEAT_INTERVAL: Duration = Duration::from_millis(50);

/// The clients. Clones share their state.
#[derive(Clone, Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Each request goes to the next one.
    apis: Vec<Api>,
    /// The same APIs, for an operator.
    operators: Vec<Api>,
    requests: AtomicUsize,
    orders: ChaosOrders,
    /// The URLs of the receivers, and their origins.
    receivers: Vec<String>,
    origins: Vec<String>,
    /// The services' wall clock.
    wall_clock: WallClock,
    journal: Journal,
    promised: Mutex<Vec<AcceptedJob>>,
    /// Accepted jobs whose receiver refuses the first callbacks: they fail.
    refused: Mutex<Vec<RequestId>>,
    not_sent: AtomicU64,
    unexpected: Mutex<Vec<String>>,
}

impl Shared {
    fn api(&self) -> &Api {
        self.next(&self.apis)
    }

    fn operator(&self) -> &Api {
        self.next(&self.operators)
    }

    fn next<'a>(&self, apis: &'a [Api]) -> &'a Api {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        &apis[number % apis.len()]
    }
}

/// A job that was accepted with `202`.
#[derive(Clone, Copy, Debug)]
struct AcceptedJob {
    id: RequestId,
    /// It has no callback URL.
    polled: bool,
    /// The number of its request, if that has an idempotency key.
    keyed: Option<u64>,
    /// When its request was sent first.
    sent: Instant,
}

impl AcceptedJob {
    /// The number of its request, if that may be sent again.
    fn repeatable(&self) -> Option<u64> {
        self.keyed.filter(|_| self.sent.elapsed() < REPEAT_WITHIN)
    }
}

impl Load {
    /// Clients of `apis`, of which there is one at least, and the same for an operator, with
    /// callbacks to `receivers`.
    pub(super) fn new(
        apis: Vec<Api>,
        operators: Vec<Api>,
        orders: ChaosOrders,
        receivers: &Receivers,
        wall_clock: WallClock,
        journal: Journal,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                apis,
                operators,
                requests: AtomicUsize::new(0),
                orders,
                receivers: receivers.urls(),
                origins: receivers.origins(),
                wall_clock,
                journal,
                promised: Mutex::default(),
                refused: Mutex::default(),
                not_sent: AtomicU64::new(0),
                unexpected: Mutex::default(),
            }),
        }
    }

    /// Sends the requests with these numbers, `rate` per second, and waits for their responses. It
    /// retries only those with an idempotency key: the checker could not tell the two jobs of
    /// another one apart.
    pub(super) async fn send(&self, numbers: Range<u64>, rate: u32) {
        let requests = TaskTracker::new();
        let pace = Pace::new(rate, numbers.end - numbers.start);
        pace.run(|step, _| {
            if requests.len() < MAX_IN_FLIGHT {
                let (load, number) = (self.clone(), numbers.start + step);
                requests.spawn(async move { load.submit(number).await });
            } else {
                self.shared.not_sent.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
        requests.close();
        requests.wait().await;
    }

    /// Polls random jobs for ever, alternating between all jobs and the newest. `seed` determines
    /// the choice.
    pub(super) async fn poll_random(&self, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        for turn in 0_u64.. {
            sleep(POLL_INTERVAL).await;
            // The lock is released before the poll: clients need it to record their jobs. New jobs
            // are polled while they change; old ones must keep their final status (rule `seen`).
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
                self.poll(promised.id).await;
            }
        }
    }

    /// Asks for redeliveries until `over`, and waits for the responses. `seed` determines the
    /// choice of jobs: a few are redelivered all the time, so that a claim that was lost meets the
    /// next redelivery of the same job. The others fail at first, or are any.
    pub(super) async fn redeliver_random(&self, seed: u64, over: &CancellationToken) {
        let mut random = fastrand::Rng::with_seed(!seed);
        let requests = TaskTracker::new();
        while over
            .run_until_cancelled(sleep(REDELIVERY_INTERVAL))
            .await
            .is_some()
        {
            let chosen = match random.u8(..4) {
                0 | 1 => self.accepted(&mut random, FAVOURITES),
                2 => self.failing(&mut random),
                _ => None,
            };
            let chosen = chosen.or_else(|| self.accepted(&mut random, usize::MAX));
            if let Some(id) = chosen {
                let load = self.clone();
                requests.spawn(async move { load.redeliver(id).await });
            }
        }
        requests.close();
        // One without a record would be a redelivery that nobody asked for.
        requests.wait().await;
    }

    /// Cancels jobs and redeliveries until `over`, and waits for the responses. `seed` determines
    /// the choice: new jobs, those that are redelivered all the time, or any.
    pub(super) async fn cancel_random(&self, seed: u64, over: &CancellationToken) {
        let mut random = fastrand::Rng::with_seed(seed.rotate_left(32));
        let requests = TaskTracker::new();
        while over
            .run_until_cancelled(sleep(CANCEL_INTERVAL))
            .await
            .is_some()
        {
            let chosen = match random.u8(..4) {
                0 | 1 => self.newest(&mut random, UNFINISHED),
                2 => self.accepted(&mut random, FAVOURITES),
                _ => self.accepted(&mut random, usize::MAX),
            };
            if let Some(id) = chosen {
                let load = self.clone();
                requests.spawn(async move {
                    load.cancel(id).await;
                });
            }
        }
        requests.close();
        requests.wait().await;
    }

    /// One of the last `count` jobs.
    fn newest(&self, random: &mut fastrand::Rng, count: usize) -> Option<RequestId> {
        let promised = lock(&self.shared.promised);
        let last = promised.iter().rev().take(count);
        random.choice(last).map(|it| it.id)
    }

    /// One of the first `count` jobs.
    fn accepted(&self, random: &mut fastrand::Rng, count: usize) -> Option<RequestId> {
        let promised = lock(&self.shared.promised);
        let first = promised.iter().take(count);
        random.choice(first).map(|it| it.id)
    }

    /// One of the jobs that fail. It may still be unfinished, or redelivered already.
    fn failing(&self, random: &mut fastrand::Rng) -> Option<RequestId> {
        random.choice(&*lock(&self.shared.refused)).copied()
    }

    /// Polls every job without a callback URL.
    pub(super) async fn poll_jobs_without_callback(&self) {
        let polled = |job: &AcceptedJob| job.polled.then_some(job.id);
        self.for_each_accepted(polled, async |load, id| load.poll(id).await)
            .await;
    }

    /// Sends requests with an idempotency key that were accepted once more, until `over`, and waits
    /// for the responses. `seed` determines the choice.
    pub(super) async fn repeat_random(&self, seed: u64, over: &CancellationToken) {
        let mut random = fastrand::Rng::with_seed(seed.rotate_left(16));
        let requests = TaskTracker::new();
        while over
            .run_until_cancelled(sleep(REPEAT_INTERVAL))
            .await
            .is_some()
        {
            let chosen = {
                let promised = lock(&self.shared.promised);
                let recent = promised.iter().rev().take(MAX_IN_FLIGHT);
                let repeatable: Vec<_> = recent.filter_map(AcceptedJob::repeatable).collect();
                random.choice(repeatable)
            };
            if let Some(number) = chosen {
                let load = self.clone();
                requests.spawn(async move {
                    load.send_once(&load.shared.orders.order(number)).await;
                });
            }
        }
        requests.close();
        requests.wait().await;
    }

    /// Sends every request with an idempotency key that was accepted lately once more.
    pub(super) async fn repeat_keyed(&self) {
        self.for_each_accepted(AcceptedJob::repeatable, async |load, number| {
            load.send_once(&load.shared.orders.order(number)).await;
        })
        .await;
    }

    /// Calls `act` for what `pick` picks of each accepted job, `POLL_CONCURRENCY` at a time.
    async fn for_each_accepted<T, F>(
        &self,
        pick: impl Fn(&AcceptedJob) -> Option<T>,
        act: impl Fn(Self, T) -> F + Copy + Send + Sync + 'static,
    ) where
        T: Copy + Send + Sync + 'static,
        F: Future<Output = ()> + Send,
    {
        let picked: Vec<T> = lock(&self.shared.promised)
            .iter()
            .filter_map(pick)
            .collect();
        let acts = TaskTracker::new();
        let each = picked.len().div_ceil(POLL_CONCURRENCY).max(1);
        for part in picked.chunks(each) {
            let (load, part) = (self.clone(), part.to_vec());
            acts.spawn(async move {
                for one in part {
                    act(load.clone(), one).await;
                }
            });
        }
        acts.close();
        acts.wait().await;
    }

    /// Requests that were due and not sent.
    pub(super) fn not_sent(&self) -> u64 {
        self.shared.not_sent.load(Ordering::Relaxed)
    }

    /// Takes the responses that no fault explains.
    pub(super) fn take_unexpected(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.shared.unexpected))
    }

    /// Submits a request. One with an idempotency key is sent twice at once, and then until it is
    /// accepted.
    async fn submit(&self, number: u64) {
        let order = self.shared.orders.order(number);
        let sent = Instant::now();
        let mut accepted = if order.keyed {
            let (one, other) = tokio::join!(self.send_once(&order), self.send_once(&order));
            one.or(other)
        } else {
            self.send_once(&order).await
        };
        let mut repeats = if order.keyed { 0..REPEATS } else { 0..0 };
        while accepted.is_none() && sent.elapsed() < REPEAT_WITHIN && repeats.next().is_some() {
            sleep(REPEAT_AFTER).await;
            accepted = self.send_once(&order).await;
        }
        if let Some(id) = accepted {
            let polled = order.receiver.is_none();
            lock(&self.shared.promised).push(AcceptedJob {
                id,
                polled,
                keyed: order.keyed.then_some(number),
                sent,
            });
            if !polled && order.refusals.include(0) {
                lock(&self.shared.refused).push(id);
            }
            if let Some(after) = order.cancelled_after {
                sleep(after).await;
                // Until it is cancelled or over.
                while !self.cancel(id).await {
                    sleep(REPEAT_AFTER).await;
                }
            }
        }
    }

    /// Sends a request. Returns the id if it was accepted.
    async fn send_once(&self, order: &ChaosOrder) -> Option<RequestId> {
        let api = self.shared.api();
        let Shared {
            receivers,
            origins,
            journal,
            ..
        } = &*self.shared;
        let body = order.body(receivers);
        let deadline = Instant::now() + TIMEOUT;
        let answer = match (&order.work, order.key()) {
            (Some(_), key) => api.submit_work(HANDLER, key, body, deadline).await,
            (None, Some(key)) => api.submit_keyed(key, body, deadline).await,
            (None, None) => api.submit(Mode::Async, body, deadline).await,
        };
        let at = clock::now();
        let answer = match answer.and_then(|body| accepted(&body)) {
            Ok(job) => SubmitAnswer::Accepted(job.id),
            // The checker judges whether its job was erased.
            Err(RequestFailure::Status(_, body)) if is_key_reused(&body) => SubmitAnswer::KeyReused,
            // Any other status. The rule `named` checks that such a request has no row.
            Err(RequestFailure::Refused(status) | RequestFailure::Status(status, _)) => {
                // Every request of this load is valid, so no fault explains another refusal.
                if status != StatusCode::SERVICE_UNAVAILABLE {
                    let what = format!("a valid request was answered {status}");
                    lock(&self.shared.unexpected).push(what);
                }
                SubmitAnswer::Refused(status.as_u16())
            }
            Err(RequestFailure::OutcomeUnknown) => SubmitAnswer::OutcomeUnknown,
            Err(nothing) => {
                self.judge(&nothing);
                SubmitAnswer::NoAnswer(nothing.to_string())
            }
        };
        let accepted = match answer {
            SubmitAnswer::Accepted(id) => Some(id),
            _ => None,
        };
        journal.record(Record::Submitted(Submitted {
            at,
            report_name: order.spec.report_name.as_str().to_owned(),
            records: order.spec.records.count(),
            keyed: order.keyed,
            handler: order.work.is_some().then(|| HANDLER.to_owned()),
            client: Some(CLIENT.to_owned()),
            origin: order.receiver_of(origins).cloned(),
            answer,
        }));
        accepted
    }

    /// Polls a job. A poll without a response says nothing about the job and is not recorded.
    async fn poll(&self, id: RequestId) {
        let asked_at = clock::now();
        let job = self.shared.api().job(id, Instant::now() + TIMEOUT).await;
        let job = match job {
            Ok(job) => Some(job),
            Err(RequestFailure::Status(StatusCode::NOT_FOUND, _)) => None,
            Err(nothing) => return self.judge(&nothing),
        };
        let erased = job.as_ref().is_some_and(JobView::is_erased);
        // Before that, all of it may be shown.
        let shown = job.as_ref().filter(|_| erased).map(JobView::contents);
        self.shared.journal.record(Record::Polled(Polled {
            asked_at,
            at: clock::now(),
            id,
            status: job.as_ref().map(|job| job.status),
            erased,
            shown: shown.into_iter().flatten().map(str::to_owned).collect(),
        }));
    }

    async fn redeliver(&self, id: RequestId) {
        let asked_at = clock::now();
        let answer = self
            .shared
            .api()
            .redeliver(id, Instant::now() + TIMEOUT)
            .await;
        let at = clock::now();
        let answer = match answer {
            Ok(()) => RedeliveryAnswer::Accepted,
            // The checker judges which refusals are true.
            Err(RequestFailure::Refused(status)) => RedeliveryAnswer::Refused {
                status: status.as_u16(),
                problem: None,
            },
            Err(RequestFailure::Status(status, body)) => RedeliveryAnswer::Refused {
                status: status.as_u16(),
                problem: problem_type(&body),
            },
            Err(RequestFailure::OutcomeUnknown) => RedeliveryAnswer::OutcomeUnknown,
            Err(nothing) => {
                self.judge(&nothing);
                RedeliveryAnswer::NoAnswer(nothing.to_string())
            }
        };
        self.shared
            .journal
            .record(Record::RedeliveryAsked(RedeliveryAsked {
                asked_at,
                at,
                id,
                answer,
            }));
    }

    /// Cancels a job or its redelivery. Returns whether nothing of it is in progress now.
    async fn cancel(&self, id: RequestId) -> bool {
        let asked_at = clock::now();
        let cancelled = self.shared.api().cancel(id, Instant::now() + TIMEOUT).await;
        let at = clock::now();
        let answer = match cancelled.and_then(|message| what_is_cancelled(&message)) {
            Ok(answer) => answer,
            // The checker judges which refusals are true.
            Err(RequestFailure::Refused(status)) => CancelAnswer::Refused {
                status: status.as_u16(),
                problem: None,
            },
            Err(RequestFailure::Status(status, body)) => CancelAnswer::Refused {
                status: status.as_u16(),
                problem: problem_type(&body),
            },
            Err(RequestFailure::OutcomeUnknown) => CancelAnswer::OutcomeUnknown,
            Err(nothing) => {
                self.judge(&nothing);
                CancelAnswer::NoAnswer(nothing.to_string())
            }
        };
        let is_over = match &answer {
            CancelAnswer::Job | CancelAnswer::Redelivery => true,
            // Any other refusal than that of load or a fault does not pass by itself.
            CancelAnswer::Refused { status, .. } => {
                *status != StatusCode::SERVICE_UNAVAILABLE.as_u16()
            }
            CancelAnswer::OutcomeUnknown | CancelAnswer::NoAnswer(_) => false,
        };
        self.shared.journal.record(Record::CancelAsked(CancelAsked {
            asked_at,
            at,
            id,
            answer,
        }));
        is_over
    }

    /// Missing responses are expected under faults. An invalid response is a violation.
    fn judge(&self, failure: &RequestFailure) {
        if let RequestFailure::WrongAnswer(what) = failure {
            lock(&self.shared.unexpected).push(what.clone());
        }
    }
}

/// What the sentence in the answer to a `DELETE` says.
fn what_is_cancelled(message: &str) -> Result<CancelAnswer, RequestFailure> {
    if message.starts_with("The job is cancelled") {
        Ok(CancelAnswer::Job)
    } else if message.starts_with("The redelivery is cancelled") {
        Ok(CancelAnswer::Redelivery)
    } else {
        let what = format!("a DELETE was answered `{message}`");
        Err(RequestFailure::WrongAnswer(what))
    }
}

fn is_key_reused(body: &str) -> bool {
    problem_type(body).as_deref() == Some("idempotency-key-reused")
}

/// The type of a problem body, without its prefix. Only the beginning of the body may be there.
fn problem_type(body: &str) -> Option<String> {
    let (_, after) = body.split_once("urn:storm:problem:")?;
    Some(after.split_once('"')?.0.to_owned())
}

/// A push either happens or not, so the list stays valid if a holder panics.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::problem_type;

    #[test]
    fn a_problem_is_told_by_the_beginning_of_its_body() {
        let body = r#"{"type":"urn:storm:problem:redelivery-under-way","title":"Redel"#;
        assert_eq!(problem_type(body).unwrap(), "redelivery-under-way");
        for without in ["", r#"{"type":"about:blank"}"#, "urn:storm:problem:cut"] {
            assert_eq!(problem_type(without), None, "{without}");
        }
    }
}
