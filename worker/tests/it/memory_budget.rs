//! The memory budget: a worker without room claims no further job, and none is left over.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::value::RawValue;
use storm_shared::{
    models::{CallbackUrl, RequestId, Status},
    services::{
        queue::Notification,
        report,
        store::{Candidate, Ended, NewJob, OwnerId, Scope, Store, WorkResult},
    },
};

use crate::{
    delivery::scripted::{self, read_request, write},
    receiver::Receiver,
    redis_server::RedisServer,
    rows::{Rows as _, spec},
    stack::{NO_DRAIN, NO_TIMEOUT, Stack},
};

/// Every job exceeds it.
const TINY: usize = 1;

async fn accept(store: &Store, url: &str, grace: Duration) -> (RequestId, Notification) {
    let url = CallbackUrl::parse(url).unwrap();
    let mut job = NewJob::new(RequestId::generate(), spec(1), Some(url));
    job.notification_grace = grace;
    let notification = Notification::of(&job);
    let id = job.id;
    store.accept(job).await.unwrap();
    (id, notification)
}

/// A job whose first worker has died with it.
async fn suspect(store: &Store, url: &str) -> RequestId {
    // Not found by a search before it is claimed here.
    let (id, _) = accept(store, url, Duration::from_hours(1)).await;
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
async fn a_worker_whose_memory_budget_is_exceeded_by_every_job_ends_all_of_them_one_at_a_time() {
    let redis = RedisServer::start();
    for url in ["none", &redis.url()] {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now, high) = (Arc::clone(&running), Arc::clone(&most));
        let receiver = Receiver::answering_when(move |nth, _| {
            let (now, high) = (Arc::clone(&now), Arc::clone(&high));
            async move {
                high.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await; // time for others to come
                now.fetch_sub(1, Ordering::SeqCst);
                // Some are retried.
                if nth % 5 == 0 { 500 } else { 200 }
            }
        })
        .await;
        // So many that none of them meets a 500 each time.
        let retries = ["10ms"; 10].join(",");
        let retries = [("CALLBACK_RETRY_DELAYS", retries.as_str())];
        let stack = Stack::with_memory_and(TINY, url, &retries).await;
        let mut jobs = vec![suspect(&stack.store, &receiver.url()).await];
        let notifier = stack.settings.queue.is_some().then(|| stack.notifier());
        for _ in 0..40 {
            let (id, notification) = accept(&stack.store, &receiver.url(), Duration::ZERO).await;
            if let Some(notifier) = &notifier {
                notifier.notify(notification);
            }
            jobs.push(id);
        }
        for id in jobs {
            assert_eq!(stack.ended(id).await.status, Status::Completed);
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
        stack.stop().await;
    }
}

#[tokio::test]
async fn a_suspect_gets_its_turn_while_other_jobs_take_all_memory() {
    let receiver = Receiver::answering_when(|_, _| async { 200 }).await;
    let stack = Stack::with_memory(TINY, "none").await;
    let supply = async {
        loop {
            // Always more than there is room for.
            accept(&stack.store, &receiver.url(), Duration::ZERO).await;
        }
    };
    let suspect = async {
        let suspect = suspect(&stack.store, &receiver.url()).await;
        stack.ended(suspect).await
    };
    tokio::select! {
        () = supply => {}
        ended = suspect => assert_eq!(ended.status, Status::Completed),
    }
}

#[tokio::test]
async fn a_job_counts_as_memory_until_it_is_settled_and_the_worker_stays_healthy() {
    let (mut receiver, release) = Receiver::held().await;
    let stack = Stack::with_memory(TINY, "none").await;
    let first = stack.accept(1, Some(receiver.url())).await;
    receiver.next().await;
    let second = stack.accept(1, Some(receiver.url())).await;
    let input = stack.find(first).await.input_payload.get().len();
    let result = WorkResult::of(&report::expected(&spec(1))).as_str().len();
    let metrics = stack.get("/metrics").await;
    for line in [
        format!("storm_worker_memory_budget_bytes {TINY}"),
        format!("storm_worker_memory_reserved_bytes {}", input + result),
    ] {
        assert!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    }
    assert!(stack.get("/healthz").await.starts_with("HTTP/1.1 200"));
    drop(release);
    for id in [first, second] {
        assert_eq!(stack.ended(id).await.status, Status::Completed);
    }
    while !stack
        .get("/metrics")
        .await
        .contains("storm_worker_memory_reserved_bytes 0")
    {}
    stack.stop().await;
}

/// The value of a metric.
async fn reserved(stack: &Stack) -> usize {
    let metrics = stack.get("/metrics").await;
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix("storm_worker_memory_reserved_bytes "));
    value.unwrap().trim().parse().unwrap()
}

async fn submit(stack: &Stack, handler: &str, payload: &str, url: &str) -> RequestId {
    let payload = RawValue::from_string(payload.to_owned()).unwrap();
    let (handler, url) = (handler.parse().unwrap(), CallbackUrl::parse(url).unwrap());
    let job = NewJob::for_handler(handler, RequestId::generate(), &payload, Some(url));
    let id = job.id;
    stack.store.accept(job).await.unwrap();
    id
}

