//! A store with a request in every state, before and after a move.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, value::RawValue};
use storm_shared::{
    models::{
        AttemptClass, CallbackUrl, Failure, FailureReason, IdempotencyKey, RequestId, Stage, Status,
    },
    services::{
        report,
        store::{
            Acceptance, AttemptRecord, Job, NewJob, Outcome, Paused, Scope, Settlement, Store,
            Work, WorkResult,
        },
    },
};

use super::{databases, migrate};
use crate::{
    database::{Due, Key, Row, Tables, TestDatabase},
    jobs::{
        accept, attempted, claim, claim_due, claim_new, claim_one, claimed, due_ids, due_jobs,
        expire_lease, failed, finish, finished, new_worker, redeliver, result_of, retry, row, spec,
        success, timeout, writes_nothing,
    },
};

const HOUR: Duration = Duration::from_hours(1);

/// What every engine has to keep byte for byte, and one of them can't store as text.
const PAYLOADS: [&str; 6] = [
    r#"{"nul":"a\u0000b","half":"\ud800","pair":"\ud83d\ude00"}"#,
    "{ \"b\" : 1 ,\n\t\"a\":1.000,\"a\":1e400 }",
    "\"\u{1f600} \u{7f} \u{2028} \\/ \\\"\"",
    "null",
    "-0.0",
    r#"{"stored_in":"bodies","bytes":5000}"#,
];

/// A store in a database, and what is in it.
pub(super) struct Everything {
    pub(super) all: Vec<RequestId>,
    /// What workers hold.
    pub(super) held: Vec<Job>,
    /// A submission with a key whose job is not over, and one whose job is.
    pub(super) keyed: [NewJob; 2],
}

/// A submission with a key.
pub(super) fn keyed(key: &str) -> NewJob {
    let callback = CallbackUrl::parse("http://example.com/hook").unwrap();
    NewJob {
        idempotency_key: Some(IdempotencyKey::try_from(key.as_bytes()).unwrap()),
        created_by: Some("billing".parse().unwrap()),
        ..NewJob::new(RequestId::generate(), spec(), Some(callback))
    }
}

async fn accept_payload(store: &Store, payload: &str) -> RequestId {
    let payload = RawValue::from_string(payload.to_owned()).unwrap();
    let callback = CallbackUrl::parse("HTTP://Example.com:80/hook?a=1").unwrap();
    let id = RequestId::generate();
    let job = NewJob::for_handler("pdf".parse().unwrap(), id, &payload, Some(callback));
    assert_eq!(store.accept(job).await.unwrap(), Acceptance::Stored);
    id
}

async fn settle(store: &Store, job: &Job, settlement: Settlement) {
    let settled = store.settle(job.claim, Some(result_of(job)), settlement);
    settled.await.unwrap();
}

