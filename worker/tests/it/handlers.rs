//! Handlers in Rust: what a worker does around their work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json, value::RawValue};
use storm_shared::{
    models::{
        Attempt, AttemptClass, CallbackUrl, FailureReason, Request, RequestId, Stage, Status,
    },
    services::{
        queue::Notification,
        store::{Candidate, Ended, NewJob, OwnerId, Scope, Settlement, WorkResult},
    },
};
use storm_worker::{
    Builder,
    handler::{Context, Failure, Handler, Job, Output},
};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::{
    receiver::Receiver,
    redis_server::RedisServer,
    rows::Rows as _,
    stack::{NO_DRAIN, Stack, reason},
};

/// A handler that is a function.
pub(crate) struct Does<F>(pub(crate) F);

impl<F, R> Handler for Does<F>
where
    F: Fn(Job, Context) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Output, Failure>> + Send,
{
    async fn run(&self, job: &Job, context: &Context) -> Result<Output, Failure> {
        (self.0)(job.clone(), context.clone()).await
    }
}

/// The settings of the handler `own`: quick retries.
const OWN: [(&str, &str); 2] = [
    ("HANDLERS__OWN__KIND", "rust"),
    ("HANDLERS__OWN__RETRY_DELAYS", "10ms,20ms"),
];

pub(crate) async fn stack(handler: impl Handler, overrides: &[(&str, &str)]) -> Stack {
    let builder = Builder::new().handler("own", handler);
    Stack::with_handlers(builder, &[&OWN, overrides].concat()).await
}

