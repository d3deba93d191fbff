//! Pauses: what operators hold back, and what they have done.

use std::{collections::HashSet, time::Duration};

use storm_shared::{
    models::{CallbackUrl, ClientName, Destination, Origin, RequestId, Status, WaitReason},
    services::store::{
        Candidate, DueJobs, Ended, Job, MAX_PAUSED_ORIGINS, NewJob, Outcome, Paused, Pauses,
        Settlement, Store, TooManyPauses, Unparked,
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, claim_due, claim_new, claim_one, claimed, delivered, due_ids, due_jobs,
        expire_lease, finished, new_worker, redeliver, result_of, row, spec, status,
    },
};

on_every_engine! {
    while_everything_is_paused_no_claim_succeeds_and_none_is_looked_for,
    a_claim_that_was_won_before_the_pause_is_still_found_by_its_repeat,
    what_runs_goes_on_to_its_settlement_and_jobs_are_accepted,
    a_pause_is_seen_by_every_process_and_survives_a_restart,
    a_repeat_succeeds_and_says_that_it_changed_nothing,
    to_resume_everything_leaves_origins_paused,
    the_number_of_paused_origins_is_bounded,
    parked_jobs_of_an_origin_are_released_for_all_tenants_and_of_no_other_origin,
    a_release_goes_on_where_it_was_and_ends_when_the_origin_is_paused_again,
    a_release_leaves_alone_what_a_circuit_breaker_has_parked,
    a_pause_gives_the_whole_time_for_parking_again_however_late_its_jobs_are_claimed,
    a_pause_of_everything_takes_nothing_of_the_time_for_parking,
    an_unfinished_job_says_what_is_paused,
    each_pause_and_resumption_is_recorded_newest_first,
}

/// Longer than any test takes.
const AN_HOUR: Duration = Duration::from_hours(1);

fn origin(text: &str) -> Origin {
    CallbackUrl::parse(text).unwrap().origin().clone()
}

/// That of the jobs of `accept`.
fn example() -> Paused {
    Paused::Origin(origin("http://example.com"))
}

fn operator() -> ClientName {
    "ops".parse().unwrap()
}

async fn pause(store: &Store, what: Paused) -> bool {
    store.pause(what, operator()).await.unwrap().unwrap()
}

async fn resume(store: &Store, what: Paused) -> bool {
    store.resume(what, operator()).await.unwrap()
}

/// What a worker's heartbeat finds.
async fn seen(store: &Store) -> Pauses {
    let worker = new_worker(store).await;
    let seen = store.renew(worker, Ended::default()).await.unwrap().paused;
    store.deregister(worker).await.unwrap();
    seen
}

async fn accept_for(store: &Store, url: &str, tenant: Option<&str>) -> RequestId {
    let id = RequestId::generate();
    let job = NewJob {
        created_by: tenant.map(|name| name.parse().unwrap()),
        ..NewJob::new(id, spec(), Some(CallbackUrl::parse(url).unwrap()))
    };
    store.accept(job).await.unwrap();
    id
}

async fn park(store: &Store, job: &Job, wait: Duration) {
    let report = result_of(job);
    let parked = store.settle(job.claim, Some(report.clone()), Settlement::Park { wait });
    parked.await.unwrap();
}

async fn park_paused(store: &Store, job: &Job, wait: Duration) {
    let report = result_of(job);
    let parked = store.settle(
        job.claim,
        Some(report.clone()),
        Settlement::ParkPaused { wait },
    );
    parked.await.unwrap();
}

/// Releases what a pause of `origin` has parked, two jobs at a time. Returns how many.
async fn release(store: &Store, origin: &Origin) -> usize {
    let (mut released, mut after) = (0, None);
    loop {
        let unparked = store.unpark_origin(origin.clone(), after, 2).await.unwrap();
        released += unparked.jobs;
        after = unparked.next;
        if after.is_none() {
            return released;
        }
    }
}

