//! Erasing: what is removed of a finished request, and what stays.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use storm_shared::{
    config::StoreSettings,
    models::{CallbackUrl, FailureReason, IdempotencyKey, ReportSpec, RequestId, Status},
    services::{
        report,
        store::{
            Acceptance, Cancelled, CancelledWork, Job, ListPage, NewJob, Outcome, RedeliveryPage,
            RequestFilter, Scope, Settlement, Store, Unerasable, Unredeliverable,
        },
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, claim_due, claim_one, claimed, delivered, failed, finish, finished, new_worker,
        redeliver, result_of, retry, row, spec_of, timeout,
    },
};

on_every_engine! {
    what_a_request_was_about_is_removed_and_its_outcome_stays,
    a_sync_request_can_be_erased,
    what_is_unfinished_or_redelivered_is_refused_until_it_is_cancelled,
    a_repeat_gives_the_same_answer_and_changes_nothing,
    another_tenants_request_looks_like_none,
    an_erased_request_is_never_redelivered,
    of_an_erasure_and_a_redelivery_at_once_one_is_refused,
    a_cancelled_job_that_is_erased_is_still_cancelled,
    the_key_of_an_erased_request_is_refused_until_its_window_is_over,
    no_repeat_of_an_earlier_write_fails_or_brings_anything_back,
    an_erased_request_is_listed_and_deleted_after_its_retention,
}

/// In every text that a client sends or a receiver answers.
const SECRET: &str = "jane-doe";

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn secret_spec() -> ReportSpec {
    serde_json::from_value(json!({"records": 10, "report_name": SECRET})).unwrap()
}

fn secret_job(key: &str) -> NewJob {
    // Its normal form is another text.
    let url = format!("https://{SECRET}.example:443/hook?{SECRET}");
    let trace = format!("00-{TRACE}-00f067aa0ba902b7-01");
    NewJob {
        traceparent: Some(trace.parse().unwrap()),
        idempotency_key: Some(IdempotencyKey::try_from(key.as_bytes()).unwrap()),
        ..NewJob::new(
            RequestId::generate(),
            secret_spec(),
            Some(CallbackUrl::parse(&url).unwrap()),
        )
    }
}

/// Makes two attempts, both of which fail.
async fn fail(store: &Store, job: &Job) {
    let attempt = |number| {
        let mut attempt = timeout(number);
        attempt.error = Some(format!("{SECRET} refused"));
        attempt.internal_detail = Some(format!("connect to {SECRET}: refused"));
        attempt
    };
    let report = result_of(job);
    let first = retry(attempt(1), Duration::ZERO);
    let settled = store.settle(job.claim, Some(report.clone()), first);
    settled.await.unwrap();
    let again = claim_due(store).await.pop().unwrap();
    store.record_resend(again.claim, 1).await.unwrap();
    let outcome = failed(&format!("{SECRET} did not answer."));
    finish(store, &again, attempt(2), outcome).await;
}

async fn erase(store: &Store, id: RequestId) -> String {
    let erased = store.erase(Scope::All, id).await.unwrap();
    erased.unwrap().at
}

/// The request as its client sees it.
async fn shown(store: &Store, id: RequestId) -> Value {
    serde_json::to_value(row(store, id).await).unwrap()
}

async fn what_a_request_was_about_is_removed_and_its_outcome_stays(database: TestDatabase) {
    let store = database.open().await;
    let new = secret_job("a");
    let id = new.id;
    store.accept(new).await.unwrap();
    let job = claim_one(&store, id).await.unwrap();
    fail(&store, &job).await;
    let (before, checksum) = (
        shown(&store, id).await,
        report::expected(&spec_of(&job)).checksum,
    );
    for text in [SECRET, TRACE, &checksum] {
        assert_ne!(database.places_of(text).await, [""; 0], "{text}");
    }

    let at = erase(&store, id).await;
    for text in [SECRET, TRACE, &checksum] {
        assert_eq!(database.places_of(text).await, [""; 0], "{text}");
    }
    let after = shown(&store, id).await;
    assert_eq!(after["erased_at"], json!(at));
    assert_eq!(after["input_payload"], json!({"erased": true}));
    for field in ["result_payload", "callback_url"] {
        assert_eq!(after[field], Value::Null, "{field}");
    }
    for field in [
        "id",
        "mode",
        "status",
        "created_at",
        "completed_at",
        "claims",
    ] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(after["failure"]["reason"], before["failure"]["reason"]);
    for (list, field) in [
        ("attempts", "class"),
        ("attempts", "started_at"),
        ("events", "event"),
    ] {
        let of = |shown: &Value| -> Vec<Value> {
            let entries = shown[list].as_array().unwrap().iter();
            entries.map(|entry| entry[field].clone()).collect()
        };
        assert_eq!(of(&after), of(&before), "{field}");
    }
}

