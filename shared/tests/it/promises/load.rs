//! The load: how many jobs are unfinished, and how many each worker has ended.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use serde_json::value::RawValue;
use storm_shared::{
    models::{CallbackUrl, HandlerName, Records, ReportSpec, RequestId},
    services::{
        report,
        store::{
            Candidate, Ended, Load, NewJob, Outcome, Paused, Scope, Settlement, Store, TenantLoad,
            WorkResult,
        },
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, claimed, failed, finished, new_worker, redeliver, retry, spec, timeout, try_accept,
    },
};

on_every_engine! {
    every_unfinished_job_counts_and_those_that_are_due_wait,
    a_count_ends_at_the_most_that_was_asked_for,
    each_tenants_jobs_are_counted_apart,
    the_jobs_that_each_handler_is_to_do_are_counted_apart_if_that_is_asked_for,
    a_pause_of_everything_is_part_of_the_load,
    a_heartbeat_tells_what_its_worker_has_ended,
}

const ALL: usize = 1000;
const NOW: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_mins(1);

/// The unfinished jobs, and how many of them are due within `grace`.
async fn counted(store: &Store, most: usize, grace: Duration) -> (usize, usize) {
    let Load {
        unfinished,
        waiting,
        ..
    } = store.load(most, grace, true).await.unwrap();
    (unfinished, waiting)
}

async fn every_unfinished_job_counts_and_those_that_are_due_wait(database: TestDatabase) {
    let store = database.open().await;
    assert_eq!(store.load(ALL, NOW, true).await.unwrap(), Load::default());
    // What is over, whatever came of it.
    let (sync, spec, now) = (RequestId::generate(), spec(), Timestamp::now());
    let made = report::expected(&spec);
    let recorded = store.record_sync(sync, now, &spec, None, Ok(&made));
    recorded.await.unwrap();
    let completed = finished(&store, Outcome::Completed).await;
    finished(&store, failed("It answered 500.")).await;
    let cancelled = accept(&store).await;
    store.cancel(Scope::All, cancelled).await.unwrap().unwrap();
    assert_eq!(counted(&store, ALL, LATER).await, (0, 0));
    // A redelivery is no unfinished job.
    redeliver(&store, completed).await.unwrap();
    assert_eq!(counted(&store, ALL, LATER).await, (0, 0));

    accept(&store).await;
    let notified = NewJob {
        notification_grace: Duration::from_secs(30),
        ..NewJob::new(RequestId::generate(), spec, None)
    };
    store.accept(notified).await.unwrap();
    assert_eq!(counted(&store, ALL, NOW).await, (2, 1));
    assert_eq!(counted(&store, ALL, LATER).await, (2, 2));
    // Running, scheduled and parked.
    claimed(&store).await;
    assert_eq!(counted(&store, ALL, LATER).await, (3, 2));
    let wait = Duration::from_hours(1);
    for settlement in [retry(timeout(1), wait), Settlement::Park { wait }] {
        let job = claimed(&store).await;
        store.settle(job.claim, None, settlement).await.unwrap();
    }
    assert_eq!(counted(&store, ALL, LATER).await, (5, 2));
    assert_eq!(counted(&store, ALL, 2 * wait).await, (5, 4));
}

async fn each_tenants_jobs_are_counted_apart(database: TestDatabase) {
    let store = database.open().await;
    let long = ReportSpec {
        records: Records::new(100_000, Records::MAX_ASYNC).unwrap(),
        ..spec()
    };
    let mut ids = Vec::new();
    for (tenant, spec, count) in [
        (None, spec(), 1),
        (Some("one"), spec(), 3),
        (Some("one"), long.clone(), 1),
        (Some("two"), long, 2),
    ] {
        for _ in 0..count {
            let job = NewJob {
                created_by: tenant.map(|name: &str| name.parse().unwrap()),
                ..NewJob::new(RequestId::generate(), spec.clone(), None)
            };
            ids.push(job.id);
            store.accept(job).await.unwrap();
        }
    }
    let of = |unfinished, waiting_short, waiting_long| TenantLoad {
        unfinished,
        waiting_short,
        waiting_long,
    };
    let (one, two) = (Some("one".parse().unwrap()), Some("two".parse().unwrap()));
    let load = store.load(ALL, NOW, true).await.unwrap();
    let expected = [(None, of(1, 1, 0)), (one, of(4, 3, 1)), (two, of(2, 0, 2))];
    assert_eq!(load.tenants, HashMap::from(expected.clone()));
    assert_eq!((load.unfinished, load.waiting), (7, 7));
    // Those that run are unfinished, and do not wait.
    let owner = new_worker(&store).await;
    let running = ids.into_iter().take(3).map(Candidate::notified).collect();
    store.claim(owner, running, usize::MAX).await.unwrap();
    let load = store.load(ALL, NOW, true).await.unwrap();
    let [(none, _), (one, _), (two, _)] = &expected;
    assert_eq!(load.tenants[none], of(1, 0, 0));
    assert_eq!(load.tenants[one], of(4, 1, 1));
    assert_eq!(load.tenants[two], of(2, 0, 2));
    assert_eq!((load.unfinished, load.waiting), (7, 4));
}