#[tokio::test]
async fn large_results_of_many_jobs_at_once_stay_within_the_budget_and_one_of_them_and_all_end() {
    const BUDGET: usize = 200_000;
    const RESULT: usize = 60_000;
    const PAYLOAD: usize = 2_000;
    // One tells the length of its body, and one does not.
    let body = "x".repeat(RESULT - 2);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let known = format!("{head}content-length: {RESULT}\r\n\r\n\"{body}\"");
    let chunks = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let chunks = format!("{chunks}{RESULT:x}\r\n\"{body}\"\r\n0\r\n\r\n");
    let endpoints =
        [known, chunks].map(|answer| {
            scripted::Receiver::start(move |_, stream| {
                while read_request(stream).is_some() && write(stream, &answer) {}
            })
        });
    let receiver = Receiver::answering_when(|_, _| async { 200 }).await;
    let urls = endpoints.each_ref().map(scripted::Receiver::url);
    let overrides = [
        ("HANDLERS__KNOWN__URL", urls[0].as_str()),
        ("HANDLERS__CHUNKS__URL", urls[1].as_str()),
        ("HANDLERS__KNOWN__RETRY_DELAYS", ""),
        ("HANDLERS__CHUNKS__RETRY_DELAYS", ""),
    ];
    let stack = Stack::with_memory_and(BUDGET, "none", &overrides).await;
    // Their payloads alone exceed the budget.
    let payload = format!("\"{}\"", "p".repeat(PAYLOAD - 2));
    let mut jobs = Vec::new();
    for nth in 0..120 {
        let handler = ["known", "chunks"][nth % 2];
        jobs.push(submit(&stack, handler, &payload, &receiver.url()).await);
    }
    // Reports go on beside them.
    jobs.push(stack.accept(1, Some(receiver.url())).await);
    let mut most = 0;
    for id in jobs {
        let ended = stack.ended(id);
        tokio::pin!(ended);
        let row = loop {
            tokio::select! {
                row = &mut ended => break row,
                reserved = reserved(&stack) => most = most.max(reserved),
            }
        };
        assert_eq!(row.status, Status::Completed, "{:?}", row.failure);
    }
    // Each of the loops that claim may exceed it by the input of one job: the reports' three, two
    // of each handler.
    let bound = BUDGET + RESULT + 7 * PAYLOAD;
    assert!(most <= bound, "{most} of {bound}");
    assert!(most > RESULT, "{most}: no result was seen");
    let given_back = async { while reserved(&stack).await > 0 {} };
    let given_back = tokio::time::timeout(Duration::from_mins(1), given_back).await;
    assert!(given_back.is_ok(), "some is reserved for ever");
    stack.stop().await;
}

#[tokio::test]
async fn a_result_that_waits_for_memory_is_let_go_at_a_cancel_and_at_the_end_of_the_drain() {
    const BUDGET: usize = 100_000;
    const RESULT: usize = 60_000;
    // Of four results one has room, and one goes past the budget.
    let all_asked = Arc::new(Barrier::new(4));
    let body = "x".repeat(RESULT - 2);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    // JSON is stored as it came: neither of the two needs more room after its body.
    let answer = format!("{head}content-length: {RESULT}\r\n\r\n\"{body}\"");
    let endpoint = scripted::Receiver::start(move |_, stream| {
        if read_request(stream).is_some() {
            all_asked.wait();
            write(stream, &answer);
            read_request(stream);
        }
    });
    let (mut receiver, _release) = Receiver::held().await;
    let url = endpoint.url();
    let overrides = [("HANDLERS__OWN__URL", url.as_str()), NO_TIMEOUT, NO_DRAIN];
    let stack = Stack::with_memory_and(BUDGET, "none", &overrides).await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(submit(&stack, "own", "null", &receiver.url()).await);
    }
    let patience = Duration::from_mins(1);
    for _ in 0..2 {
        let callback = tokio::time::timeout(patience, receiver.next()).await;
        let callback = String::from_utf8(callback.expect("two have memory").into()).unwrap();
        jobs.retain(|id| !callback.contains(&id.to_string()));
    }
    let [cancelled, waits] = jobs.try_into().unwrap();
    let cancel = stack.store.cancel(Scope::All, cancelled);
    cancel.await.unwrap().unwrap();
    let is_free = stack.until_shown("/metrics", "storm_worker_slots_used 3\n");
    let is_free = tokio::time::timeout(patience, is_free).await;
    assert!(is_free.is_ok(), "the cancelled job holds its slot");
    assert_eq!(stack.find(waits).await.status, Status::Processing);
    let stopped = tokio::time::timeout(patience, stack.stop()).await;
    let (store, _folder) = stopped.expect("the drain ends");
    let row = store.find(waits).await.unwrap().unwrap();
    assert_eq!((row.status, row.lost_claims), (Status::Pending, 0));
    assert!(receiver.more().is_empty());
}
