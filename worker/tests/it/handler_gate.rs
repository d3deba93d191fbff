//! What a worker lets through to its handlers: circuit breakers, and limits that are reread.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::value::RawValue;
use storm_shared::{
    models::{AttemptClass, HandlerName, RequestId, Status, WaitReason},
    services::store::{Breakers, NewJob, Store},
};
use storm_worker::handler::{Failure, Output};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::{
    handlers::{Does, stack, submit, suspect},
    receiver::Receiver,
    reread::{rereads, write},
    rows::Rows as _,
    table::Table,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_mins(2);

async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    let event = timeout(PATIENCE, event).await;
    event.unwrap_or_else(|_| panic!("never: {what}"))
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let event = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, event).await;
}

/// The breakers of the handler `own`, as the workers say.
async fn breakers(store: &Store) -> Breakers {
    let own: HandlerName = "own".parse().unwrap();
    let load = store.handlers_load().await.unwrap();
    load.get(&own).copied().unwrap_or_default().breakers
}

const OPEN: &str = "storm_worker_open_handler_breakers 1";
const CLOSED: &str = "storm_worker_open_handler_breakers 0";

#[tokio::test]
async fn a_handler_that_panics_on_each_job_opens_its_breaker_and_the_other_jobs_wait() {
    let (mend, mended) = watch::channel(false);
    let handler = Does(move |_, _| {
        let mended = mended.clone();
        async move {
            assert!(*mended.borrow(), "broken");
            Ok(Output::text("done"))
        }
    });
    let stack = stack(handler, &[("HANDLERS__OWN__CONCURRENCY", "10")]).await;
    let mut jobs = Vec::new();
    for _ in 0..130 {
        jobs.push(submit(&stack, "own", "null", None).await);
    }
    within("it opens", stack.until_shown("/metrics", OPEN)).await;
    // Anybody can see it, and what waits for it.
    let is_seen = async || {
        let breakers = breakers(&stack.store).await;
        breakers.open + breakers.half_open == 1
    };
    until("the breaker is reported", is_seen).await;
    let last = *jobs.last().unwrap();
    let says_so = async || {
        let waiting = stack.find(last).await.waiting_for;
        waiting.is_some_and(|it| {
            it.reason == WaitReason::Handler && it.detail.contains("circuit breaker")
        })
    };
    until("a job that waits says so", says_so).await;
    mend.send(true).unwrap();
    let mut failed = 0;
    for id in &jobs {
        let row = within("each job ends", stack.ended(*id)).await;
        failed += usize::from(row.status == Status::Failed);
    }
    // Those in flight when it opened, and a few probes at most.
    assert!((100..130).contains(&failed), "{failed}");
    within("it closes", stack.until_shown("/metrics", CLOSED)).await;
    let is_closed = async || breakers(&stack.store).await == Breakers::default();
    until("the closed breaker is reported", is_closed).await;
}

/// It holds no slots only to be parked, stays a suspect, and gets its attempt in the end.
#[tokio::test]
async fn a_suspect_is_not_claimed_while_the_breaker_is_open_until_it_is_overdue() {
    let (hang, release) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Semaphore::new(0)),
    );
    let hanging = Arc::new(AtomicUsize::new(0));
    let handler = Does({
        let (hang, hanging) = (hang.clone(), hanging.clone());
        move |_, _| {
            let (hang, hanging, release) = (hang.clone(), hanging.clone(), release.clone());
            async move {
                // The probe, once: while it is under way, no other job passes.
                if hang.swap(false, Ordering::SeqCst) {
                    hanging.fetch_add(1, Ordering::SeqCst);
                    release.acquire().await.unwrap().forget();
                }
                Err(Failure::retry("down"))
            }
        }
    });
    let settings = [
        ("HANDLERS__OWN__CONCURRENCY", "10"),
        ("HANDLERS__OWN__RETRY_DELAYS", "1h,1h,1h"),
        ("HANDLERS__OWN__TIMEOUT", "1h"),
        ("CALLBACK_PARK_MAX", "3s"),
        ("DRAIN_TIMEOUT", "1ms"),
    ];
    let stack = stack(handler, &settings).await;
    for _ in 0..130 {
        submit(&stack, "own", "null", None).await;
    }
    within("it opens", stack.until_shown("/metrics", OPEN)).await;
    hang.store(true, Ordering::SeqCst);
    let is_half_open = async || hanging.load(Ordering::SeqCst) == 1;
    until("a probe hangs", is_half_open).await;
    let id = suspect(&stack).await;
    assert_eq!(stack.find(id).await.lost_claims, 1);
    let tried = stack.row_when(id, |row| !row.attempts.is_empty());
    let tried = within("it gets its attempt", tried).await;
    // A claim that would only park it comes once a second, and cleared it of suspicion.
    assert_eq!((tried.claims, tried.parks), (2, 0));
    assert_eq!(tried.attempts[0].class, AttemptClass::Failed);
    assert_eq!(tried.lost_claims, 0, "its outcome is known");
    stack.stop().await;
}

async fn submit_to(table: &Table) -> RequestId {
    let id = RequestId::generate();
    let job = NewJob::for_handler("own".parse().unwrap(), id, RawValue::NULL, None);
    table.store.accept(job).await.unwrap();
    id
}

