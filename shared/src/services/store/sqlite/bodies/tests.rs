use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::json;

use super::{
    super::{
        accept, attempts,
        claim::ClaimedRows,
        clock::{Clock, StoreTime},
        find::find,
        lease, redelivery, schema, settle,
    },
    INPUT, LARGEST_IN_ROW, RESULT, delete, in_row, is_large,
};
use crate::{
    models::{CallbackUrl, ReportSpec, Request, RequestId},
    services::{
        report::Report,
        store::{
            Candidate, Claim, Claimed, Job, NewJob, Outcome, OwnerId, Scope, Settlement, Work,
            WorkResult,
        },
    },
};

fn now() -> StoreTime {
    StoreTime::stored(1000)
}

fn database() -> Connection {
    let mut db = Connection::open_in_memory().unwrap();
    schema::migrate(&mut db).unwrap();
    db
}

/// The specification of a report, as JSON of `length` bytes.
fn input(length: usize, filling: &str) -> String {
    let spec = |filling| json!({"report_name": "a", "records": 1, "x": filling}).to_string();
    let missing = length - spec(String::new()).len();
    spec(filling.repeat(missing))
}

fn result(length: usize) -> WorkResult {
    WorkResult::of(&Report {
        report_id: uuid::Uuid::nil(),
        checksum: "c".repeat(length),
    })
}

fn store(db: &Connection, claim: &Claim, result: &WorkResult) -> bool {
    settle::store_worked(db, claim, &Ok(result.clone()), None).unwrap()
}

fn new_job(input: &str) -> NewJob {
    let callback = CallbackUrl::parse("http://example.com/").unwrap();
    let spec: ReportSpec = serde_json::from_str(input).unwrap();
    NewJob {
        input: input.into(),
        ..NewJob::new(RequestId::generate(), spec, Some(callback))
    }
}

fn accept(db: &Connection, input: &str) -> RequestId {
    let job = new_job(input);
    accept::insert_job(db, &job, now()).unwrap();
    job.id
}

fn claim(db: &Connection, candidate: Candidate) -> Job {
    let owner = OwnerId::generate();
    lease::register(db, owner, "[]").unwrap();
    let mut rows = ClaimedRows::within(usize::MAX);
    rows.claim(db, owner, &[candidate]).unwrap();
    let Claimed { mut jobs, .. } = rows.parse(now());
    jobs.pop().unwrap().unwrap()
}

fn found(db: &Connection, id: RequestId) -> Request {
    let clock = Arc::new(Clock::unsaved());
    find(db, &Scope::All, id, &clock).unwrap().unwrap()
}

fn input_of(db: &Connection, id: RequestId) -> String {
    found(db, id).input_payload.get().to_owned()
}

/// The texts in the row, and `in_bodies`.
fn row(db: &Connection, id: RequestId) -> (String, Option<String>, u8) {
    db.query_row(
        "SELECT input_payload, result_payload, in_bodies FROM requests WHERE id = ?1",
        [id.to_string()],
        |row| <_>::try_from(row),
    )
    .unwrap()
}

/// The number of rows in `bodies`.
fn stored(db: &Connection) -> i64 {
    let count = "SELECT count(*) FROM bodies";
    db.query_row(count, [], |row| row.get(0)).unwrap()
}

fn finish(db: &Connection, claim: &Claim, result: Option<&str>) -> bool {
    let finish = Settlement::Finish {
        attempt: None,
        outcome: Outcome::Completed,
    };
    let texts = settle::Texts::of(claim, &finish);
    settle::settle(db, claim, result, &finish, &texts, now()).unwrap()
}

#[test]
fn a_body_of_4_kib_is_in_its_row_and_a_larger_one_is_not() {
    let db = database();
    let small = input(LARGEST_IN_ROW, "x");
    let id = accept(&db, &small);
    assert_eq!((row(&db, id), stored(&db)), ((small, None, 0), 0));

    let large = input(LARGEST_IN_ROW + 1, "x");
    let id = accept(&db, &large);
    let place = r#"{"stored_in":"bodies","bytes":4097}"#.to_owned();
    assert_eq!((row(&db, id), stored(&db)), ((place, None, 1), 1));
    assert_eq!(input_of(&db, id), large);
}

#[test]
fn a_job_with_large_bodies_goes_its_whole_way_and_no_change_of_status_writes_them() {
    let db = database();
    let input = input(200_000, "x");
    let result = result(1_000_000);
    let json = result.as_str();
    let id = accept(&db, &input);
    db.execute_batch(
        "CREATE TRIGGER written BEFORE UPDATE ON bodies BEGIN SELECT raise(ABORT, 'written'); END",
    )
    .unwrap();

    let job = claim(&db, Candidate::notified(id));
    assert_eq!((job.worked, job.bytes), (None, input.len()));
    assert!(store(&db, &job.claim, &result));
    let place = in_row(json).into_owned();
    assert_eq!(row(&db, id), (in_row(&input).into_owned(), Some(place), 3));

    let wait = Settlement::Park {
        wait: Duration::ZERO,
    };
    let texts = settle::Texts::of(&job.claim, &wait);
    assert!(settle::settle(&db, &job.claim, Some(json), &wait, &texts, now()).unwrap());
    let again = Candidate {
        claims: 1,
        ..Candidate::notified(id)
    };
    let job = claim(&db, again);
    assert_eq!(job.worked, Some(Ok(result.clone())));
    assert_eq!(job.bytes, input.len() + json.len());
    assert!(finish(&db, &job.claim, Some(json)));
    let request = found(&db, id);
    assert_eq!(request.input_payload.get(), input);
    assert_eq!(request.result_payload.unwrap().get(), json);

    let begun = redelivery::begin(&db, &Scope::All, id, true, now()).unwrap();
    assert_eq!(begun, Ok(()));
    let job = claim(
        &db,
        Candidate {
            work: Work::Redelivery,
            claims: 2,
            ..Candidate::notified(id)
        },
    );
    assert_eq!(job.worked, Some(Ok(result.clone())));
    assert!(finish(&db, &job.claim, Some(json)));
    assert_eq!(stored(&db), 2);
    assert!(attempts::of(&db, id, None).unwrap().is_empty());
}

