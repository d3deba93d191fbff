//! The successful callback with which a job ends is in its row, and all other attempts have rows of
//! their own.

use rusqlite::Connection;
use storm_shared::{
    models::{AttemptClass, RequestId},
    services::store::{AttemptRecord, Outcome, Settlement, Store},
};

use super::{direct, new_store};
use crate::jobs::{
    attempted, claim_due, claimed, delivered, fail_attempt, failed, finish, finished,
    is_claim_lost, redeliver, result_of, row, success, timeout,
};

/// The attempts that have rows of their own.
fn rows(db: &Connection) -> Vec<u32> {
    let mut numbers = db
        .prepare("SELECT number FROM attempts ORDER BY number")
        .unwrap();
    let numbers = numbers.query_map([], |row| row.get(0)).unwrap();
    numbers.map(Result::unwrap).collect()
}

async fn shown(store: &Store, id: RequestId) -> Vec<(u32, AttemptClass)> {
    let attempts = row(store, id).await.attempts;
    attempts.iter().map(|it| (it.number, it.class)).collect()
}

#[tokio::test]
async fn a_job_that_ends_with_its_first_callback_costs_no_row_of_attempts() {
    let (store, folder) = new_store().await;
    let job = claimed(&store).await;
    let attempt = AttemptRecord {
        status: Some(204),
        ..success()
    };
    finish(&store, &job, attempt.clone(), Outcome::Completed).await;
    assert_eq!(rows(&direct(&folder)), [0; 0]);
    let request = row(&store, job.claim.id).await;
    let [shown] = &request.attempts[..] else {
        panic!("{:?}", request.attempts)
    };
    assert_eq!(
        (shown.number, shown.class, shown.status, shown.duration_ms),
        (1, AttemptClass::Success, Some(204), 7)
    );
    assert_eq!(shown.started_at, format!("{:.3}", attempt.started_at));

    // A repeat of the same write is known by it, and no other write is taken for one.
    finish(&store, &job, attempt, Outcome::Completed).await;
    let other = Settlement::Finish {
        attempt: Some(attempted(2, AttemptClass::Success)),
        outcome: Outcome::Completed,
    };
    let other = store.settle(job.claim, Some(result_of(&job)), other).await;
    assert!(is_claim_lost(&other));
    let mut earlier = job.claim;
    earlier.number -= 1;
    let earlier = store.settle(earlier, Some(result_of(&job)), delivered());
    assert!(is_claim_lost(&earlier.await));
}

#[tokio::test]
async fn attempts_are_shown_in_their_order_wherever_they_are() {
    let (store, folder) = new_store().await;
    let job = claimed(&store).await;
    let id = job.claim.id;
    fail_attempt(&store, &job).await;
    let job = claim_due(&store).await.pop().unwrap();
    let second = attempted(2, AttemptClass::Success);
    finish(&store, &job, second, Outcome::Completed).await;
    for (number, class) in [(3, AttemptClass::Timeout), (4, AttemptClass::Success)] {
        redeliver(&store, id).await.unwrap();
        let job = claim_due(&store).await.pop().unwrap();
        let outcome = match class {
            AttemptClass::Success => Outcome::Completed,
            _ => failed("It timed out."),
        };
        finish(&store, &job, attempted(number, class), outcome).await;
    }
    assert_eq!(rows(&direct(&folder)), [1, 3, 4]);
    let all = [
        (1, AttemptClass::Timeout),
        (2, AttemptClass::Success),
        (3, AttemptClass::Timeout),
        (4, AttemptClass::Success),
    ];
    assert_eq!(shown(&store, id).await, all);
}

#[tokio::test]
async fn the_last_thousand_attempts_are_shown_also_if_the_first_is_in_the_row() {
    const KEPT: u32 = 1000;
    let (store, folder) = new_store().await;
    let id = finished(&store, Outcome::Completed).await;
    direct(&folder)
        .execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {KEPT})
             INSERT INTO attempts (request_id, number, started_at, duration_ms, class)
             SELECT '{id}', i, '', 0, 'timeout' FROM n;
             UPDATE requests SET attempts = {KEPT};"
        ))
        .unwrap();
    let numbers = async || -> Vec<u32> {
        let shown = shown(&store, id).await;
        shown.into_iter().map(|(number, _)| number).collect()
    };
    assert_eq!(numbers().await, (1..=KEPT).collect::<Vec<_>>());
    redeliver(&store, id).await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    finish(&store, &job, timeout(KEPT + 1), failed("It timed out.")).await;
    assert_eq!(numbers().await, (2..=KEPT + 1).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_an_edit_by_hand_makes_of_it_hides_no_other_attempt() {
    let (store, folder) = new_store().await;
    let id = finished(&store, Outcome::Completed).await;
    let db = direct(&folder);
    for invalid in [
        "'no JSON'",
        "'{}'",
        "'[]'",
        "'{\"number\":-1}'",
        "CAST(x'ff' AS TEXT)",
        "NULL",
    ] {
        db.execute_batch(&format!("UPDATE requests SET delivered = {invalid}"))
            .unwrap();
        assert_eq!(shown(&store, id).await, [], "{invalid}");
    }
    redeliver(&store, id).await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    let second = attempted(2, AttemptClass::Success);
    finish(&store, &job, second, Outcome::Completed).await;
    assert_eq!(shown(&store, id).await, [(2, AttemptClass::Success)]);
}

#[tokio::test]
async fn a_job_that_was_put_back_by_hand_keeps_the_callback_with_which_it_had_ended() {
    let (store, folder) = new_store().await;
    let id = finished(&store, Outcome::Completed).await;
    let db = direct(&folder);
    let put_back = async |delivered: &str, number| {
        db.execute_batch(&format!(
            "UPDATE requests SET status = 'PENDING', delivered = {delivered}"
        ))
        .unwrap();
        let job = claim_due(&store).await.pop().unwrap();
        let attempt = attempted(number, AttemptClass::Success);
        // The second is a repeat of the same write.
        finish(&store, &job, attempt.clone(), Outcome::Completed).await;
        finish(&store, &job, attempt, Outcome::Completed).await;
    };
    put_back("delivered", 2).await;
    put_back("'no JSON'", 3).await;
    assert_eq!(
        shown(&store, id).await,
        [(1, AttemptClass::Success), (3, AttemptClass::Success)],
        "all but the one that was overwritten"
    );
    put_back("delivered", 4).await;
    assert_eq!(rows(&db), [1, 3]);
    let request = row(&store, id).await;
    assert_eq!(
        (request.attempts.len(), request.attempts[1].duration_ms),
        (3, 7)
    );
}
