//! Fair shares: which due jobs a search finds, if there are more than a worker can take.

use std::{collections::HashMap, iter, time::Duration};

use storm_shared::{
    models::{CallbackUrl, ClientName, Records, ReportSpec, RequestId, Status},
    services::store::{
        Capacity, DueJobs, NewJob, Outcome, RedeliveryPage, Scope, Settlement, Store,
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        claim, claim_one, failed, finish, finished, new_worker, redeliver, result_of, retry, spec,
        success, timeout,
    },
};

on_every_engine! {
    due_jobs_are_shared_among_two_tenants_and_those_without_a_name,
    a_flood_of_one_tenant_delays_none_of_forty_nine_others,
    a_tenant_alone_gets_every_slot_in_the_order_of_its_jobs,
    the_tenant_whose_jobs_a_worker_holds_waits_for_the_others,
    more_tenants_than_one_search_looks_at_are_all_served,
    tenants_take_turns_also_when_one_slot_is_free_at_a_time,
    long_jobs_take_their_part_of_the_slots_and_block_no_short_ones,
    a_job_whose_result_is_stored_is_not_long_any_more,
    a_tenants_name_that_was_edited_into_any_bytes_blocks_no_search,
    redeliveries_stand_in_their_tenants_queue,
}

fn name(tenant: &str) -> Option<ClientName> {
    (!tenant.is_empty()).then(|| tenant.parse().unwrap())
}

/// Accepts a job of `tenant`; without a name if it is empty.
async fn accept(store: &Store, tenant: &str) -> RequestId {
    accept_with(store, tenant, spec()).await
}

async fn accept_with(store: &Store, tenant: &str, spec: ReportSpec) -> RequestId {
    let id = RequestId::generate();
    let callback = CallbackUrl::parse("http://example.com/hook").unwrap();
    let mut job = NewJob::new(id, spec, Some(callback));
    job.created_by = name(tenant);
    store.accept(job).await.unwrap();
    id
}

async fn accept_many(store: &Store, tenant: &str, count: usize) -> Vec<RequestId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(accept(store, tenant).await);
    }
    ids
}

/// A specification of `records` records: 10 ms each.
fn lasting(records: u64) -> ReportSpec {
    ReportSpec {
        records: Records::new(records, Records::MAX_ASYNC).unwrap(),
        ..spec()
    }
}

fn ids(found: &DueJobs) -> Vec<RequestId> {
    found.due.iter().map(|candidate| candidate.id).collect()
}

async fn search(store: &Store, jobs: usize) -> DueJobs {
    store.due_jobs(Capacity::of(jobs)).await.unwrap()
}

async fn due_jobs_are_shared_among_two_tenants_and_those_without_a_name(database: TestDatabase) {
    let store = database.open().await;
    let many = accept_many(&store, "many", 5).await;
    let nameless = accept_many(&store, "", 2).await;
    let few = accept_many(&store, "few", 1).await;
    let found = search(&store, 6).await;
    let mut expected = [&many[..3], &nameless, &few].concat();
    let mut all = ids(&found);
    all.sort();
    expected.sort();
    assert_eq!(all, expected);
    assert_eq!(found.waiting, [name("many")]);
    let all = search(&store, 9).await;
    assert_eq!((all.due.len(), all.waiting.len()), (8, 0));
}

async fn a_flood_of_one_tenant_delays_none_of_forty_nine_others(database: TestDatabase) {
    let store = database.open().await;
    let flood = accept_many(&store, "hostile", 200).await;
    let mut others = Vec::new();
    for tenant in 0..49 {
        others.push(accept(&store, &format!("tenant-{tenant}")).await);
    }
    let found = search(&store, 60).await;
    assert!(others.iter().all(|id| ids(&found).contains(id)));
    let of_flood = ids(&found).into_iter().filter(|id| flood.contains(id));
    assert!(of_flood.eq(flood[..11].iter().copied()), "its oldest jobs");
    assert_eq!(found.waiting, [name("hostile")]);
}