#[test]
fn a_large_result_is_stored_with_the_first_outcome_and_never_replaced() {
    let db = database();
    let [first, second, small] = [9000, 8000, 10].map(result);
    for (stored, tried) in [(&first, &second), (&first, &small), (&small, &second)] {
        let id = accept(&db, &input(100, "x"));
        let job = claim(&db, Candidate::notified(id));
        assert!(store(&db, &job.claim, stored));
        assert!(store(&db, &job.claim, tried));
        assert!(finish(&db, &job.claim, Some(tried.as_str())));
        // A repeat.
        assert!(finish(&db, &job.claim, Some(tried.as_str())));
        let result = found(&db, id).result_payload.unwrap();
        assert_eq!(result.get(), stored.as_str());
        assert_eq!(
            row(&db, id).2,
            if is_large(stored.as_str()) { 2 } else { 0 }
        );
    }
    let id = accept(&db, &input(100, "x"));
    let job = claim(&db, Candidate::notified(id));
    assert!(finish(&db, &job.claim, Some(first.as_str())));
    assert_eq!(found(&db, id).result_payload.unwrap().get(), first.as_str());
}

#[test]
fn a_lost_claim_stores_no_large_result() {
    let db = database();
    let id = accept(&db, &input(100, "x"));
    let held = claim(&db, Candidate::notified(id)).claim;
    let lost = Claim {
        number: held.number + 1,
        ..held
    };
    let result = result(9000);
    assert!(!store(&db, &lost, &result));
    assert!(!finish(&db, &lost, Some(result.as_str())));
    assert_eq!((stored(&db), row(&db, id).1), (0, None));
}

#[test]
fn an_accept_that_is_repeated_is_recognised_by_its_whole_large_body() {
    let db = database();
    let (sent, other) = (input(9000, "x"), input(9000, "y"));
    let job = new_job(&sent);
    let accepts = |input: &str| {
        let job = NewJob {
            input: input.into(),
            ..job.clone()
        };
        accept::insert_job(&db, &job, now())
    };
    accepts(&sent).unwrap();
    accepts(&sent).unwrap();
    assert!(accepts(&other).is_err());
    // The text in the row is no other submission's.
    assert!(accepts(&in_row(&sent)).is_err());
    assert_eq!((stored(&db), input_of(&db, job.id)), (1, sent));
}

#[test]
fn a_payload_that_looks_like_the_place_of_a_large_one_is_only_a_payload() {
    let db = database();
    let text = in_row(&input(9000, "x")).into_owned();
    let job = NewJob {
        input: text.as_str().into(),
        ..new_job(&input(100, "x"))
    };
    accept::insert_job(&db, &job, now()).unwrap();
    assert_eq!((input_of(&db, job.id), stored(&db)), (text.clone(), 0));
    let owner = OwnerId::generate();
    lease::register(&db, owner, "[]").unwrap();
    let mut rows = ClaimedRows::within(usize::MAX);
    rows.claim(&db, owner, &[Candidate::notified(job.id)])
        .unwrap();
    // As its handler would get it; it is no report.
    let invalid = rows.parse(now()).jobs.pop().unwrap().unwrap_err();
    assert!(invalid.failure.detail.contains("input_payload"));
}

#[test]
fn a_sync_request_with_large_bodies_is_recorded_once() {
    let db = database();
    let (id, at) = (RequestId::generate(), Timestamp::now());
    let (input, result) = (input(9000, "x"), "7".repeat(5000));
    for _ in 0..2 {
        accept::insert_sync(&db, id, at, &input, None, &Ok(result.clone()), now()).unwrap();
    }
    let request = found(&db, id);
    assert_eq!(request.input_payload.get(), input);
    assert_eq!(request.result_payload.unwrap().get(), result);
    assert_eq!((stored(&db), row(&db, id).2), (2, 3));
}

#[test]
fn a_large_body_is_searched_by_its_request() {
    let db = database();
    for body in [INPUT, RESULT] {
        let sql = format!("EXPLAIN QUERY PLAN SELECT {body} FROM requests WHERE id = ?1");
        let mut statement = db.prepare(&sql).unwrap();
        let steps = statement.query_map([""], |row| row.get("detail")).unwrap();
        let steps: Vec<String> = steps.map(Result::unwrap).collect();
        let search =
            "SEARCH bodies USING INDEX sqlite_autoindex_bodies_1 (request_id=? AND kind=?)";
        assert!(steps.contains(&search.to_owned()), "{steps:?}");
    }
}

#[test]
fn deleted_bodies_leave_the_texts_of_the_row() {
    let db = database();
    let kept = accept(&db, &input(9000, "x"));
    let erased = accept(&db, &input(9000, "y"));
    delete(&db, erased).unwrap();
    assert_eq!((stored(&db), row(&db, erased).2), (1, 0));
    assert!(input_of(&db, erased).contains("stored_in"));
    assert_eq!(input_of(&db, kept).len(), 9000);
}