/// Fills a store with a request in each state.
pub(super) async fn fill(store: &Store) -> Everything {
    let mut all = Vec::new();
    let mut held = Vec::new();

    // Jobs that nobody holds.
    all.push(accept(store).await);
    for wait in [Duration::ZERO, HOUR] {
        let job = claimed(store).await;
        let first = AttemptRecord {
            error: Some("could not connect\0".to_owned()),
            internal_detail: Some("10.0.0.1\0refused \u{1f600}".to_owned()),
            ..attempted(1, AttemptClass::Connect)
        };
        settle(store, &job, retry(first, wait)).await;
        all.push(job.claim.id);
    }
    for settlement in [
        Settlement::Park { wait: HOUR },
        Settlement::ParkPaused { wait: HOUR },
        Settlement::GiveBack,
    ] {
        let job = claimed(store).await;
        settle(store, &job, settlement).await;
        all.push(job.claim.id);
    }
    let suspect = claimed(store).await;
    expire_lease(store, suspect.claim.owner).await;
    all.push(suspect.claim.id);

    // Jobs that are over.
    all.push(finished(store, Outcome::Completed).await);
    all.push(finished(store, failed("It answered 500.\0")).await);
    let cancelled = accept(store).await;
    store.cancel(Scope::All, cancelled).await.unwrap().unwrap();
    let running = claimed(store).await;
    store
        .cancel(Scope::All, running.claim.id)
        .await
        .unwrap()
        .unwrap();
    let erased = finished(store, failed("It answered 500.")).await;
    store.erase(Scope::All, erased).await.unwrap().unwrap();
    all.extend([cancelled, running.claim.id, erased]);

    // Sync requests.
    let failure = Failure::new(FailureReason::InternalError, "a\0b");
    for ended in [Ok(report::expected(&spec())), Err(failure)] {
        let id = RequestId::generate();
        let spec = spec();
        let recorded = store.record_sync(id, Timestamp::now(), &spec, None, ended.as_ref());
        recorded.await.unwrap();
        all.push(id);
    }

    // Redeliveries.
    for wait in [None, Some(Duration::ZERO), Some(HOUR)] {
        let id = finished(store, failed("It answered 500.")).await;
        redeliver(store, id).await.unwrap();
        if let Some(wait) = wait {
            let job = claim_redelivery(store, id).await;
            let again = retry(attempted(2, AttemptClass::Status), wait);
            store.settle(job.claim, None, again).await.unwrap();
        }
        all.push(id);
    }

    all.extend(fill_with_handlers(store, &mut held).await);

    // Keys.
    let keyed = [keyed("open"), keyed("over")];
    for job in &keyed {
        store.accept(job.clone()).await.unwrap();
        all.push(job.id);
    }
    let job = claim_one(store, keyed[1].id).await.unwrap();
    finish(store, &job, success(), Outcome::Completed).await;

    // What workers hold: nothing done, a result stored, a callback sent twice, a redelivery.
    held.push(claimed(store).await);
    let stored = claimed(store).await;
    store
        .store_worked(stored.claim, Ok(result_of(&stored)), None)
        .await
        .unwrap();
    let resent = claimed(store).await;
    store.record_resend(resent.claim, 1).await.unwrap();
    let again = finished(store, Outcome::Completed).await;
    redeliver(store, again).await.unwrap();
    held.extend([stored, resent, claim_redelivery(store, again).await]);
    all.extend(held.iter().map(|job| job.claim.id));

    for what in [
        Paused::Origin(
            CallbackUrl::parse("http://slow.example/")
                .unwrap()
                .origin()
                .clone(),
        ),
        Paused::Everything,
    ] {
        store
            .pause(what, "ops".parse().unwrap())
            .await
            .unwrap()
            .unwrap();
    }
    let all: BTreeSet<_> = all.into_iter().collect();
    Everything {
        all: all.into_iter().collect(),
        held,
        keyed,
    }
}

/// Jobs of a handler, with payloads and results of every kind.
async fn fill_with_handlers(store: &Store, held: &mut Vec<Job>) -> Vec<RequestId> {
    let large = format!("{{\"large\":\"{}\\u0000\"}}", "x".repeat(300_000));
    let mut all = Vec::new();
    for payload in PAYLOADS.into_iter().chain([large.as_str()]) {
        let pending = accept_payload(store, payload).await;
        let job = claim_work(store, accept_payload(store, payload).await).await;
        let result = RawValue::from_string(payload.to_owned()).unwrap();
        let attempt = AttemptRecord {
            stage: Stage::Work,
            ..attempted(1, AttemptClass::Success)
        };
        let worked = Ok(WorkResult::from_json(result));
        store
            .store_worked(job.claim, worked, Some(attempt))
            .await
            .unwrap();
        if payload == "null" {
            held.push(job.clone());
        } else {
            let told = Settlement::Finish {
                attempt: Some(attempted(2, AttemptClass::Success)),
                outcome: Outcome::Completed,
            };
            store.settle(job.claim, None, told).await.unwrap();
        }
        all.extend([pending, job.claim.id]);
    }
    let job = claim_work(store, accept_payload(store, "{}").await).await;
    let failure = Failure::new(FailureReason::WorkFailed, "It answered 422.");
    store
        .store_worked(job.claim, Err(failure), None)
        .await
        .unwrap();
    store
        .settle(job.claim, None, retry(timeout(1), HOUR))
        .await
        .unwrap();
    all.push(job.claim.id);
    all
}

