//! Tests of what is logged of the work of handlers.

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use storm_shared::services::report::hex;

use super::*;
use crate::chaos::history::{WorkAttempt, WorkEnd};

/// A claimed job of a handler, whose payload names it and has this filler.
async fn claimed(store: &Store, filler: usize) -> Claim {
    let handler: HandlerName = "chaos".parse().unwrap();
    let (id, owner) = (RequestId::generate(), OwnerId::generate());
    let payload = format!(
        r#"{{"report_name":"one","filler":"{}"}}"#,
        "p".repeat(filler)
    );
    let url = CallbackUrl::parse("http://a/").unwrap();
    let payload = RawValue::from_string(payload).unwrap();
    let job = NewJob::for_handler(handler.clone(), id, &payload, Some(url));
    store.accept(job).await.unwrap();
    store.register(owner, &[handler]).await.unwrap();
    let claimed = store.claim(owner, vec![Candidate::notified(id)], usize::MAX);
    claimed.await.unwrap().jobs.pop().unwrap().unwrap().claim
}

fn attempt(class: AttemptClass, status: Option<u16>) -> AttemptRecord {
    AttemptRecord {
        number: 1,
        stage: Stage::Work,
        started_at: Timestamp::now(),
        duration: Duration::ZERO,
        class,
        status,
        error: None,
        internal_detail: None,
    }
}

/// What is logged as stored, the attempts at the work, and the row.
async fn logged(audit: &Audit) -> (Vec<WorkEnd>, Vec<WorkAttempt>, Row) {
    let (mut ends, mut attempts, mut last) = (Vec::new(), Vec::new(), None);
    for record in audit.records().await.unwrap() {
        match record {
            Record::WorkStored(stored) => ends.push(stored.end),
            Record::WorkAttempt(attempt) => attempts.push(attempt),
            Record::Row(row) => last = Some(row),
            _ => {}
        }
    }
    (ends, attempts, last.unwrap())
}

pub(super) async fn a_result_is_logged_once_wherever_it_is_stored(on: Engine) {
    for filler in [0, 5000] {
        let Audited { store, audit, .. } = &audited(on).await;
        let claim = claimed(store, filler).await;
        let result = format!(r#"{{"filler":"{}"}}"#, "r".repeat(filler));
        let json = RawValue::from_string(result.clone()).unwrap();
        let worked = WorkResult::from_json(json);
        let made = attempt(AttemptClass::Success, Some(200));
        let store_it = store.store_worked(claim, Ok(worked.clone()), Some(made));
        store_it.await.unwrap();
        let end = finish(2, AttemptClass::Success, Outcome::Completed);
        store.settle(claim, Some(worked), end).await.unwrap();

        let digest = hex(&Sha256::digest(&result));
        let (ends, attempts, row) = logged(audit).await;
        assert_eq!(ends, [WorkEnd::Result(digest.clone())]);
        let made: Vec<_> = attempts.iter().map(|it| (it.number, it.status)).collect();
        assert_eq!(made, [(1, Some(200))]);
        assert_eq!(
            (row.report_name.as_str(), row.handler.as_deref()),
            ("one", Some("chaos"))
        );

        // An erasure stores nothing, and the emptied `bodies` are no transition.
        store.erase(Scope::All, claim.id).await.unwrap().unwrap();
        let records = audit.records().await.unwrap();
        let moves = moves(&records);
        let (last, before) = (moves[moves.len() - 1], moves[moves.len() - 2]);
        assert!(last.erases && before.after.status == Status::Completed);
        assert_ne!(before.before.as_ref(), Some(&before.after));
        // Nor does a deletion forget the name.
        audit.execute("DELETE FROM requests").await;
        let (ends, _, row) = logged(audit).await;
        assert_eq!(ends, [WorkEnd::Result(digest)]);
        assert_eq!(
            (row.report_name.as_str(), row.handler.as_deref()),
            ("one", Some("chaos"))
        );
    }
}

pub(super) async fn a_result_that_is_replaced_is_logged_again(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let claim = claimed(store, 0).await;
    for text in ["1", "2"] {
        let json = RawValue::from_string(text.to_owned()).unwrap();
        let store_it = store.store_worked(claim, Ok(WorkResult::from_json(json)), None);
        store_it.await.unwrap();
    }
    // The store keeps the first one.
    assert_eq!(logged(audit).await.0.len(), 1);
    let replace = "UPDATE requests SET result_payload = '3'";
    audit.execute(replace).await;
    assert_eq!(logged(audit).await.0.len(), 2);
}

pub(super) async fn a_final_failure_is_logged_when_it_is_stored(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let claim = claimed(store, 5000).await;
    let failure = Failure::new(FailureReason::WorkTimedOut, "");
    let made = attempt(AttemptClass::Timeout, None);
    let store_it = store.store_worked(claim, Err(failure), Some(made));
    store_it.await.unwrap();
    let (ends, attempts, row) = logged(audit).await;
    assert_eq!(ends, [WorkEnd::Failure("work_timed_out".to_owned())]);
    assert_eq!(attempts[0].class, "timeout");
    assert_eq!(row.state.status, Status::Processing);
}
