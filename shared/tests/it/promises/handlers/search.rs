//! Who finds jobs of handlers, and what they wait for.

use std::time::Duration;

use storm_shared::{
    models::{AttemptClass, HandlerName, RequestId, WaitReason},
    services::store::{
        Breakers, Candidate, Capacity, HandlerLoad, NewJob, Paused, Scope, Settlement,
    },
};

use super::{
    RESULT, accept_of, capacity_of, claim_work, claim_work_of, found, handler, job_of, result,
    store_job, work_failed, work_of, worked,
};
use crate::{
    database::TestDatabase,
    jobs::{accept, claim_due, due_ids, expire_lease, new_worker, retry, row},
};

on_every_engine! {
    a_job_is_found_only_by_a_search_for_work_of_its_handler,
    a_search_for_work_tells_when_the_next_job_of_that_handler_is_due,
    a_job_whose_work_is_done_is_found_by_the_common_search_only,
    tenants_share_the_work_of_a_handler_fairly,
    a_suspect_of_a_handler_is_left_to_the_workers_that_serve_it,
    a_search_for_overdue_jobs_finds_no_other,
    a_search_for_work_of_a_handler_is_woken_by_no_retry_of_another_job,
    a_pause_of_everything_holds_the_work_of_handlers,
    a_job_says_that_no_running_worker_serves_its_handler,
    what_each_handler_has_to_do_is_counted,
}

async fn a_job_is_found_only_by_a_search_for_work_of_its_handler(database: TestDatabase) {
    let store = database.open().await;
    let mut of_pdf = Vec::new();
    for tenant in 0..300 {
        let job = NewJob {
            created_by: (tenant > 0).then(|| format!("t{}", tenant % 50).parse().unwrap()),
            ..job_of("pdf", "{}")
        };
        of_pdf.push(store_job(&store, job).await);
    }
    let of_mail = accept_of(&store, "mail").await;
    let report = accept(&store).await;
    assert_eq!(due_ids(&store, 400).await, [report]);
    assert_eq!(work_of(&store, "mail").await, [of_mail]);
    assert_eq!(work_of(&store, "other").await, []);
    let mut work = found(&store, capacity_of("pdf", 400)).await;
    work.sort();
    of_pdf.sort();
    assert_eq!(work, of_pdf);
    // A worker without room for long reports finds them, too.
    let no_long = Capacity {
        long_jobs: 0,
        ..capacity_of("mail", 9)
    };
    assert_eq!(found(&store, no_long).await, [of_mail]);
}

async fn a_job_whose_work_is_done_is_found_by_the_common_search_only(database: TestDatabase) {
    let store = database.open().await;
    for outcome in [Ok(result(RESULT)), Err(work_failed())] {
        let id = accept_of(&store, "pdf").await;
        let job = claim_work(&store, id).await;
        assert_eq!((&job.worked, job.is_long), (&None, true));
        // An attempt that is repeated leaves it to its handler.
        let again = retry(worked(1, AttemptClass::Status), Duration::ZERO);
        store.settle(job.claim, None, again).await.unwrap();
        assert_eq!(work_of(&store, "pdf").await, [id]);
        assert_eq!(due_ids(&store, 9).await, []);

        let job = claim_work(&store, id).await;
        let stored = store.store_worked(job.claim, outcome.clone(), None);
        stored.await.unwrap();
        let give_back = Settlement::GiveBack;
        store.settle(job.claim, None, give_back).await.unwrap();
        assert_eq!(work_of(&store, "pdf").await, []);
        assert_eq!(due_ids(&store, 9).await, [id]);
        let job = claim_due(&store).await.pop().unwrap();
        assert_eq!((job.worked, job.is_long), (Some(outcome), false));
        assert_eq!(job.handler, handler("pdf"));
        store.cancel(Scope::All, id).await.unwrap().unwrap();
    }
}