async fn claim_work(store: &Store, id: RequestId) -> Job {
    let owner = new_worker(store).await;
    let candidate = storm_shared::services::store::Candidate::notified(id);
    claim(store, owner, vec![candidate]).await.pop().unwrap()
}

async fn claim_redelivery(store: &Store, id: RequestId) -> Job {
    let owner = new_worker(store).await;
    let due = due_jobs(store, 100).await.due;
    let its = due
        .into_iter()
        .filter(|it| it.id == id && it.work == Work::Redelivery);
    claim(store, owner, its.collect()).await.pop().unwrap()
}

/// What a client sees of a request: its payload and its result, byte for byte, and the rest.
type Seen = (String, Option<String>, Value);

/// Each request as its client sees it.
async fn seen(store: &Store, all: &[RequestId]) -> BTreeMap<RequestId, Seen> {
    let mut seen = BTreeMap::new();
    for id in all {
        let mut row = row(store, *id).await;
        // Not all JSON is a value of serde_json's.
        let input = std::mem::take(&mut row.input_payload).get().to_owned();
        let result = row.result_payload.take().map(|it| it.get().to_owned());
        seen.insert(*id, (input, result, serde_json::to_value(row).unwrap()));
    }
    seen
}

/// Without the moments that are by a clock of the future: those of a database's own clock.
fn without_waits(mut shown: Value) -> Value {
    for field in ["next_attempt_at", "parked_since"] {
        let at = shown[field].take();
        shown[field] = Value::Bool(at.is_string());
    }
    // It names the time, and the workers that there are.
    shown["waiting_for"] = Value::Null;
    shown
}

/// The tables of both databases, with the same clock in both: no row is due earlier or later than
/// any other by more or less than it was.
fn same_clock(tables: &mut Tables) {
    let of = |row: &Row| match row.due {
        Some(Due::At(at)) => Some(at),
        _ => None,
    };
    let first = tables.rows.values().filter_map(of).min().unwrap_or(0);
    for row in tables.rows.values_mut() {
        row.due = of(row).map(|at| Due::At(at - first));
    }
}

