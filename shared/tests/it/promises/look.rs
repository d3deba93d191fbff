//! Looking for work: which jobs are due, scheduled or parked.

use std::time::Duration;

use storm_shared::{
    models::{CallbackUrl, ClientName, Destination, RequestId, Status},
    services::store::{NewJob, Outcome, Settlement, Store},
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, claim_due, claim_one, claimed, due_ids, due_jobs, expire_lease, finished,
        next_millisecond, redeliver, result_of, retry, row, spec, timeout,
    },
};

on_every_engine! {
    due_jobs_are_read_oldest_first_and_only_after_the_notification_grace,
    a_job_whose_due_time_was_edited_is_due,
    only_async_rows_are_due_and_claimable,
    a_parked_job_is_due_at_once_when_its_receiver_recovers,
    a_parked_job_is_released_with_its_own_tenants_jobs_only,
    a_destination_is_over_limit_once_its_backlog_reaches_the_limit,
    a_backlog_over_the_limit_is_its_own_tenants_only,
    a_job_whose_tenant_was_edited_is_claimed_and_over_no_limit,
    the_oldest_due_age_is_that_of_the_job_which_has_been_due_longest,
}

const HOOK: &str = "http://example.com/hook";

fn destination(tenant: Option<&str>, url: &str) -> Destination {
    Destination {
        tenant: tenant.map(|name| name.parse().unwrap()),
        origin: CallbackUrl::parse(url).unwrap().origin().clone(),
    }
}

/// A job of `tenant` that is parked for long.
async fn parked(store: &Store, tenant: Option<&str>) -> RequestId {
    let id = RequestId::generate();
    let job = NewJob {
        created_by: tenant.map(|name| name.parse().unwrap()),
        ..NewJob::new(id, spec(), Some(CallbackUrl::parse(HOOK).unwrap()))
    };
    store.accept(job).await.unwrap();
    let job = claim_one(store, id).await.unwrap();
    assert_eq!(job.created_by.as_ref().map(ClientName::as_str), tenant);
    let report = result_of(&job);
    let wait = Duration::from_secs(50);
    let park = Settlement::Park { wait };
    store
        .settle(job.claim, Some(report.clone()), park)
        .await
        .unwrap();
    id
}

async fn due_jobs_are_read_oldest_first_and_only_after_the_notification_grace(
    database: TestDatabase,
) {
    let store = database.open().await;
    let mut accepted = Vec::new();
    for _ in 0..5 {
        accepted.push(accept(&store).await);
    }
    claim_one(&store, accepted[0]).await.unwrap();
    next_millisecond().await;
    assert_eq!(due_ids(&store, 3).await, accepted[1..4]);
    // The table leaves a new job to its notification, which claims it whenever it comes.
    let notified = RequestId::generate();
    let job = NewJob {
        notification_grace: Duration::from_hours(1),
        ..NewJob::new(notified, spec(), None)
    };
    store.accept(job).await.unwrap();
    let backlog = due_jobs(&store, 9).await;
    assert_eq!(backlog.due.len(), 4);
    assert_eq!(backlog.next_due, None);
    assert!(claim_one(&store, notified).await.is_some());
}

async fn a_job_whose_due_time_was_edited_is_due(database: TestDatabase) {
    let store = database.open().await;
    let new = accept(&store).await;
    let waits = claimed(&store).await;
    let retry = retry(timeout(1), Duration::from_hours(24));
    store.settle(waits.claim, None, retry).await.unwrap();
    assert_eq!(due_ids(&store, 9).await, [new]);
    for breakage in database.invalid_due_times() {
        for id in [waits.claim.id, new] {
            database.edit(id, breakage).await;
        }
        assert_eq!(due_ids(&store, 9).await.len(), 2, "{breakage}");
    }
    assert_eq!(claim_due(&store).await.len(), 2);
}

async fn only_async_rows_are_due_and_claimable(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    database.edit(id, "mode = 'sync'").await;
    next_millisecond().await;
    assert_eq!(due_jobs(&store, 9).await.due, []);
    assert!(claim_one(&store, id).await.is_none());
}

async fn a_parked_job_is_due_at_once_when_its_receiver_recovers(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let report = result_of(&job);
    let wait = Duration::from_secs(50);
    let park = Settlement::Park { wait };
    store
        .settle(job.claim, Some(report.clone()), park)
        .await
        .unwrap();
    let parked = row(&store, job.claim.id).await;
    assert_eq!((parked.status, parked.parks), (Status::Pending, 1));
    assert!(parked.attempts.is_empty() && parked.events.is_empty());
    assert!(parked.parked_since.is_some() && parked.result_payload.is_some());
    assert_eq!(due_jobs(&store, 9).await.due, []);

    let unpark = async |origin: &str| store.unpark(destination(None, origin), 9).await.unwrap();
    assert_eq!(unpark("http://example.org").await, 0);
    assert_eq!(unpark("http://example.com").await, 1);
    assert_eq!(unpark("http://example.com").await, 0, "it is due already");
    let again = claim_due(&store).await.pop().unwrap();
    assert!(
        again.parked_for > Duration::ZERO,
        "it keeps when it was parked"
    );
    assert_eq!(again.attempts, 0);
}