async fn the_jobs_that_each_handler_is_to_do_are_counted_apart_if_that_is_asked_for(
    database: TestDatabase,
) {
    let store = database.open().await;
    let [pdf, ocr] = ["pdf", "ocr"].map(|name| name.parse::<HandlerName>().unwrap());
    let submit = async |handler: &HandlerName| {
        let payload = RawValue::from_string("{}".to_owned()).unwrap();
        let url = CallbackUrl::parse("https://hooks.example/").unwrap();
        let id = RequestId::generate();
        let job = NewJob::for_handler(handler.clone(), id, &payload, Some(url));
        store.accept(job).await.unwrap();
        id
    };
    let mut jobs = Vec::new();
    for handler in [&pdf, &pdf, &pdf, &ocr] {
        jobs.push(submit(handler).await);
    }
    for _ in 0..2 {
        accept(&store).await;
    }
    let long = ReportSpec {
        records: Records::new(100_000, Records::MAX_ASYNC).unwrap(),
        ..spec()
    };
    let long = NewJob::new(RequestId::generate(), long, None);
    store.accept(long).await.unwrap();
    let counted = async || {
        let load = store.load(ALL, NOW, true).await.unwrap();
        let of = |name| load.handlers.get(name).copied().unwrap_or(0);
        ([&pdf, &ocr, &HandlerName::REPORT].map(of), load.unfinished)
    };
    assert_eq!(counted().await, ([3, 1, 3], 7));
    // One that runs is to be done, as is one that is to be repeated.
    let owner = new_worker(&store).await;
    let named = jobs.iter().take(2).copied().map(Candidate::notified);
    let claimed = store.claim(owner, named.collect(), usize::MAX).await;
    let claimed: Vec<_> = claimed.unwrap().jobs.into_iter().flatten().collect();
    assert_eq!(counted().await, ([3, 1, 3], 7));
    let wait = Duration::from_hours(1);
    let again = store.settle(claimed[0].claim, None, retry(timeout(1), wait));
    again.await.unwrap();
    assert_eq!(counted().await, ([3, 1, 3], 7));
    // Once its work is done, a job counts for no handler, wherever its callback waits.
    let result = WorkResult::from_json(RawValue::from_string("1".to_owned()).unwrap());
    let done = store.store_worked(claimed[1].claim, Ok(result), None);
    done.await.unwrap();
    let park = store.settle(claimed[1].claim, None, Settlement::Park { wait });
    park.await.unwrap();
    assert_eq!(counted().await, ([2, 1, 3], 7));
    assert!(
        store
            .load(ALL, NOW, false)
            .await
            .unwrap()
            .handlers
            .is_empty()
    );
}

async fn a_pause_of_everything_is_part_of_the_load(database: TestDatabase) {
    let store = database.open().await;
    let operator = || "ops".parse().unwrap();
    let is_paused = async || store.load(ALL, NOW, true).await.unwrap().is_paused;
    assert!(!is_paused().await);
    store
        .pause(Paused::Everything, operator())
        .await
        .unwrap()
        .unwrap();
    assert!(is_paused().await);
    store.resume(Paused::Everything, operator()).await.unwrap();
    assert!(!is_paused().await);
}

async fn a_count_ends_at_the_most_that_was_asked_for(database: TestDatabase) {
    let store = database.open().await;
    for _ in 0..3 {
        try_accept(&store).await.unwrap();
        claimed(&store).await;
    }
    for (most, expected) in [
        (0, (0, 0)),
        (2, (2, 2)),
        (4, (4, 3)),
        (6, (6, 3)),
        (7, (6, 3)),
    ] {
        assert_eq!(counted(&store, most, NOW).await, expected, "{most}");
    }
}

async fn a_heartbeat_tells_what_its_worker_has_ended(database: TestDatabase) {
    let store = database.open().await;
    let [one, other] = [new_worker(&store).await, new_worker(&store).await];
    let ended = async || store.load(ALL, NOW, true).await.unwrap().ended;
    assert_eq!(
        ended().await,
        HashMap::from([(one, Ended::default()), (other, Ended::default())])
    );
    let of = |jobs, long_jobs| Ended { jobs, long_jobs };
    store.renew(one, of(7, 2)).await.unwrap();
    store.renew(other, of(u64::MAX, u64::MAX)).await.unwrap();
    let most = u64::MAX / 2;
    assert_eq!(
        ended().await,
        HashMap::from([(one, of(7, 2)), (other, of(most, most))])
    );
    store.register(one, &[]).await.unwrap();
    store.deregister(other).await.unwrap();
    assert_eq!(ended().await, HashMap::from([(one, of(7, 2))]));
}