pub(crate) async fn submit(
    stack: &Stack,
    handler: &str,
    payload: &str,
    url: Option<String>,
) -> RequestId {
    let id = RequestId::generate();
    let payload = RawValue::from_string(payload.to_owned()).unwrap();
    let callback = url.map(|url| CallbackUrl::parse(&url).unwrap());
    let job = NewJob::for_handler(handler.parse().unwrap(), id, &payload, callback);
    stack.store.accept(job).await.unwrap();
    id
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn a_handler_gets_the_payload_as_it_was_sent_and_its_result_is_called_back() {
    let payload = r#"{ "b": 1.0, "a": [1e2, "\u0000\ud800"], "b": 2 }"#;
    let handler = Does(move |job: Job, context: Context| async move {
        assert_eq!(job.payload, payload);
        assert_eq!((job.handler.as_str(), context.attempt), ("own", 1));
        Ok(Output::json(&json!({"bytes": job.payload.len()})).unwrap())
    });
    let stack = stack(handler, &[]).await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let called = submit(&stack, "own", payload, Some(receiver.url())).await;
    let callback = receiver.next().await;
    let expected = json!({
        "request_id": called, "handler": "own", "status": "completed", "result": {"bytes": 48},
    });
    assert_eq!(parsed(&callback), expected);
    let row = stack.ended(called).await;
    assert_eq!(row.status, Status::Completed);
    assert_eq!(row.input_payload.get(), payload);
    assert_eq!(row.result_payload.unwrap().get(), r#"{"bytes":48}"#);
    let stages: Vec<_> = row
        .attempts
        .iter()
        .map(|it| (it.number, it.stage))
        .collect();
    assert_eq!(stages, [(1, Stage::Work), (2, Stage::Callback)]);

    let polled = submit(&stack, "own", payload, None).await;
    let row = stack.ended(polled).await;
    assert_eq!(row.result_payload.unwrap().get(), r#"{"bytes":48}"#);
    assert_eq!(row.attempts.len(), 1);
}

#[tokio::test]
async fn failed_attempts_are_retried_by_the_handlers_schedule_and_then_by_the_callbacks() {
    let handler = Does(|_, context: Context| async move {
        match context.attempt {
            1 => Err(Failure::retry("not yet")),
            _ => Ok(Output::text("done")),
        }
    });
    let stack = stack(handler, &[]).await;
    let mut receiver = Receiver::answering(|nth, _| if nth < 3 { 500 } else { 200 }).await;
    let id = submit(&stack, "own", "null", Some(receiver.url())).await;
    let row = stack.ended(id).await;
    assert_eq!(row.status, Status::Completed);
    let attempts: Vec<_> = row.attempts.iter().map(|it| (it.stage, it.class)).collect();
    let (work, callback) = (Stage::Work, Stage::Callback);
    assert_eq!(
        attempts,
        [
            (work, AttemptClass::Failed),
            (work, AttemptClass::Success),
            (callback, AttemptClass::Status),
            (callback, AttemptClass::Status),
            (callback, AttemptClass::Status),
            (callback, AttemptClass::Success),
        ],
        "the callback has all of its own retries"
    );
    let first = receiver.next().await;
    for _ in 1..4 {
        assert_eq!(receiver.next().await, first, "the same bytes");
    }
}

#[tokio::test]
async fn a_result_of_code_over_max_result_ends_the_job_and_one_byte_less_is_kept() {
    let handler = Does(|job: Job, _| async move {
        let length = job.parse::<usize>()?;
        Ok(Output::text(&"x".repeat(length)))
    });
    let stack = stack(handler, &[("HANDLERS__OWN__MAX_RESULT", "1KiB")]).await;
    let kept = submit(&stack, "own", "1022", None).await;
    assert_eq!(stack.ended(kept).await.status, Status::Completed);
    let refused = submit(&stack, "own", "1023", None).await;
    let row = stack.ended(refused).await;
    assert_eq!(reason(&row), FailureReason::WorkFailed);
    let attempts: Vec<_> = row.attempts.iter().map(|it| it.class).collect();
    assert_eq!(attempts, [AttemptClass::Invalid], "no other one follows");
    let detail = row.failure.unwrap().detail;
    assert!(
        detail.contains("larger than max_result, 1024 bytes"),
        "{detail}"
    );
}

#[tokio::test]
async fn work_that_fails_is_called_back_with_its_reason_which_stays_if_the_callback_fails() {
    let handler = Does(|job: Job, _| async move {
        match job.parse::<u32>()? {
            0 => Err(Failure::last("zero is no number of pages")),
            _ => Err(Failure::retry("out of paper")),
        }
    });
    let stack = stack(handler, &[]).await;
    for (payload, status, attempts, detail) in [
        ("0", 200, 1, "The work failed: zero is no number of pages."),
        (
            "7",
            200,
            3,
            "All 3 attempts failed; the last: out of paper.",
        ),
        ("0", 410, 1, "The work failed: zero is no number of pages."),
    ] {
        let mut receiver = Receiver::answering(move |_, _| status).await;
        let id = submit(&stack, "own", payload, Some(receiver.url())).await;
        let body = parsed(&receiver.next().await);
        let failure = json!({"reason": "work_failed", "detail": detail});
        assert_eq!(
            (&body["status"], &body["failure"]),
            (&json!("failed"), &failure)
        );
        let row = stack.ended(id).await;
        assert_eq!(
            (row.status, reason(&row)),
            (Status::Failed, FailureReason::WorkFailed)
        );
        assert_eq!(row.failure.unwrap().detail, detail);
        let work = row.attempts.iter().filter(|it| it.stage == Stage::Work);
        assert_eq!((work.count(), row.attempts.len()), (attempts, attempts + 1));
    }
    // Without a callback, it ends with its last attempt.
    let id = submit(&stack, "own", r#""text""#, None).await;
    let row = stack.ended(id).await;
    assert_eq!(
        (reason(&row), row.attempts.len()),
        (FailureReason::WorkFailed, 1)
    );
    assert!(row.failure.unwrap().detail.contains("invalid type"));
}

#[tokio::test]
async fn a_panic_fails_its_own_job_only() {
    let handler = Does(|job: Job, _| async move {
        assert_ne!(job.payload, "0", "zero");
        Ok(Output::text("done"))
    });
    let stack = stack(handler, &[]).await;
    let panics = submit(&stack, "own", "0", None).await;
    let row = stack.ended(panics).await;
    assert_eq!(reason(&row), FailureReason::WorkFailed);
    assert!(
        !row.failure.unwrap().detail.contains("zero"),
        "for the log only"
    );
    let next = submit(&stack, "own", "1", None).await;
    assert_eq!(stack.ended(next).await.status, Status::Completed);
    let report = stack.accept(1, None).await;
    assert_eq!(stack.ended(report).await.status, Status::Completed);
}

/// A handler that panics before it returns a future.
struct PanicsAtOnce;

impl Handler for PanicsAtOnce {
    fn run(&self, job: &Job, _: &Context) -> impl Future<Output = Result<Output, Failure>> + Send {
        assert_ne!(job.payload, "0", "zero");
        async { Ok(Output::text("done")) }
    }
}

#[tokio::test]
async fn a_panic_before_there_is_a_future_is_called_back_like_any_other() {
    let stack = stack(PanicsAtOnce, &[]).await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let panics = submit(&stack, "own", "0", Some(receiver.url())).await;
    let callback = receiver.next().await;
    assert_eq!(parsed(&callback)["failure"]["reason"], "work_failed");
    assert_eq!(
        reason(&stack.ended(panics).await),
        FailureReason::WorkFailed
    );
}

#[tokio::test]
async fn suspected_poison_jobs_keep_to_the_concurrency_of_their_handler() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let release = Arc::new(Semaphore::new(0));
    let handler = Does({
        let (most, release) = (most.clone(), release.clone());
        move |_, _| {
            let (running, most, release) = (running.clone(), most.clone(), release.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                release.acquire().await.unwrap().forget();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(Output::text("done"))
            }
        }
    });
    let one = [("HANDLERS__OWN__CONCURRENCY", "1")];
    let stack = stack(handler, &one).await;
    let mut jobs = vec![submit(&stack, "own", "null", None).await];
    jobs.extend([suspect(&stack).await, suspect(&stack).await]);
    for id in &jobs {
        while stack.find(*id).await.status != Status::Processing {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(50)).await; // time for more to start
    release.add_permits(jobs.len());
    for id in jobs {
        assert_eq!(stack.ended(id).await.status, Status::Completed);
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

/// A job of the handler `own` whose first worker has died with it.
pub(crate) async fn suspect(stack: &Stack) -> RequestId {
    let (store, id) = (&stack.store, RequestId::generate());
    let job = NewJob {
        notification_grace: Duration::from_hours(1), // no search finds it before the claim here
        ..NewJob::for_handler("own".parse().unwrap(), id, RawValue::NULL, None)
    };
    store.accept(job).await.unwrap();
    let [dead, other] = [(); 2].map(|()| OwnerId::generate());
    for owner in [dead, other] {
        store.register(owner, &[]).await.unwrap();
    }
    let claimed = store.claim(dead, vec![Candidate::notified(id)], usize::MAX);
    assert_eq!(claimed.await.unwrap().jobs.len(), 1);
    let beats = store.renew(other, Ended::default()).await.unwrap().others;
    let seen = beats.into_iter().find(|beat| beat.owner == dead).unwrap();
    assert!(store.expire(seen, 5).await.unwrap().is_some());
    store.deregister(other).await.unwrap();
    id
}

#[tokio::test]
async fn at_its_deadline_an_attempt_is_dropped_and_the_last_one_fails_the_job_as_timed_out() {
    let (over, mut ended) = mpsc::channel(9);
    let handler = Does(move |_, context: Context| {
        let over = over.clone();
        async move {
            tokio::spawn(async move {
                context.over.cancelled().await;
                over.try_send(context.attempt).unwrap();
            });
            std::future::pending().await
        }
    });
    let stack = stack(handler, &[("HANDLERS__OWN__TIMEOUT", "100ms")]).await;
    let id = submit(&stack, "own", "null", None).await;
    let row = stack.ended(id).await;
    assert_eq!(reason(&row), FailureReason::WorkTimedOut);
    assert!(
        row.attempts
            .iter()
            .all(|it| it.class == AttemptClass::Timeout)
    );
    for attempt in 1..=3 {
        assert_eq!(ended.recv().await, Some(attempt));
    }
}

#[tokio::test]
async fn a_handler_runs_its_concurrency_at_a_time_and_holds_up_neither_another_one_nor_a_report() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let release = Arc::new(Semaphore::new(0));
    let started = Arc::new(Notify::new());
    let slow = Does({
        let (most, release, started) = (most.clone(), release.clone(), started.clone());
        move |_, _| {
            let (running, most) = (running.clone(), most.clone());
            let (release, started) = (release.clone(), started.clone());
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                started.notify_one();
                release.acquire().await.unwrap().forget();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(Output::text("done"))
            }
        }
    });
    let quick = Does(|_, _| async { Ok(Output::text("done")) });
    let builder = Builder::new().handler("own", slow).handler("other", quick);
    let overrides = [
        ("WORKER_CONCURRENCY", "8"),
        ("HANDLERS__OWN__CONCURRENCY", "2"),
        ("HANDLERS__OTHER__KIND", "rust"),
        ("HANDLERS__OTHER__CONCURRENCY", "1"),
    ];
    let stack = Stack::with_handlers(builder, &[&OWN[..], &overrides].concat()).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(submit(&stack, "own", "null", None).await);
    }
    started.notified().await;
    for _ in 0..10 {
        let other = submit(&stack, "other", "null", None).await;
        let report = stack.accept(1, None).await;
        assert_eq!(stack.ended(other).await.status, Status::Completed);
        assert_eq!(stack.ended(report).await.status, Status::Completed);
    }
    release.add_permits(20);
    for id in slow {
        assert_eq!(stack.ended(id).await.status, Status::Completed);
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn while_a_handler_fails_its_jobs_wait_in_the_table_and_go_on_when_a_probe_succeeds() {
    let (set_up, up) = watch::channel(false);
    let attempts = Arc::new(AtomicUsize::new(0));
    let handler = Does({
        let attempts = attempts.clone();
        move |_, _| {
            let (up, attempts) = (up.clone(), attempts.clone());
            async move {
                attempts.fetch_add(1, Ordering::SeqCst);
                if *up.borrow() {
                    Ok(Output::text("done"))
                } else {
                    Err(Failure::retry("down"))
                }
            }
        }
    });
    let retries = ["1h"; 9].join(",");
    let stack = stack(handler, &[("HANDLERS__OWN__RETRY_DELAYS", &retries)]).await;
    let mut jobs = Vec::new();
    for _ in 0..150 {
        jobs.push(submit(&stack, "own", "null", None).await);
    }
    let open = "storm_worker_open_handler_breakers 1";
    stack.until_shown("/metrics", open).await;
    // Some were in flight when it opened, and then at most a probe.
    let tried = attempts.load(Ordering::SeqCst);
    assert!((100..150).contains(&tried), "{tried}");
    set_up.send(true).unwrap();
    let mut completed = 0;
    for id in jobs {
        let is_settled =
            |row: &Request| row.status == Status::Completed || !row.attempts.is_empty();
        let row = stack.row_when(id, is_settled).await;
        completed += usize::from(row.status == Status::Completed);
    }
    assert!(completed > 0);
}

#[tokio::test]
async fn a_worker_takes_no_job_of_a_handler_that_it_does_not_serve_but_delivers_its_result() {
    let stack = Stack::without_redis(&[]).await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let id = submit(&stack, "unknown", "null", Some(receiver.url())).await;
    let report = stack.accept(1, None).await;
    stack.ended(report).await;
    assert_eq!(stack.find(id).await.status, Status::Pending);
    assert_eq!(stack.find(id).await.claims, 0);

    // A worker that serves it has stored the result, and crashed.
    let owner = OwnerId::generate();
    stack.store.register(owner, &[]).await.unwrap();
    let candidate = Candidate::notified(id);
    let claimed = stack.store.claim(owner, vec![candidate], 1000).await;
    let job = claimed.unwrap().jobs.pop().unwrap().unwrap();
    let result = Ok(WorkResult::of(&"done"));
    let stored = stack.store.store_worked(job.claim, result, None);
    stored.await.unwrap();
    let given_back = stack.store.settle(job.claim, None, Settlement::GiveBack);
    given_back.await.unwrap();
    let body = parsed(&receiver.next().await);
    assert_eq!(
        (&body["handler"], &body["result"]),
        (&json!("unknown"), &json!("done"))
    );
    assert_eq!(stack.ended(id).await.status, Status::Completed);
}

#[tokio::test]
async fn a_result_is_committed_before_its_first_callback() {
    let handler = Does(|_, _| async { Ok(Output::text("done")) });
    let stack = stack(handler, &[]).await;
    let store = stack.store.clone();
    let receiver = Receiver::answering_when(move |_, body| {
        let store = store.clone();
        async move {
            let id = parsed(&body)["request_id"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            let row = store.find(id).await.unwrap().unwrap();
            match row.result_payload {
                Some(result) if result.get() == r#""done""# => 200,
                _ => 410,
            }
        }
    })
    .await;
    let id = submit(&stack, "own", "null", Some(receiver.url())).await;
    assert_eq!(stack.ended(id).await.status, Status::Completed);
}

#[tokio::test]
async fn a_cancelled_job_is_dropped_while_its_handler_runs() {
    let (start, mut started) = mpsc::channel(9);
    let handler = Does(move |_, context: Context| {
        start.try_send(context.over.clone()).unwrap();
        std::future::pending()
    });
    let stack = stack(handler, &[NO_DRAIN]).await;
    let id = submit(&stack, "own", "null", None).await;
    let over = started.recv().await.unwrap();
    let cancelled = stack.store.cancel(Scope::All, id).await.unwrap();
    cancelled.unwrap();
    over.cancelled().await;
    assert_eq!(reason(&stack.find(id).await), FailureReason::Cancelled);
}

#[tokio::test]
async fn at_the_end_of_the_drain_unfinished_work_goes_back_to_the_table() {
    let (start, mut started) = mpsc::channel(9);
    let handler = Does(move |_, _| {
        start.try_send(()).unwrap();
        std::future::pending()
    });
    let stack = stack(handler, &[NO_DRAIN]).await;
    let id = submit(&stack, "own", "null", None).await;
    started.recv().await.unwrap();
    let (store, _folder) = stack.stop().await;
    let row = store.find(id).await.unwrap().unwrap();
    assert_eq!((row.status, row.attempts.len()), (Status::Pending, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handlers_jobs_are_notified_in_a_stream_of_their_own() {
    let redis = RedisServer::start();
    let handler = Does(|_, _| async { Ok(Output::text("done")) });
    let builder = Builder::new().handler("own", handler);
    let stack = Stack::with_handlers_and_redis(builder, &redis.url(), &OWN).await;
    let notifier = stack.notifier();
    let id = RequestId::generate();
    let null = RawValue::NULL;
    let job = NewJob {
        notification_grace: Duration::from_hours(1), // only a notification claims it
        ..NewJob::for_handler("own".parse().unwrap(), id, null, None)
    };
    stack.store.accept(job.clone()).await.unwrap();
    notifier.notify_of(job.handler.clone(), Notification::of(&job));
    assert_eq!(stack.ended(id).await.status, Status::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_job_of_a_handler_that_is_not_served_is_left_to_other_workers_at_once() {
    let redis = RedisServer::start();
    let handler = Does(|_, _| async { Ok(Output::text("done")) });
    let builder = Builder::new().handler("own", handler);
    let stack = Stack::with_handlers_and_redis(builder, &redis.url(), &OWN).await;
    let id = RequestId::generate();
    let job = NewJob::for_handler("other".parse().unwrap(), id, RawValue::NULL, None);
    stack.store.accept(job.clone()).await.unwrap();
    // As if the handler had been removed between the claim and the attempt.
    let wrong = "own".parse().unwrap();
    stack.notifier().notify_of(wrong, Notification::of(&job));
    let is_back = |row: &Request| row.claims == 1 && row.status == Status::Pending;
    let row = stack.row_when(id, is_back).await;
    assert_eq!((row.parks, row.attempts.len()), (0, 0));
    assert_eq!(row.waiting_for.unwrap().until, None);
}

/// The last attempt of a job of an HTTP handler at `url`, and why the job failed.
async fn attempt_at(url: &str, timeout: Duration) -> (Attempt, Option<FailureReason>) {
    let timeout = format!("{}ms", timeout.as_millis());
    let web = [
        ("HANDLERS__WEB__URL", url),
        ("HANDLERS__WEB__TIMEOUT", &timeout),
        ("HANDLERS__WEB__RETRY_DELAYS", ""),
    ];
    let stack = Stack::without_redis(&[&web[..], &[NO_DRAIN]].concat()).await;
    let id = submit(&stack, "web", "null", None).await;
    let mut row = stack.ended(id).await;
    let failure = row.failure.map(|failure| failure.reason);
    (row.attempts.pop().unwrap(), failure)
}

#[tokio::test]
async fn the_record_of_work_has_the_status_that_an_endpoint_answered_with() {
    let receiver = Receiver::answering(|_, _| 201).await;
    let (attempt, failure) = attempt_at(&receiver.url(), Duration::from_mins(5)).await;
    assert_eq!((attempt.class, failure), (AttemptClass::Success, None));
    assert_eq!((attempt.stage, attempt.status), (Stage::Work, Some(201)));
}

#[tokio::test]
async fn a_job_whose_endpoint_does_not_answer_in_time_fails_as_timed_out() {
    let (receiver, _answer) = Receiver::held().await;
    let mut timeout = Duration::from_millis(250);
    loop {
        let (attempt, failure) = attempt_at(&receiver.url(), timeout).await;
        if attempt.class == AttemptClass::Timeout {
            assert_eq!(failure, Some(FailureReason::WorkTimedOut));
            return;
        }
        // On a busy machine, not even the connection may come in time.
        assert_eq!(failure, Some(FailureReason::WorkFailed));
        timeout *= 2;
    }
}