async fn while_everything_is_paused_no_claim_succeeds_and_none_is_looked_for(
    database: TestDatabase,
) {
    let store = database.open().await;
    let again = finished(&store, Outcome::Completed).await;
    redeliver(&store, again).await.unwrap();
    let suspect = claimed(&store).await;
    expire_lease(&store, suspect.claim.owner).await;
    let new = accept(&store).await;
    let mut candidates = due_jobs(&store, 9).await.due;
    candidates.extend(store.suspects(&[], 9).await.unwrap());
    assert_eq!(candidates.len(), 3);

    assert!(pause(&store, Paused::Everything).await);
    assert_eq!(due_jobs(&store, 9).await, DueJobs::default());
    assert_eq!(store.suspects(&[], 9).await.unwrap(), []);
    // A worker may have looked, or was notified, before it.
    let worker = new_worker(&store).await;
    for _ in 0..2 {
        let claimed = store.claim(worker, candidates.clone(), usize::MAX).await;
        let claimed = claimed.unwrap();
        assert!(claimed.jobs.is_empty() && claimed.is_paused);
        let claimed = store.claim_again(worker, candidates.clone(), usize::MAX);
        let claimed = claimed.await.unwrap();
        assert!(claimed.jobs.is_empty() && claimed.is_paused);
    }
    assert!(claim_one(&store, new).await.is_none());

    assert!(resume(&store, Paused::Everything).await);
    let claimed = store.claim(worker, candidates, usize::MAX).await.unwrap();
    assert_eq!(claimed.jobs.len(), 3, "nothing was lost");
    assert!(!claimed.is_paused);
}

async fn a_claim_that_was_won_before_the_pause_is_still_found_by_its_repeat(
    database: TestDatabase,
) {
    let store = database.open().await;
    let (won, other) = (accept(&store).await, accept(&store).await);
    let worker = new_worker(&store).await;
    assert_eq!(claim_new(&store, worker, &[won]).await.len(), 1);
    pause(&store, Paused::Everything).await;
    let both = [won, other].map(Candidate::notified).to_vec();
    let claimed = store.claim_again(worker, both, usize::MAX).await.unwrap();
    let claimed: Vec<_> = claimed
        .jobs
        .into_iter()
        .map(|job| job.unwrap().claim.id)
        .collect();
    assert_eq!(claimed, [won]);
}

async fn what_runs_goes_on_to_its_settlement_and_jobs_are_accepted(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    pause(&store, Paused::Everything).await;
    let report = result_of(&job);
    store
        .store_worked(job.claim, Ok(report.clone()), None)
        .await
        .unwrap();
    store
        .settle(job.claim, Some(report.clone()), delivered())
        .await
        .unwrap();
    assert_eq!(status(&store, job.claim.id).await, Status::Completed);
    let id = accept(&store).await;
    assert_eq!(status(&store, id).await, Status::Pending);
    // A dead worker's jobs are reclaimed, and wait.
    resume(&store, Paused::Everything).await;
    let held = claim_one(&store, id).await.unwrap();
    pause(&store, Paused::Everything).await;
    assert_eq!(expire_lease(&store, held.claim.owner).await.reclaimed, 1);
}

async fn a_pause_is_seen_by_every_process_and_survives_a_restart(database: TestDatabase) {
    let (store, other) = (database.open().await, database.open().await);
    assert_eq!(seen(&other).await, Pauses::default());
    pause(&store, Paused::Everything).await;
    pause(&store, example()).await;
    let expected: Pauses = [Paused::Everything, example()].into_iter().collect();
    assert_eq!(seen(&other).await, expected);
    store.close().await;
    other.close().await;
    let store = database.open().await;
    assert_eq!(seen(&store).await, expected);
    let pauses = store.pauses().await.unwrap();
    let what: Vec<_> = pauses.iter().map(|pause| pause.what.clone()).collect();
    assert_eq!(what, [Paused::Everything, example()]);
    assert!(pauses.iter().all(|pause| pause.operator == "ops"));
    assert!(pauses[0].since.ends_with('Z'), "{pauses:?}");
}

async fn a_repeat_succeeds_and_says_that_it_changed_nothing(database: TestDatabase) {
    let store = database.open().await;
    for what in [Paused::Everything, example()] {
        assert!(!resume(&store, what.clone()).await);
        assert!(pause(&store, what.clone()).await);
        let before = store.pauses().await.unwrap();
        assert!(!pause(&store, what.clone()).await);
        assert_eq!(store.pauses().await.unwrap(), before);
        assert!(resume(&store, what.clone()).await);
        assert!(!resume(&store, what).await);
        assert_eq!(store.pauses().await.unwrap(), []);
    }
}

async fn to_resume_everything_leaves_origins_paused(database: TestDatabase) {
    let store = database.open().await;
    pause(&store, example()).await;
    pause(&store, Paused::Everything).await;
    resume(&store, Paused::Everything).await;
    assert_eq!(seen(&store).await, [example()].into_iter().collect());
}

async fn the_number_of_paused_origins_is_bounded(database: TestDatabase) {
    let store = database.open().await;
    let nth = |n: usize| Paused::Origin(origin(&format!("http://r{n}.example")));
    for n in 0..MAX_PAUSED_ORIGINS {
        assert!(pause(&store, nth(n)).await);
    }
    let one_more = store.pause(nth(MAX_PAUSED_ORIGINS), operator()).await;
    assert_eq!(one_more.unwrap(), Err(TooManyPauses));
    assert!(!pause(&store, nth(0)).await, "a repeat is no other one");
    assert!(pause(&store, Paused::Everything).await);
    assert_eq!(seen(&store).await.origins.len(), MAX_PAUSED_ORIGINS);
    assert!(resume(&store, nth(0)).await);
    assert!(pause(&store, nth(MAX_PAUSED_ORIGINS)).await);
}