async fn a_parked_job_is_released_with_its_own_tenants_jobs_only(database: TestDatabase) {
    let store = database.open().await;
    let none = parked(&store, None).await;
    let [a, b] = [
        parked(&store, Some("a")).await,
        parked(&store, Some("b")).await,
    ];
    let unpark = async |tenant| store.unpark(destination(tenant, HOOK), 9).await.unwrap();
    assert_eq!(unpark(Some("other")).await, 0);
    for (tenant, id) in [(Some("a"), a), (None, none), (Some("b"), b)] {
        assert_eq!(unpark(tenant).await, 1);
        assert_eq!(due_ids(&store, 9).await, [id]);
        assert!(claim_due(&store).await.len() == 1 && unpark(tenant).await == 0);
    }
}

async fn a_destination_is_over_limit_once_its_backlog_reaches_the_limit(database: TestDatabase) {
    let store = database.open().await;
    for backlog in 0..3 {
        let over_limit = store.destinations_over_limit(2).await.unwrap();
        assert_eq!(
            over_limit.len(),
            usize::from(backlog >= 2),
            "{over_limit:?}"
        );
        parked(&store, None).await;
    }
    let over_limit = store.destinations_over_limit(3).await.unwrap();
    assert_eq!(over_limit, [destination(None, HOOK)]);
}

async fn a_backlog_over_the_limit_is_its_own_tenants_only(database: TestDatabase) {
    let store = database.open().await;
    for tenant in [Some("a"), Some("a"), Some("a"), Some("b"), None] {
        parked(&store, tenant).await;
    }
    let over_limit = async |most| store.destinations_over_limit(most).await.unwrap();
    assert_eq!(over_limit(4).await, [], "five jobs, but of no one tenant");
    assert_eq!(over_limit(2).await, [destination(Some("a"), HOOK)]);
    assert_eq!(over_limit(1).await.len(), 3);
}

async fn a_job_whose_tenant_was_edited_is_claimed_and_over_no_limit(database: TestDatabase) {
    let store = database.open().await;
    let id = parked(&store, Some("a")).await;
    for name in database.odd_client_names() {
        let edit = format!("created_by = {name}");
        database.edit(id, &edit).await;
        assert_eq!(
            store.destinations_over_limit(1).await.unwrap(),
            [],
            "{edit}"
        );
    }
    database.make_due(id).await;
    let claimed = claim_due(&store).await;
    assert_eq!((claimed.len(), &claimed[0].created_by), (1, &None));
}

async fn the_oldest_due_age_is_that_of_the_job_which_has_been_due_longest(database: TestDatabase) {
    let store = database.open().await;
    let longest = async || {
        let age = store.oldest_due_age().await.unwrap();
        let stats = store.stats().await.unwrap().requests.oldest_due_ms;
        assert_eq!(stats.is_some(), age.is_some());
        assert!(age.unwrap_or_default().as_millis() <= stats.unwrap_or(0).into());
        age.map_or(0, |age| age.as_secs())
    };
    assert_eq!(longest().await, 0, "an empty table");
    // Parked, running and scheduled jobs are not due, since whenever they are there.
    parked(&store, Some("a")).await;
    let running = claimed(&store).await;
    let scheduled = claimed(&store).await;
    let retry = retry(timeout(1), Duration::from_hours(1));
    store.settle(scheduled.claim, None, retry).await.unwrap();
    assert_eq!(longest().await, 0);

    let make_due_since = async |id, seconds| {
        let time = Duration::from_secs(seconds);
        database.make_due_earlier(id, time).await;
    };
    for (tenant, seconds) in [(Some("b"), 200), (None, 100), (Some("a"), 300)] {
        let id = RequestId::generate();
        let mut job = NewJob::new(id, spec(), None);
        job.created_by = tenant.map(|name| name.parse().unwrap());
        store.accept(job).await.unwrap();
        make_due_since(id, seconds).await;
    }
    assert!((300..400).contains(&longest().await), "{}", longest().await);

    // An older schema did not know since when.
    let unknown = RequestId::generate();
    let mut job = NewJob::new(unknown, spec(), None);
    job.created_by = Some("c".parse().unwrap());
    store.accept(job).await.unwrap();
    database.make_due(unknown).await;
    assert!((300..400).contains(&longest().await));

    // A suspected poison job waits in a loop of its own.
    expire_lease(&store, running.claim.owner).await;
    make_due_since(running.claim.id, 900).await;
    assert!(
        (900..1000).contains(&longest().await),
        "{}",
        longest().await
    );
    assert_eq!(claim_due(&store).await.len(), 5);
    assert_eq!(longest().await, 0, "all of them run");

    // A redelivery is due at once.
    let again = finished(&store, Outcome::Completed).await;
    assert_eq!(store.oldest_due_age().await.unwrap(), None);
    redeliver(&store, again).await.unwrap();
    assert!(store.oldest_due_age().await.unwrap().is_some());
    longest().await;
}