async fn a_sync_request_can_be_erased(database: TestDatabase) {
    let store = database.open().await;
    let (id, spec) = (RequestId::generate(), secret_spec());
    let made = report::expected(&spec);
    for _ in 0..2 {
        // A repeat after the erasure, too.
        let now = "2026-11-24T08:00:00Z".parse().unwrap();
        let recorded = store.record_sync(id, now, &spec, None, Ok(&made));
        recorded.await.unwrap();
        erase(&store, id).await;
        assert_eq!(database.places_of(SECRET).await, [""; 0]);
        assert_eq!(row(&store, id).await.status, Status::Completed);
    }
}

async fn what_is_unfinished_or_redelivered_is_refused_until_it_is_cancelled(
    database: TestDatabase,
) {
    let store = database.open().await;
    let (waits, runs) = (accept(&store).await, claimed(&store).await.claim.id);
    let parked = claimed(&store).await;
    let wait = Duration::from_hours(1);
    let park = store.settle(parked.claim, None, Settlement::Park { wait });
    park.await.unwrap();
    let again = finished(&store, Outcome::Completed).await;
    redeliver(&store, again).await.unwrap();
    let running = finished(&store, Outcome::Completed).await;
    redeliver(&store, running).await.unwrap();
    claim_due(&store).await;
    for (id, why) in [
        (waits, Unerasable::Unfinished),
        (runs, Unerasable::Unfinished),
        (parked.claim.id, Unerasable::Unfinished),
        (again, Unerasable::UnderWay),
        (running, Unerasable::UnderWay),
    ] {
        let before = database.tables().await;
        assert_eq!(store.erase(Scope::All, id).await.unwrap(), Err(why));
        assert_eq!(database.tables().await, before);
        store.cancel(Scope::All, id).await.unwrap().unwrap();
        erase(&store, id).await;
        assert_eq!(row(&store, id).await.callback_url, None);
    }
}

async fn a_repeat_gives_the_same_answer_and_changes_nothing(database: TestDatabase) {
    let store = database.open().await;
    for outcome in [Outcome::Completed, failed("It answered 500.")] {
        let id = finished(&store, outcome).await;
        let first = store.erase(Scope::All, id).await.unwrap().unwrap();
        let before = shown(&store, id).await;
        assert_eq!(before["status"], json!(first.status));
        for _ in 0..2 {
            let again = store.erase(Scope::All, id).await.unwrap();
            assert_eq!(again.as_ref(), Ok(&first));
            assert_eq!(shown(&store, id).await, before);
        }
    }
}

async fn another_tenants_request_looks_like_none(database: TestDatabase) {
    let store = database.open().await;
    let of = |name: &str| Scope::Of(name.parse().unwrap());
    let job = NewJob {
        created_by: Some("theirs".parse().unwrap()),
        ..secret_job("a")
    };
    let id = job.id;
    store.accept(job).await.unwrap();
    for _ in 0..2 {
        let refused = store.erase(of("mine"), id).await.unwrap();
        assert_eq!(refused, Err(Unerasable::Unknown));
        store.cancel(Scope::All, id).await.unwrap().unwrap();
    }
    assert!(row(&store, id).await.callback_url.is_some());
    store.erase(of("theirs"), id).await.unwrap().unwrap();
    assert_eq!(row(&store, id).await.callback_url, None);
    let unknown = store.erase(Scope::All, RequestId::generate()).await;
    assert_eq!(unknown.unwrap(), Err(Unerasable::Unknown));
}

async fn an_erased_request_is_never_redelivered(database: TestDatabase) {
    let store = database.open().await;
    for (outcome, status) in [
        (Outcome::Completed, Status::Completed),
        (failed("It answered 500."), Status::Failed),
    ] {
        let id = finished(&store, outcome).await;
        erase(&store, id).await;
        let before = shown(&store, id).await;
        assert_eq!(store.origin_of(Scope::All, id).await.unwrap(), Ok(None));
        assert_eq!(redeliver(&store, id).await, Err(Unredeliverable::Erased));
        assert_eq!(store.redeliver_all(Scope::All, vec![id]).await.unwrap(), 0);
        let page = RedeliveryPage {
            status,
            since: None,
            after: None,
            limit: 10,
        };
        let found = store.redeliverable(Scope::All, page).await.unwrap();
        assert_eq!(found.requests, []);
        assert_eq!(shown(&store, id).await, before);
    }
}