async fn parked_jobs_of_an_origin_are_released_for_all_tenants_and_of_no_other_origin(
    database: TestDatabase,
) {
    let store = database.open().await;
    let url = "https://paused.example:8443/a";
    let mut expected = HashSet::new();
    for tenant in [None, Some("one"), Some("other"), None, Some("one")] {
        expected.insert(accept_for(&store, url, tenant).await);
    }
    for job in claim_due(&store).await {
        park_paused(&store, &job, AN_HOUR).await;
    }
    let again = finished(&store, Outcome::Completed).await;
    redeliver(&store, again).await.unwrap();
    for other in ["https://paused.example/a", "http://paused.example:8443/a"] {
        accept_for(&store, other, None).await;
    }
    for job in claim_due(&store).await {
        park_paused(&store, &job, AN_HOUR).await;
    }
    assert_eq!(due_ids(&store, 9).await, []);
    let origin = origin(url);
    assert_eq!(release(&store, &origin).await, 5);
    assert_eq!(release(&store, &origin).await, 0);
    let due: HashSet<_> = due_ids(&store, 9).await.into_iter().collect();
    assert_eq!(due, expected);
    let example = self::origin("http://example.com");
    assert_eq!(release(&store, &example).await, 1, "the redelivery");
}

async fn a_release_goes_on_where_it_was_and_ends_when_the_origin_is_paused_again(
    database: TestDatabase,
) {
    let store = database.open().await;
    for tenant in [None, None, Some("one"), Some("one"), Some("other")] {
        accept_for(&store, "http://example.com/", tenant).await;
    }
    for job in claim_due(&store).await {
        park_paused(&store, &job, AN_HOUR).await;
    }
    let origin = origin("http://example.com");
    let unpark = |after| store.unpark_origin(origin.clone(), after, 2);
    let first = unpark(None).await.unwrap();
    assert_eq!(first.jobs, 2);
    // What was released is parked again: a pass comes to no job twice.
    for job in claim_due(&store).await {
        park_paused(&store, &job, AN_HOUR).await;
    }
    let second = unpark(first.next).await.unwrap();
    assert_eq!(second.jobs, 2);
    pause(&store, example()).await;
    let third = unpark(second.next.clone()).await.unwrap();
    assert_eq!(third, Unparked::default());
    assert_eq!(due_ids(&store, 9).await.len(), 2);
    resume(&store, example()).await;
    let third = unpark(second.next).await.unwrap();
    assert_eq!((third.jobs, third.next), (1, None));
}

async fn a_release_leaves_alone_what_a_circuit_breaker_has_parked(database: TestDatabase) {
    let store = database.open().await;
    let jobs = [claimed(&store).await, claimed(&store).await];
    park(&store, &jobs[0], AN_HOUR).await;
    park_paused(&store, &jobs[1], AN_HOUR).await;
    let origin = origin("http://example.com");
    assert_eq!(release(&store, &origin).await, 1);
    let again = claim_due(&store).await.pop().unwrap();
    assert_eq!(again.claim.id, jobs[1].claim.id);
    // Not even if a pause had parked it before.
    park(&store, &again, AN_HOUR).await;
    assert_eq!(release(&store, &origin).await, 0);
    let shown = row(&store, again.claim.id).await;
    assert!(shown.parked_since.is_some());
}

async fn a_pause_gives_the_whole_time_for_parking_again_however_late_its_jobs_are_claimed(
    database: TestDatabase,
) {
    let store = database.open().await;
    let job = claimed(&store).await;
    park(&store, &job, AN_HOUR).await;
    // As if it had been parked for an hour.
    database.park_earlier(AN_HOUR).await;
    let destination = Destination {
        tenant: None,
        origin: origin("http://example.com"),
    };
    // A breaker's recovery counts on.
    assert_eq!(store.unpark(destination.clone(), 9).await.unwrap(), 1);
    let mut job = claim_due(&store).await.pop().unwrap();
    assert!(job.parked_for >= AN_HOUR);
    // Due by itself, or released by whatever: it does not matter.
    park_paused(&store, &job, Duration::ZERO).await;
    database.make_due_earlier(job.claim.id, AN_HOUR).await;
    database.park_earlier(AN_HOUR).await;
    job = claim_due(&store).await.pop().unwrap();
    assert_eq!(job.parked_for, Duration::ZERO, "no worker ran for an hour");
    park_paused(&store, &job, AN_HOUR).await;
    assert_eq!(row(&store, job.claim.id).await.parked_since, None);
    assert_eq!(store.unpark(destination, 9).await.unwrap(), 1);
    job = claim_due(&store).await.pop().unwrap();
    assert_eq!(job.parked_for, Duration::ZERO);
    park_paused(&store, &job, AN_HOUR).await;
    assert_eq!(release(&store, &origin("http://example.com")).await, 1);
    job = claim_due(&store).await.pop().unwrap();
    assert!(job.parked_for < AN_HOUR, "{:?}", job.parked_for);
    // Parked by a breaker now, it counts from here on.
    park(&store, &job, Duration::ZERO).await;
    assert!(row(&store, job.claim.id).await.parked_since.is_some());
}