async fn a_tenant_alone_gets_every_slot_in_the_order_of_its_jobs(database: TestDatabase) {
    let store = database.open().await;
    for tenant in ["", "alone"] {
        let mut accepted = accept_many(&store, tenant, 30).await;
        let worker = new_worker(&store).await;
        while !accepted.is_empty() {
            let found = search(&store, 20).await;
            let rest = accepted.split_off(accepted.len().min(20));
            assert_eq!(ids(&found), accepted);
            assert_eq!(found.waiting.is_empty(), rest.is_empty());
            claim(&store, worker, found.due).await;
            accepted = rest;
        }
    }
}

async fn the_tenant_whose_jobs_a_worker_holds_waits_for_the_others(database: TestDatabase) {
    let store = database.open().await;
    let first = accept_many(&store, "a", 12).await;
    let second = accept_many(&store, "b", 12).await;
    let capacity = |a, b| Capacity {
        held: HashMap::from([(name("a"), a), (name("b"), b)]),
        ..Capacity::of(4)
    };
    // However many it holds: more than an equal share is read of the other one.
    let found = store.due_jobs(capacity(500, 0)).await.unwrap();
    assert_eq!(ids(&found), second[..4]);
    let found = store.due_jobs(capacity(3, 1)).await.unwrap();
    let of_a = ids(&found)
        .into_iter()
        .filter(|id| first.contains(id))
        .count();
    let of_b = ids(&found)
        .into_iter()
        .filter(|id| second.contains(id))
        .count();
    assert_eq!((of_a, of_b), (1, 3));
}

async fn more_tenants_than_one_search_looks_at_are_all_served(database: TestDatabase) {
    let store = database.open().await;
    let mut waiting = Vec::new();
    for tenant in 0..300 {
        waiting.extend(accept_many(&store, &format!("tenant-{tenant}"), 2).await);
    }
    let worker = new_worker(&store).await;
    // Every tenant's first job comes before any tenant's second.
    let mut served = HashMap::<_, u32>::new();
    while !waiting.is_empty() {
        let found = search(&store, 50).await;
        assert_eq!(found.due.len(), waiting.len().min(50));
        waiting.retain(|id| !ids(&found).contains(id));
        for job in claim(&store, worker, found.due).await {
            *served.entry(job.created_by).or_default() += 1;
        }
        let most = served.values().max().unwrap();
        assert!(*most == 1 || served.len() == 300, "{most} {}", served.len());
    }
}

async fn tenants_take_turns_also_when_one_slot_is_free_at_a_time(database: TestDatabase) {
    let store = database.open().await;
    for tenant in ["a", "b", "c"] {
        accept_many(&store, tenant, 3).await;
    }
    let worker = new_worker(&store).await;
    let mut turns = Vec::new();
    for _ in 0..9 {
        let found = search(&store, 1).await;
        let job = claim(&store, worker, found.due).await.pop().unwrap();
        turns.push(job.created_by.unwrap().as_str().to_owned());
    }
    let cycle: Vec<_> = iter::repeat_n(["a", "b", "c"], 3).flatten().collect();
    assert_eq!(turns, cycle);
}

async fn long_jobs_take_their_part_of_the_slots_and_block_no_short_ones(database: TestDatabase) {
    let store = database.open().await;
    let mut long = Vec::new();
    for _ in 0..4 {
        long.push(accept_with(&store, "", lasting(501)).await);
    }
    let short = accept_with(&store, "", lasting(500)).await;
    let capacity = |long_jobs| Capacity {
        long_jobs,
        ..Capacity::of(9)
    };
    let found = store.due_jobs(capacity(0)).await.unwrap();
    assert_eq!((ids(&found), found.waiting.len()), (vec![short], 0));
    assert!(found.long_jobs_wait);
    let found = store.due_jobs(capacity(2)).await.unwrap();
    assert_eq!(ids(&found), [long[0], long[1], short]);
    assert!(found.long_jobs_wait && found.waiting.is_empty());
    let found = store.due_jobs(capacity(4)).await.unwrap();
    assert!(found.due.len() == 5 && !found.long_jobs_wait);
    let worker = new_worker(&store).await;
    assert_eq!(claim(&store, worker, found.due).await.len(), 5);
    let found = store.due_jobs(capacity(0)).await.unwrap();
    assert!(found.due.is_empty() && !found.long_jobs_wait);
}