async fn of_an_erasure_and_a_redelivery_at_once_one_is_refused(database: TestDatabase) {
    let (store, other) = (database.open().await, database.open().await);
    for _ in 0..20 {
        let id = finished(&store, Outcome::Completed).await;
        let (erased, redelivered) =
            tokio::join!(store.erase(Scope::All, id), other.redeliver(Scope::All, id));
        match (erased.unwrap(), redelivered.unwrap()) {
            (Ok(_), Err(why)) => assert_eq!(why, Unredeliverable::Erased),
            (Err(why), Ok(())) => assert_eq!(why, Unerasable::UnderWay),
            both => panic!("{both:?}"),
        }
    }
}

async fn a_cancelled_job_that_is_erased_is_still_cancelled(database: TestDatabase) {
    let store = database.open().await;
    for id in [accept(&store).await, claimed(&store).await.claim.id] {
        let first = store.cancel(Scope::All, id).await.unwrap().unwrap();
        erase(&store, id).await;
        let again = store.cancel(Scope::All, id).await.unwrap().unwrap();
        let expected = Cancelled {
            is_new: false,
            ..first
        };
        assert_eq!(again, expected);
        assert_eq!(again.what, CancelledWork::Job);
        let failure = row(&store, id).await.failure.unwrap();
        assert_eq!(failure.reason, FailureReason::Cancelled);
    }
}

async fn the_key_of_an_erased_request_is_refused_until_its_window_is_over(database: TestDatabase) {
    for (window, is_over) in [(Duration::from_hours(1), false), (Duration::ZERO, true)] {
        let settings = StoreSettings {
            idempotency_window: window,
            ..database.settings()
        };
        let store = Store::open(&settings).await.unwrap();
        let first = secret_job(if is_over { "over" } else { "kept" });
        assert_eq!(
            store.accept(first.clone()).await.unwrap(),
            Acceptance::Stored
        );
        store.cancel(Scope::All, first.id).await.unwrap().unwrap();
        erase(&store, first.id).await;
        let again = NewJob {
            id: RequestId::generate(),
            ..first
        };
        let (seen, stored) = if is_over {
            (None, Acceptance::Stored)
        } else {
            (Some(Acceptance::Conflicting), Acceptance::Conflicting)
        };
        assert_eq!(store.accepted_before(&again).await.unwrap(), seen);
        assert_eq!(store.accept(again).await.unwrap(), stored);
    }
}

async fn no_repeat_of_an_earlier_write_fails_or_brings_anything_back(database: TestDatabase) {
    let store = database.open().await;
    let new = secret_job("a");
    store.accept(new.clone()).await.unwrap();
    let job = claim_one(&store, new.id).await.unwrap();
    let report = result_of(&job);
    let finish = || store.settle(job.claim, Some(report.clone()), delivered());
    finish().await.unwrap();
    erase(&store, new.id).await;
    let before = shown(&store, new.id).await;
    // Their callers may not have learned the outcome.
    assert_eq!(store.accept(new.clone()).await.unwrap(), Acceptance::Stored);
    finish().await.unwrap();
    store
        .store_worked(job.claim, Ok(report.clone()), None)
        .await
        .unwrap_err();
    let again = store
        .claim(new_worker(&store).await, vec![], usize::MAX)
        .await;
    assert!(again.unwrap().jobs.is_empty());
    assert_eq!(shown(&store, new.id).await, before);
    assert_eq!(database.places_of(SECRET).await, [""; 0]);

    let another = NewJob {
        created_at: Timestamp::UNIX_EPOCH,
        ..new
    };
    store.accept(another).await.unwrap_err();
}

async fn an_erased_request_is_listed_and_deleted_after_its_retention(database: TestDatabase) {
    let store = database.open().await;
    let id = finished(&store, Outcome::Completed).await;
    erase(&store, id).await;
    let page = ListPage {
        filter: RequestFilter::default(),
        before: None,
        limit: 10,
    };
    let listed = store.list(Scope::All, page).await.unwrap().requests;
    assert_eq!((listed[0].id, &listed[0].callback_url), (id, &None));
    let hour = Duration::from_hours(1);
    assert_eq!(store.sweep(hour, None).await.unwrap().deleted, 0);
    assert_eq!(store.sweep(Duration::ZERO, None).await.unwrap().deleted, 1);
    assert!(store.find(id).await.unwrap().is_none());
    assert_eq!(database.leftovers().await, 0);
}