async fn tenants_share_the_work_of_a_handler_fairly(database: TestDatabase) {
    let store = database.open().await;
    let of = |tenant: &str| NewJob {
        created_by: Some(tenant.parse().unwrap()),
        ..job_of("pdf", "{}")
    };
    let mut flood = Vec::new();
    for _ in 0..50 {
        flood.push(store_job(&store, of("hostile")).await);
    }
    let mut others = Vec::new();
    for tenant in ["a", "b", "c"] {
        others.push(store_job(&store, of(tenant)).await);
    }
    let share = store.due_jobs(capacity_of("pdf", 8)).await.unwrap();
    let ids: Vec<_> = share.due.iter().map(|candidate| candidate.id).collect();
    assert!(others.iter().all(|id| ids.contains(id)), "{ids:?}");
    let of_flood = ids.into_iter().filter(|id| flood.contains(id));
    assert!(of_flood.eq(flood[..5].iter().copied()), "its oldest jobs");
    assert_eq!(share.waiting, [Some("hostile".parse().unwrap())]);
}

async fn a_suspect_of_a_handler_is_left_to_the_workers_that_serve_it(database: TestDatabase) {
    let store = database.open().await;
    let id = accept_of(&store, "pdf").await;
    let job = claim_work(&store, id).await;
    expire_lease(&store, job.claim.owner).await;
    let suspects = async |served: &[HandlerName]| -> Vec<RequestId> {
        let suspects = store.suspects(served, 9).await.unwrap();
        suspects.into_iter().map(|candidate| candidate.id).collect()
    };
    assert_eq!(suspects(&[]).await, []);
    assert_eq!(suspects(&[handler("mail")]).await, []);
    assert_eq!(suspects(&[handler("mail"), handler("pdf")]).await, [id]);
    assert_eq!(work_of(&store, "pdf").await, []);
    assert_eq!(due_ids(&store, 9).await, []);
}

async fn a_search_for_overdue_jobs_finds_no_other(database: TestDatabase) {
    let store = database.open().await;
    let late = accept_of(&store, "pdf").await;
    let new = accept_of(&store, "pdf").await;
    database
        .make_due_earlier(late, Duration::from_hours(1))
        .await;
    let overdue = |by| Capacity {
        overdue_by: by,
        ..capacity_of("pdf", 9)
    };
    assert_eq!(
        found(&store, overdue(Duration::from_mins(59))).await,
        [late]
    );
    assert_eq!(found(&store, overdue(Duration::from_hours(2))).await, []);
    assert_eq!(found(&store, overdue(Duration::ZERO)).await, [late, new]);
    let age = store.oldest_due_age().await.unwrap();
    assert!(age >= Some(Duration::from_hours(1)), "{age:?}");
}

async fn a_search_for_work_of_a_handler_is_woken_by_no_retry_of_another_job(
    database: TestDatabase,
) {
    let store = database.open().await;
    accept(&store).await;
    let job = claim_due(&store).await.pop().unwrap();
    let later = retry(worked(1, AttemptClass::Status), Duration::from_hours(1));
    store.settle(job.claim, None, later).await.unwrap();
    let common = store.due_jobs(Capacity::of(1)).await.unwrap();
    assert!(common.next_due.is_some());
    let of_handler = store.due_jobs(capacity_of("pdf", 1)).await.unwrap();
    assert_eq!(of_handler.next_due, None);
}

async fn a_pause_of_everything_holds_the_work_of_handlers(database: TestDatabase) {
    let store = database.open().await;
    let id = accept_of(&store, "pdf").await;
    let owner = new_worker(&store).await;
    let paused = store.pause(Paused::Everything, "ops".parse().unwrap());
    paused.await.unwrap().unwrap();
    assert_eq!(work_of(&store, "pdf").await, []);
    let notified = vec![Candidate::notified(id)];
    let claimed = store.claim(owner, notified, usize::MAX).await.unwrap();
    assert!(claimed.is_paused && claimed.jobs.is_empty());
}