async fn a_job_whose_result_is_stored_is_not_long_any_more(database: TestDatabase) {
    let store = database.open().await;
    let id = accept_with(&store, "", lasting(1000)).await;
    let job = claim_one(&store, id).await.unwrap();
    let short_only = || Capacity {
        long_jobs: 0,
        ..Capacity::of(9)
    };
    assert_eq!(store.deregister(job.claim.owner).await.unwrap(), 1);
    let found = store.due_jobs(short_only()).await.unwrap();
    assert_eq!(found.due, [], "its work is to be done again");
    let due = search(&store, 9).await.due;
    let job = claim(&store, new_worker(&store).await, due)
        .await
        .pop()
        .unwrap();
    let report = result_of(&job);
    store
        .store_worked(job.claim, Ok(report.clone()), None)
        .await
        .unwrap();
    let park = Settlement::Park {
        wait: Duration::ZERO,
    };
    store
        .settle(job.claim, Some(report.clone()), park)
        .await
        .unwrap();
    let found = store.due_jobs(short_only()).await.unwrap();
    assert_eq!(ids(&found), [id]);

    // Also if it is stored together with the outcome.
    let id = accept_with(&store, "", lasting(1000)).await;
    let job = claim_one(&store, id).await.unwrap();
    let failed = retry(timeout(1), Duration::ZERO);
    store
        .settle(job.claim, Some(report.clone()), failed)
        .await
        .unwrap();
    let found = store.due_jobs(short_only()).await.unwrap();
    assert_eq!(found.due.len(), 2);
}

async fn a_tenants_name_that_was_edited_into_any_bytes_blocks_no_search(database: TestDatabase) {
    let store = database.open().await;
    let named = accept(&store, "z").await;
    for (nth, name) in database.odd_client_names().iter().enumerate() {
        let due = accept(&store, "edited").await;
        database.edit(due, &format!("created_by = {name}")).await;
        let waits = claim_one(&store, accept(&store, "edited").await)
            .await
            .unwrap();
        let later = retry(timeout(1), Duration::from_hours(1));
        store.settle(waits.claim, None, later).await.unwrap();
        database
            .edit(waits.claim.id, &format!("created_by = {name}"))
            .await;
        let ended = finished(&store, failed("It answered 500.")).await;
        database.edit(ended, &format!("created_by = {name}")).await;

        let found = search(&store, 99).await;
        assert_eq!(found.due.len(), 2 + nth, "{name}");
        assert!(ids(&found).contains(&due) && ids(&found).contains(&named));
        let page = RedeliveryPage {
            status: Status::Failed,
            since: None,
            after: None,
            limit: 99,
        };
        let page = store.redeliverable(Scope::All, page).await.unwrap();
        assert!(page.requests.iter().any(|(id, _)| *id == ended), "{name}");
    }
}

async fn redeliveries_stand_in_their_tenants_queue(database: TestDatabase) {
    let store = database.open().await;
    let ended = finished(&store, failed("It answered 500.")).await;
    redeliver(&store, ended).await.unwrap();
    let named = accept(&store, "named").await;
    let job = claim_one(&store, named).await.unwrap();
    finish(&store, &job, success(), Outcome::Completed).await;
    let nameless = accept_many(&store, "", 2).await;
    redeliver(&store, named).await.unwrap();
    let found = search(&store, 3).await;
    let mut all = ids(&found);
    all.sort();
    let mut expected = vec![ended, named, nameless[0]];
    expected.sort();
    assert_eq!(all, expected);
}