/// Asserts that both databases have the same.
pub(super) async fn assert_same(from: &TestDatabase, to: &TestDatabase) {
    let (mut before, mut after) = (from.tables().await, to.tables().await);
    same_clock(&mut before);
    same_clock(&mut after);
    // Large bodies are elsewhere in one engine.
    for row in before.rows.values_mut().chain(after.rows.values_mut()) {
        let is_elsewhere = |text: &String| text.len() > 4096 || text.contains(r#""bytes":300018"#);
        row.result.take_if(|text| is_elsewhere(text));
    }
    // The texts that one engine can't store.
    for events in before.events.values_mut() {
        for (_, _, detail) in events {
            *detail = detail.take().map(|text| text.replace('\0', "\u{fffd}"));
        }
    }
    assert_eq!(before.rows.len(), after.rows.len());
    for (key, row) in &before.rows {
        assert_eq!(Some(row), after.rows.get(key), "{key:?}");
    }
    assert_eq!(before, after);
}

#[tokio::test]
async fn every_request_is_the_same_after_the_move_and_what_was_held_is_due() {
    let (from, to) = databases().await;
    let store = from.open().await;
    let everything = fill(&store).await;
    let before = seen(&store, &everything.all).await;
    let id = store.id().to_owned();
    store.close().await;

    let moved = migrate(&from, &to).await.unwrap();
    assert!(!moved.was_moved && moved.left_out == 0, "{moved:?}");
    let requests = everything.all.len() as u64;
    assert_eq!(moved.rows[0], ("requests", requests));
    assert!(moved.rows.iter().all(|(_, rows)| *rows > 0), "{moved:?}");
    assert_same(&from, &to).await;

    let store = to.open().await;
    assert_eq!(store.id(), id);
    let after = seen(&store, &everything.all).await;
    let held: BTreeSet<_> = everything.held.iter().map(|job| job.claim.id).collect();
    for (id, (input, result, before)) in before {
        let (new_input, new_result, shown) = &after[&id];
        assert_eq!((&input, &result), (new_input, new_result), "{id}");
        let near = |field: &str| {
            let at = |shown: &Value| {
                let at = shown[field].as_str();
                at.map(|at| at.parse::<Timestamp>().unwrap())
            };
            match (at(&before), at(shown)) {
                (Some(before), Some(after)) => {
                    before.duration_since(after).abs() < SignedDuration::from_mins(10)
                }
                (before, after) => before.is_none() && after.is_none(),
            }
        };
        if held.contains(&id) {
            assert_held(&before, shown);
            continue;
        }
        assert!(
            near("next_attempt_at") && near("parked_since"),
            "{before}\n{shown}"
        );
        // Texts of this service's can't keep U+0000.
        let text = |shown: Value| without_waits(shown).to_string();
        let before = text(before).replace("\\u0000", "\u{fffd}");
        assert_eq!(before, text(shown.clone()), "{id}");
    }
}

/// A job that was held is pending, has all that it had, and the event that it may have been called
/// back already.
fn assert_held(before: &Value, after: &Value) {
    for field in [
        "id",
        "mode",
        "callback_url",
        "created_at",
        "claims",
        "attempts",
        "traceparent",
        "lost_claims",
        "handler",
    ] {
        assert_eq!(before[field], after[field], "{field}: {after}");
    }
    let status = if before["redelivery"].is_null() {
        "status"
    } else {
        "redelivery"
    };
    assert_eq!(
        (&before[status], &after[status]),
        (&"PROCESSING".into(), &"PENDING".into())
    );
    let (earlier, events) = (
        before["events"].as_array().unwrap(),
        after["events"].as_array().unwrap(),
    );
    assert_eq!(&events[..earlier.len()], &earlier[..]);
    let last = &events[earlier.len()..];
    assert_eq!(last.len(), 1, "{after}");
    assert_eq!(
        (&last[0]["event"], &last[0]["claim"]),
        (&"claim_lost".into(), &before["claims"])
    );
}

#[tokio::test]
async fn bodies_are_the_same_bytes_after_the_move() {
    let (from, to) = databases().await;
    let store = from.open().await;
    let mut ids = Vec::new();
    for payload in PAYLOADS {
        ids.push((accept_payload(&store, payload).await, payload));
    }
    migrate(&from, &to).await.unwrap();
    let store = to.open().await;
    for (id, payload) in ids {
        assert_eq!(row(&store, id).await.input_payload.get(), payload);
        assert_eq!(to.text(id, "input_payload::text").await, payload);
        let job = claim_work(&store, id).await;
        assert_eq!(job.input, payload.as_bytes());
        assert_eq!(
            job.callback.unwrap().target(),
            "http://example.com/hook?a=1"
        );
    }
}

#[tokio::test]
async fn no_worker_of_before_writes_anywhere_under_its_claim_and_the_next_claims_follow() {
    let (from, to) = databases().await;
    let old = from.open().await;
    let everything = fill(&old).await;
    migrate(&from, &to).await.unwrap();
    let new = to.open().await;
    new.resume(Paused::Everything, "ops".parse().unwrap())
        .await
        .unwrap();
    for job in &everything.held {
        if row(&new, job.claim.id).await.handler == "pdf" {
            continue; // it has an attempt under this number, which a repeat is told of
        }
        writes_nothing(
            &new,
            job.claim,
            &WorkResult::from_json(RawValue::NULL.to_owned()),
        )
        .await;
        assert!(
            old.settle(job.claim, None, Settlement::GiveBack)
                .await
                .is_err()
        );
        assert!(old.record_resend(job.claim, 9).await.is_err());
    }
    let before = everything
        .held
        .iter()
        .map(|job| (job.claim.id, job.claim.number));
    let before: BTreeMap<_, _> = before.collect();
    let mut claimed_again = 0;
    for job in claim_due(&new).await {
        if let Some(number) = before.get(&job.claim.id) {
            assert_eq!(job.claim.number, number + 1);
            claimed_again += 1;
            // The first worker wakes up, and can do nothing to the second one's job.
            if row(&new, job.claim.id).await.handler == "pdf" {
                continue;
            }
            let lost = everything
                .held
                .iter()
                .find(|it| it.claim.id == job.claim.id)
                .unwrap();
            let result = WorkResult::from_json(RawValue::NULL.to_owned());
            writes_nothing(&new, lost.claim, &result).await;
        }
    }
    assert_eq!(claimed_again, everything.held.len());
}

#[tokio::test]
async fn a_moved_store_goes_on_with_its_waits_its_pauses_and_its_keys() {
    let (from, to) = databases().await;
    let old = from.open().await;
    let everything = fill(&old).await;
    let due_before: BTreeSet<_> = due_ids(&old, 1000).await.into_iter().collect();
    assert!(due_before.is_empty(), "everything is paused");
    let pauses = old.pauses().await.unwrap();
    let audit = old.audit(None, 100).await.unwrap();
    migrate(&from, &to).await.unwrap();

    let new = to.open().await;
    assert_eq!(new.pauses().await.unwrap(), pauses);
    let numbers = |records: &[storm_shared::services::store::AuditRecord]| {
        records
            .iter()
            .map(|it| format!("{it:?}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        numbers(&new.audit(None, 100).await.unwrap()),
        numbers(&audit)
    );
    assert!(
        due_ids(&new, 1000).await.is_empty(),
        "the pause is in force"
    );
    new.resume(Paused::Everything, "ops".parse().unwrap())
        .await
        .unwrap();

    for job in &everything.keyed {
        let again = NewJob {
            id: RequestId::generate(),
            ..job.clone()
        };
        let replayed = new.accept(again.clone()).await.unwrap();
        let expected_at = job.expected_at.round(jiff::Unit::Millisecond).unwrap();
        let Acceptance::Replayed {
            id,
            expected_at: at,
        } = replayed
        else {
            panic!("{replayed:?}");
        };
        assert_eq!(id, job.id);
        assert!(at.duration_since(expected_at).abs() <= SignedDuration::from_millis(1));
        assert_eq!(new.accepted_before(&again).await.unwrap(), Some(replayed));
    }

    // What waits for an hour is not due, and everything else that is pending is.
    let tables = to.tables().await;
    let pending: BTreeSet<Key> = tables
        .rows
        .iter()
        .filter(|(_, row)| row.status == Status::Pending)
        .map(|(key, _)| *key)
        .collect();
    let mut claimed_now: BTreeSet<Key> = BTreeSet::new();
    for job in claim_due(&new).await {
        claimed_now.insert((job.claim.id, job.claim.work));
        if job.worked.is_none() {
            continue;
        }
        let done = Settlement::Finish {
            attempt: Some(attempted(9, AttemptClass::Success)),
            outcome: Outcome::Completed,
        };
        new.settle(job.claim, None, done).await.unwrap();
    }
    assert!(claimed_now.is_subset(&pending));
    let waiting: Vec<_> = pending.difference(&claimed_now).collect();
    for key in &waiting {
        let shown = row(&new, key.0).await;
        let waits = shown
            .next_attempt_at
            .is_some_and(|at| at.parse::<Timestamp>().unwrap() > Timestamp::now());
        assert!(waits || shown.handler == "pdf", "{key:?}");
    }
    // The retry, the two parked jobs, and the redelivery; and what is a handler's.
    let reports = async {
        let mut reports = 0;
        for key in &waiting {
            reports += usize::from(row(&new, key.0).await.handler != "pdf");
        }
        reports
    };
    assert_eq!(reports.await, 4);
    claim_new(&new, new_worker(&new).await, &[accept(&new).await])
        .await
        .pop()
        .unwrap();
}