async fn a_job_says_that_no_running_worker_serves_its_handler(database: TestDatabase) {
    let store = database.open().await;
    let id = accept_of(&store, "pdf").await;
    let waiting = async || row(&store, id).await.waiting_for.unwrap();
    let worker = new_worker(&store).await;
    store.register(worker, &[handler("mail")]).await.unwrap();
    let unserved = waiting().await;
    assert_eq!(unserved.reason, WaitReason::Handler);
    assert!(unserved.detail.contains("`pdf`"), "{unserved:?}");
    let served = [handler("mail"), handler("pdf")];
    store.register(worker, &served).await.unwrap();
    assert_eq!(waiting().await.reason, WaitReason::Capacity);
    store.deregister(worker).await.unwrap();
    assert_eq!(waiting().await.reason, WaitReason::Handler);

    // Parked: by its handler while the work is to be done, and then by its receiver.
    let job = claim_work(&store, id).await;
    store.register(job.claim.owner, &served).await.unwrap();
    let wait = Duration::from_hours(1);
    let park = || Settlement::Park { wait };
    store.settle(job.claim, None, park()).await.unwrap();
    let parked = waiting().await;
    assert_eq!(parked.reason, WaitReason::Handler);
    assert!(!parked.detail.contains("receiver"), "{parked:?}");
    assert!(parked.until.is_some());
    database.make_due(id).await;
    let job = claim_work(&store, id).await;
    let stored = store.store_worked(job.claim, Ok(result(RESULT)), None);
    stored.await.unwrap();
    store.settle(job.claim, None, park()).await.unwrap();
    assert_eq!(waiting().await.reason, WaitReason::Receiver);
}

async fn what_each_handler_has_to_do_is_counted(database: TestDatabase) {
    let store = database.open().await;
    assert_eq!(store.handlers_load().await.unwrap().len(), 0);
    accept(&store).await;
    let worker = new_worker(&store).await;
    let served = [handler("pdf"), handler("idle")];
    store.register(worker, &served).await.unwrap();
    let ids = [
        accept_of(&store, "pdf").await,
        accept_of(&store, "pdf").await,
        accept_of(&store, "pdf").await,
    ];
    accept_of(&store, "orphan").await;
    let load = async |name: &str| store.handlers_load().await.unwrap()[&handler(name)];
    let counted = |waiting, due, running, workers| HandlerLoad {
        waiting,
        due,
        running,
        workers,
        breakers: Breakers::default(),
    };
    assert_eq!(load("pdf").await, counted(3, 3, 0, 1));
    assert_eq!(load("idle").await, counted(0, 0, 0, 1));
    assert_eq!(load("orphan").await, counted(1, 1, 0, 0));
    assert_eq!(store.handlers_load().await.unwrap().len(), 3);

    let retried = claim_work(&store, ids[0]).await;
    let later = retry(worked(1, AttemptClass::Status), Duration::from_hours(1));
    store.settle(retried.claim, None, later).await.unwrap();
    let running = claim_work(&store, ids[1]).await;
    assert_eq!(load("pdf").await, counted(2, 1, 1, 1));
    // A job whose work is done is no longer its handler's.
    let stored = store.store_worked(running.claim, Ok(result(RESULT)), None);
    stored.await.unwrap();
    assert_eq!(load("pdf").await, counted(2, 1, 0, 1));
}

/// Else each retry of one handler would wake the searches of all others.
async fn a_search_for_work_tells_when_the_next_job_of_that_handler_is_due(database: TestDatabase) {
    let store = database.open().await;
    for (name, minutes) in [("pdf", 600), ("pdf", 300), ("zip", 60)] {
        let id = accept_of(&store, name).await;
        let job = claim_work_of(&store, name, id).await;
        let wait = Duration::from_mins(minutes);
        let later = retry(worked(1, AttemptClass::Status), wait);
        store.settle(job.claim, None, later).await.unwrap();
    }
    let due_one = accept_of(&store, "pdf").await;
    for (name, due, minutes) in [("pdf", vec![due_one], 300), ("zip", vec![], 60)] {
        let searched = store.due_jobs(capacity_of(name, 100)).await.unwrap();
        let found: Vec<_> = searched.due.iter().map(|it| it.id).collect();
        assert_eq!(found, due);
        let apart = searched
            .next_due
            .unwrap()
            .abs_diff(Duration::from_mins(minutes));
        assert!(apart < Duration::from_mins(30), "{name}: {apart:?} apart");
    }
    let of_none = store.due_jobs(capacity_of("ocr", 100)).await.unwrap();
    assert_eq!(of_none.next_due, None);
}