async fn a_pause_of_everything_takes_nothing_of_the_time_for_parking(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let again = finished(&store, Outcome::Completed).await;
    redeliver(&store, again).await.unwrap();
    let redelivery = claim_due(&store).await.pop().unwrap();
    for parked in [&job, &redelivery] {
        park(&store, parked, Duration::ZERO).await;
    }
    pause(&store, Paused::Everything).await;
    // As if the pause lasted for an hour.
    database.park_earlier(AN_HOUR).await;
    resume(&store, Paused::Everything).await;
    let jobs = claim_due(&store).await;
    assert_eq!(jobs.len(), 2);
    for parked in jobs {
        assert!(parked.parked_for < AN_HOUR / 2, "{:?}", parked.parked_for);
        assert!(row(&store, parked.claim.id).await.parked_since.is_some());
        park(&store, &parked, Duration::ZERO).await;
    }

    // It counts on from the resumption, also across further parks, another pause that has not
    // ended, and a resumption that had nothing to end.
    database.resume_earlier(AN_HOUR).await;
    assert!(!resume(&store, Paused::Everything).await);
    assert!(!resume(&store, example()).await);
    for parked in claim_due(&store).await {
        assert!(parked.parked_for >= AN_HOUR, "{:?}", parked.parked_for);
    }
}

async fn an_unfinished_job_says_what_is_paused(database: TestDatabase) {
    let store = database.open().await;
    let new = accept(&store).await;
    let (running, parked) = (claimed(&store).await, claimed(&store).await);
    park(&store, &parked, AN_HOUR).await;
    let again = finished(&store, Outcome::Completed).await;
    redeliver(&store, again).await.unwrap();
    let elsewhere = accept_for(&store, "http://other.example/", None).await;
    let waiting = async |id| row(&store, id).await.waiting_for.unwrap();
    let held = [new, parked.claim.id, again];
    for (what, word) in [
        (Paused::Everything, "the service"),
        (example(), "callbacks"),
    ] {
        pause(&store, what.clone()).await;
        for id in held {
            let waiting = waiting(id).await;
            assert_eq!(waiting.reason, WaitReason::Paused);
            assert!(waiting.detail.contains(word), "{}", waiting.detail);
            assert_eq!(waiting.until, None);
        }
        let is_everything = what == Paused::Everything;
        let reason = waiting(elsewhere).await.reason;
        assert_eq!(reason == WaitReason::Paused, is_everything);
        assert_ne!(waiting(running.claim.id).await.reason, WaitReason::Paused);
        resume(&store, what).await;
    }
    assert_eq!(waiting(new).await.reason, WaitReason::Capacity);
    assert_eq!(waiting(parked.claim.id).await.reason, WaitReason::Receiver);
    let done = finished(&store, Outcome::Completed).await;
    pause(&store, Paused::Everything).await;
    assert_eq!(row(&store, done).await.waiting_for, None);
}

async fn each_pause_and_resumption_is_recorded_newest_first(database: TestDatabase) {
    let store = database.open().await;
    pause(&store, Paused::Everything).await;
    pause(&store, example()).await;
    pause(&store, example()).await;
    resume(&store, Paused::Everything).await;
    let records = store.audit(None, 9).await.unwrap();
    let told: Vec<_> = records
        .iter()
        .map(|it| (it.action.as_str(), it.filter.get(), it.matched, it.changed))
        .collect();
    let (all, one) = (
        r#"{"everything":true}"#,
        r#"{"origin":"http://example.com"}"#,
    );
    assert_eq!(
        told,
        [
            ("resume", all, 1, 1),
            ("pause", one, 1, 0),
            ("pause", one, 1, 1),
            ("pause", all, 1, 1),
        ]
    );
    assert!(records.iter().all(|it| it.operator == "ops" && !it.dry_run));
    let older = store.audit(Some(records[1].number), 1).await.unwrap();
    assert_eq!(older[0].number, records[2].number);
}