#[tokio::test]
async fn a_handler_that_a_reread_removes_no_longer_counts_as_an_open_breaker() {
    let table = Table::new().await;
    let file = table.folder.path().join("storm.toml");
    // Nothing listens there.
    write(&file, "[handlers.own]\nurl = 'http://127.0.0.1:1/'\n");
    let worker = table.worker(&[("STORM_CONFIG", file.to_str().unwrap())]);
    for _ in 0..120 {
        submit_to(&table).await;
    }
    within("it opens", worker.until_shown("/metrics", OPEN)).await;
    write(&file, "log = 'info'");
    worker.signal("HUP");
    within("it is gone", worker.until_shown("/metrics", CLOSED)).await;
    let is_forgotten = async || breakers(&table.store).await == Breakers::default();
    until("the workers say nothing of it", is_forgotten).await;
}

#[tokio::test]
async fn long_reports_leave_the_slots_of_a_handler_that_a_reread_adds() {
    let table = Table::new().await;
    let file = table.folder.path().join("storm.toml");
    write(&file, "log = 'info'");
    let worker = table.worker(&[
        ("STORM_CONFIG", file.to_str().unwrap()),
        ("WORKER_CONCURRENCY", "16"),
    ]);
    let own = "[handlers.own]\nurl = 'http://127.0.0.1:1/'\nconcurrency = 8\n";
    let all = "storm_worker_long_jobs_limit 12\n";
    within("all slots", worker.until_shown("/metrics", all)).await;
    for (settings, limit) in [
        (own, "storm_worker_long_jobs_limit 6\n"),
        ("log = 'info'", all),
    ] {
        write(&file, settings);
        worker.signal("HUP");
        within("the limit changes", worker.until_shown("/metrics", limit)).await;
    }
}

#[tokio::test]
async fn a_reread_of_the_concurrency_holds_the_limit_for_what_runs_already() {
    let table = Table::new().await;
    let file = table.folder.path().join("storm.toml");
    let (release, starts) = (
        Arc::new(Semaphore::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let running = Arc::new(AtomicUsize::new(0));
    let endpoint = Receiver::answering_when({
        let (release, starts) = (release.clone(), starts.clone());
        move |_, _| {
            let (release, starts, running) = (release.clone(), starts.clone(), running.clone());
            async move {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                starts.lock().unwrap().push(now);
                release.acquire().await.unwrap().forget();
                running.fetch_sub(1, Ordering::SeqCst);
                204
            }
        }
    })
    .await;
    let settings = |concurrency: u32, timeout: &str| {
        let url = endpoint.url();
        write(
            &file,
            &format!(
                "[handlers.own]\nurl = '{url}'\nconcurrency = {concurrency}\ntimeout = '{timeout}'"
            ),
        );
    };
    settings(4, "30m");
    let worker = table.worker(&[
        ("STORM_CONFIG", file.to_str().unwrap()),
        ("DRAIN_TIMEOUT", "1ms"),
    ]);
    let mut jobs = Vec::new();
    for _ in 0..14 {
        jobs.push(submit_to(&table).await);
    }
    let begun = || starts.lock().unwrap().len();
    until("four run", async || begun() == 4).await;
    // With another time-out as well: what runs counts whatever it began with.
    settings(2, "40m");
    worker.signal("HUP");
    within("the reread", rereads(&worker, 1)).await;
    for ended in 1..=4 {
        release.add_permits(1);
        // Two end without a successor, and then each has one.
        let next = 4 + usize::saturating_sub(ended, 2);
        until("the next one begins", async || begun() >= next).await;
    }
    until("six have begun", async || begun() == 6).await;
    assert_eq!(starts.lock().unwrap()[4..], [2, 2], "the smaller limit");
    settings(5, "30m");
    worker.signal("HUP");
    within("the reread", rereads(&worker, 2)).await;
    until("three more", async || begun() == 9).await;
    assert_eq!(starts.lock().unwrap()[6..], [3, 4, 5], "the larger limit");
    release.add_permits(jobs.len());
    for id in jobs {
        let row = within("each job ends", table.ended(id)).await;
        assert_eq!(row.status, Status::Completed);
    }
    let most = *starts.lock().unwrap().iter().max().unwrap();
    assert_eq!(most, 5);
}

/// Whoever holds slots may wait for the room of a handler, and nobody the other way round: a search
/// that has taken the room for jobs that it then has no slots for would wait for ever.
#[tokio::test]
async fn suspects_that_take_all_slots_get_the_room_that_a_search_has_taken() {
    let settings = [
        ("HANDLERS__OWN__CONCURRENCY", "1"),
        ("WORKER_CONCURRENCY", "2"),
        ("MAX_CLAIMS", "3"), // each suspect runs alone
        ("WORKER_POLL_INTERVAL", "10ms"),
    ];
    let handler = Does(|_, _| async { Ok(Output::text("done")) });
    let stack = stack(handler, &settings).await;
    let mut jobs = Vec::new();
    for _ in 0..40 {
        for _ in 0..10 {
            jobs.push(submit(&stack, "own", "null", None).await);
        }
        jobs.push(suspect(&stack).await);
    }
    for id in jobs {
        let row = within("each job ends", stack.ended(id)).await;
        assert_eq!(row.status, Status::Completed);
    }
}
