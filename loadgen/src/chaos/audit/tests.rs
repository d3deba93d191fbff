//! Tests of the auditor, on a store of its own.

mod deliberate;
mod filters;
#[cfg(feature = "postgres")]
mod server;
mod work;

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    config::Settings,
    models::{
        AttemptClass, CallbackUrl, ClientName, Failure, FailureReason, HandlerName, Records,
        ReportName, ReportSpec, RequestId, Stage, Status,
    },
    services::{
        report::expected,
        store::{
            AttemptRecord, Candidate, Claim, Ended, NewJob, Outcome, OwnerId, Paused, Scope,
            Settlement, Store, Work, WorkResult,
        },
    },
};
use tempfile::TempDir;

use super::{Audit, Record};
use crate::chaos::{
    clock,
    engine::Engine,
    history::{Erased, HistoryEvent, Row, RowKind, Transition},
};

/// Runs each test on every engine.
macro_rules! on_each_engine {
    ($($test:path => $name:ident),* $(,)?) => {
        mod on_sqlite {
            use crate::chaos::engine::Engine;
            $(#[tokio::test]
            async fn $name() {
                $test(Engine::Sqlite).await;
            })*
        }

        #[cfg(feature = "postgres")]
        mod on_postgres {
            use crate::chaos::engine::Engine;
            $(#[tokio::test]
            async fn $name() {
                $test(Engine::Postgres).await;
            })*
        }
    };
}

on_each_engine! {
    super::deliberate::every_deliberate_fault_is_logged_and_found => every_deliberate_fault_is_logged_and_found,
    super::every_change_by_the_store_is_logged => every_change_by_the_store_is_logged,
    super::every_change_of_a_redelivery_is_logged_with_its_outcome => every_change_of_a_redelivery_is_logged_with_its_outcome,
    super::an_erasure_is_logged_and_the_name_is_kept => an_erasure_is_logged_and_the_name_is_kept,
    super::what_an_erasure_leaves_or_changes_is_logged => what_an_erasure_leaves_or_changes_is_logged,
    super::every_change_has_the_moments_between_which_it_was_made => every_change_has_the_moments_between_which_it_was_made,
    super::a_fenced_write_changes_nothing => a_fenced_write_changes_nothing,
    super::a_recorded_resend_is_read_as_an_event => a_recorded_resend_is_read_as_an_event,
    super::heartbeats_of_a_worker_increase => heartbeats_of_a_worker_increase,
    super::a_pause_is_logged_with_its_records_in_the_audit => a_pause_is_logged_with_its_records_in_the_audit,
    super::work::a_result_is_logged_once_wherever_it_is_stored => a_result_is_logged_once_wherever_it_is_stored,
    super::work::a_result_that_is_replaced_is_logged_again => a_result_that_is_replaced_is_logged_again,
    super::work::a_final_failure_is_logged_when_it_is_stored => a_final_failure_is_logged_when_it_is_stored,
    super::filters::the_changes_of_an_action_by_filter_are_those_before_its_record => the_changes_of_an_action_by_filter_are_those_before_its_record,
    super::filters::a_record_that_counts_more_than_there_is_has_fewer_changes => a_record_that_counts_more_than_there_is_has_fewer_changes,
}

struct Audited {
    store: Store,
    audit: Audit,
    #[expect(
        dead_code,
        reason = "dropping it removes the data, when both above are closed"
    )]
    data: Data,
}

/// Where the data is.
enum Data {
    Folder(#[expect(dead_code, reason = "it is removed on drop")] TempDir),
    #[cfg(feature = "postgres")]
    Database(#[expect(dead_code, reason = "it is removed on drop")] server::Database),
}

async fn audited(on: Engine) -> Audited {
    match on {
        Engine::Sqlite => {
            let folder = TempDir::new().unwrap();
            let file = folder.path().join("storm.db");
            let store = open(&format!("sqlite:{}", file.display())).await;
            let audit = Audit::of_file(&file).await.unwrap();
            let data = Data::Folder(folder);
            Audited { store, audit, data }
        }
        #[cfg(feature = "postgres")]
        Engine::Postgres => {
            let database = server::Database::create().await;
            let store = open(&database.url()).await;
            let audit = Audit::of_server(database.login()).await.unwrap();
            let data = Data::Database(database);
            Audited { store, audit, data }
        }
        #[cfg(not(feature = "postgres"))]
        Engine::Postgres => unreachable!("without the engine it has no tests"),
    }
}

async fn open(url: &str) -> Store {
    let settings = Settings::with([("DB_URL", url)]).unwrap();
    Store::open(&settings.store).await.unwrap()
}

fn spec() -> ReportSpec {
    ReportSpec {
        report_name: ReportName::try_from("one".to_owned()).unwrap(),
        records: Records::new(1, 49).unwrap(),
    }
}

async fn accept(store: &Store, callback: Option<CallbackUrl>) -> RequestId {
    let id = RequestId::generate();
    let job = NewJob::new(id, spec(), callback);
    store.accept(job).await.unwrap();
    id
}

async fn claim(store: &Store, owner: OwnerId, id: RequestId) -> Claim {
    store.register(owner, &[]).await.unwrap();
    let candidates = vec![Candidate::notified(id)];
    let claimed = store.claim(owner, candidates, usize::MAX).await;
    claimed.unwrap().jobs.pop().unwrap().unwrap().claim
}

fn moves(records: &[Record]) -> Vec<&Transition> {
    let moves = records.iter().filter_map(|record| match record {
        Record::Transition(moved) => Some(moved),
        _ => None,
    });
    moves.collect()
}

fn last_event(records: &[Record]) -> &HistoryEvent {
    let Some(Record::Event(event)) = records.last() else {
        panic!("the store recorded an event: {records:?}")
    };
    event
}

async fn every_change_by_the_store_is_logged(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let url = CallbackUrl::parse("http://a/").unwrap();
    let id = accept(store, Some(url)).await;
    assert_eq!(audit.unfinished().await.unwrap(), 1);

    let owner = OwnerId::generate();
    let claim = claim(store, owner, id).await;
    let report = WorkResult::of(&expected(&spec()));
    store
        .store_worked(claim, Ok(report.clone()), None)
        .await
        .unwrap();
    let finish = Settlement::Finish {
        attempt: None,
        outcome: Outcome::Completed,
    };
    store
        .settle(claim, Some(report.clone()), finish)
        .await
        .unwrap();
    assert_eq!(audit.unfinished().await.unwrap(), 0);

    let records = audit.records().await.unwrap();
    let moves = moves(&records);
    let statuses: Vec<_> = moves.iter().map(|moved| moved.after.status).collect();
    let expected = [
        Status::Pending,
        Status::Processing,
        Status::Processing,
        Status::Completed,
    ];
    assert_eq!(statuses, expected);
    assert_eq!(moves[0].before, None);
    for pair in moves.windows(2) {
        assert_eq!(pair[1].before.as_ref(), Some(&pair[0].after));
    }
    assert_eq!(audit.changes().await.unwrap(), 4);

    let [Record::Row(row)] = &records[4..] else {
        panic!("one row, and no event: {:?}", &records[4..])
    };
    assert_eq!(
        (row.id, row.report_name.as_str(), &row.state),
        (id, "one", &moves[3].after)
    );
    assert!(row.called_back && row.completed_at.is_some() && row.failure_reason.is_none());
}

async fn every_change_of_a_redelivery_is_logged_with_its_outcome(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let url = CallbackUrl::parse("http://a/").unwrap();
    let id = accept(store, Some(url)).await;
    let owner = OwnerId::generate();
    let claimed = claim(store, owner, id).await;
    let failure = Failure::new(FailureReason::CallbackFailed, "");
    let failed = finish(1, AttemptClass::Timeout, Outcome::Failed(failure));
    let report = WorkResult::of(&expected(&spec()));
    store
        .settle(claimed, Some(report.clone()), failed)
        .await
        .unwrap();

    let mut number = 1_u32;
    for (class, outcome) in [
        (AttemptClass::Success, Status::Completed),
        (AttemptClass::Timeout, Status::Failed),
    ] {
        let begun = store.redeliver(Scope::All, id).await.unwrap();
        begun.unwrap();
        assert_eq!(audit.unfinished().await.unwrap(), 1);
        assert!(!audit.holds_redelivery(&owner.to_string()).await.unwrap());
        let candidate = Candidate {
            work: Work::Redelivery,
            claims: i64::from(number),
            ..Candidate::notified(id)
        };
        let claimed = store.claim(owner, vec![candidate], usize::MAX).await;
        let claim = claimed.unwrap().jobs.pop().unwrap().unwrap().claim;
        number += 1;
        assert!(audit.holds_redelivery(&owner.to_string()).await.unwrap());
        let result = match outcome {
            Status::Completed => Outcome::Completed,
            _ => Outcome::Failed(Failure::new(FailureReason::CallbackFailed, "")),
        };
        let end = finish(number, class, result);
        store
            .settle(claim, Some(report.clone()), end)
            .await
            .unwrap();
        assert_eq!(audit.unfinished().await.unwrap(), 0);

        let records = audit.records().await.unwrap();
        let moves = moves(&records).into_iter();
        let moves: Vec<_> = moves
            .filter(|moved| moved.kind == RowKind::Redelivery)
            .collect();
        let last = &moves[moves.len() - 4..];
        let statuses: Vec<_> = last.iter().map(|moved| moved.after.status).collect();
        let expected = [
            Status::Pending,
            Status::Processing,
            Status::Processing,
            outcome,
        ];
        assert_eq!(statuses, expected);
        assert_eq!(last[0].before, None);
        for pair in last.windows(2) {
            assert_eq!(pair[1].before.as_ref(), Some(&pair[0].after));
        }
        let end = &last[3].after;
        assert!(end.result.is_some() && end.attempts == i64::from(number));
    }
}

/// A job that failed and was erased. Returns when.
async fn accept_and_erase(store: &Store) -> String {
    let url = CallbackUrl::parse("http://a/").unwrap();
    let id = accept(store, Some(url)).await;
    let claim = claim(store, OwnerId::generate(), id).await;
    let failure = Failure::new(FailureReason::CallbackFailed, "");
    let failed = finish(1, AttemptClass::Timeout, Outcome::Failed(failure));
    let report = WorkResult::of(&expected(&spec()));
    store
        .settle(claim, Some(report.clone()), failed)
        .await
        .unwrap();
    store.erase(Scope::All, id).await.unwrap().unwrap().at
}

async fn an_erasure_is_logged_and_the_name_is_kept(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let erased_at = accept_and_erase(store).await;
    let (moved, logged, row) = erasure(&audit.records().await.unwrap());
    assert!(moved.erases && moved.after.status == Status::Failed);
    assert!(moved.before.unwrap().result.is_some() && moved.after.result.is_none());
    assert_eq!((logged.erased_at, logged.outcome_kept), (erased_at, true));
    assert_eq!(logged.left, [""; 0]);
    assert!(row.report_name == "one" && row.called_back);

    // Also after the deletion.
    audit.execute("DELETE FROM requests").await;
    let (_, _, row) = erasure(&audit.records().await.unwrap());
    assert!(row.report_name == "one" && row.called_back);
}

async fn what_an_erasure_leaves_or_changes_is_logged(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    accept_and_erase(store).await;
    let spoil = r#"
        DELETE FROM chaos_erased;
        UPDATE attempts SET error = 'why';
        UPDATE requests SET input_payload = '{"report_name":"one"}', origin = 'http://a';
        UPDATE requests SET erased_at = '2100-01-01T00:00:00Z', failure_reason = 'poison';"#;
    audit.execute(spoil).await;
    let (moved, logged, _) = erasure(&audit.records().await.unwrap());
    assert!(moved.erases && !logged.outcome_kept);
    let left = [
        "requests.input_payload",
        "requests.origin",
        "attempts.error",
    ];
    assert_eq!(logged.left, left);
}

/// The last transition, and the records of the erasure and of the row.
fn erasure(records: &[Record]) -> (Transition, Erased, Row) {
    let erased = records.iter().find_map(|record| match record {
        Record::Erased(erased) => Some(erased.clone()),
        _ => None,
    });
    let row = records.iter().find_map(|record| match record {
        Record::Row(row) => Some(row.clone()),
        _ => None,
    });
    let moved = moves(records).last().copied().cloned();
    (moved.unwrap(), erased.unwrap(), row.unwrap())
}

fn finish(number: u32, class: AttemptClass, outcome: Outcome) -> Settlement {
    let attempt = AttemptRecord {
        number,
        stage: Stage::Callback,
        started_at: Timestamp::now(),
        duration: Duration::ZERO,
        class,
        status: None,
        error: None,
        internal_detail: None,
    };
    Settlement::Finish {
        attempt: Some(attempt),
        outcome,
    }
}

async fn every_change_has_the_moments_between_which_it_was_made(on: Engine) {
    const WAIT: Duration = Duration::from_secs(20);
    let start = clock::now();
    let Audited { store, audit, .. } = &audited(on).await;
    let id = accept(store, None).await;
    let claim = claim(store, OwnerId::generate(), id).await;
    let before = clock::now();
    let park = Settlement::Park { wait: WAIT };
    store.settle(claim, None, park).await.unwrap();
    let after = clock::now();

    let records = audit.records().await.unwrap();
    let end = clock::now();
    let moves = moves(&records);
    let [accepted, claimed, parked] = moves[..] else {
        panic!("three transitions: {moves:?}")
    };
    for moved in &moves {
        assert!(start <= moved.earliest() && moved.earliest() <= moved.at && moved.at <= end);
    }
    assert!(accepted.earliest() <= claimed.earliest() && claimed.at <= parked.at);
    // It was visible when the write returned, and not before it began.
    assert!(parked.earliest() <= after && parked.at >= before);
    // As exactly as the checker compares moments: SQLite counts milliseconds, and the clock of a
    // server is known as exactly as it answers quickly.
    let tolerance = Duration::from_millis(5);
    let due = parked.due.unwrap();
    assert!(before + WAIT <= due + tolerance && due <= after + WAIT + tolerance);
    assert_eq!((claimed.was_due, claimed.due), (accepted.due, None));
}

#[tokio::test]
async fn a_store_whose_clock_is_set_during_the_run_is_an_error() {
    let Audited { audit, .. } = &audited(Engine::Sqlite).await;
    audit.execute("UPDATE clock SET store_time = 1").await;
    let error = audit.records().await.unwrap_err().to_string();
    assert!(error.contains("the store's clock was set"), "{error}");
}

async fn a_fenced_write_changes_nothing(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let id = accept(store, None).await;
    let owner = OwnerId::generate();
    let claim = claim(store, owner, id).await;
    store.deregister(owner).await.unwrap();
    let before = audit.changes().await.unwrap();
    let late = store
        .store_worked(claim, Ok(WorkResult::of(&expected(&spec()))), None)
        .await;
    assert!(late.is_err());
    assert_eq!(audit.changes().await.unwrap(), before);

    let records = audit.records().await.unwrap();
    let event = last_event(&records);
    assert_eq!(
        (event.id, event.event.as_str(), event.claim),
        (id, "given_back", 1)
    );
}

async fn a_recorded_resend_is_read_as_an_event(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let id = accept(store, None).await;
    let claim = claim(store, OwnerId::generate(), id).await;
    store.record_resend(claim, 1).await.unwrap();
    let records = audit.records().await.unwrap();
    let event = last_event(&records);
    assert_eq!(
        (event.id, event.event.as_str(), event.claim),
        (id, "resent", 1)
    );
}

async fn heartbeats_of_a_worker_increase(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let owner = OwnerId::generate();
    store.register(owner, &[]).await.unwrap();
    let first = audit.heartbeats().await.unwrap();
    store.renew(owner, Ended::default()).await.unwrap();
    let second = audit.heartbeats().await.unwrap();
    assert!(second[&owner.to_string()] > first[&owner.to_string()]);
}

async fn a_pause_is_logged_with_its_records_in_the_audit(on: Engine) {
    let Audited { store, audit, .. } = &audited(on).await;
    let operator: ClientName = "ops".parse().unwrap();
    let origin = CallbackUrl::parse("http://a/").unwrap().origin().clone();
    let all = [Paused::Everything, Paused::Origin(origin)];
    for what in &all {
        let paused = store.pause(what.clone(), operator.clone()).await;
        assert!(paused.unwrap().unwrap());
        // A repeat changes nothing, and is recorded as that.
        let again = store.pause(what.clone(), operator.clone()).await;
        assert!(!again.unwrap().unwrap());
        let resumed = store.resume(what.clone(), operator.clone()).await;
        assert!(resumed.unwrap());
    }
    let changes = || async {
        let records = audit.records().await.unwrap().into_iter();
        let changes = records.filter_map(|record| match record {
            Record::PauseChanged(it) => Some((it.origin, it.paused, it.audited)),
            _ => None,
        });
        changes.collect::<Vec<_>>()
    };
    let origin = Some("http://a".to_owned());
    let expected = [
        (None, true, 1),
        (None, false, 1),
        (origin.clone(), true, 1),
        (origin.clone(), false, 1),
    ];
    assert_eq!(changes().await, expected);

    // Not recorded, and recorded twice.
    let spoil = match on {
        Engine::Sqlite => {
            "INSERT INTO pauses VALUES ('', '', '');
             INSERT INTO audit SELECT NULL, at, operator, action, filter, matched, 1, dry_run
             FROM audit WHERE action = 'resume' AND filter LIKE '%origin%';"
        }
        Engine::Postgres => {
            "INSERT INTO pauses VALUES ('', now(), '');
             INSERT INTO audit SELECT -number, at, operator, action, filter, matched, 1, dry_run
             FROM audit WHERE action = 'resume' AND filter::text LIKE '%origin%';"
        }
    };
    audit.execute(spoil).await;
    let changes = changes().await;
    assert_eq!(changes[3..], [(origin, false, 2), (None, true, 0)]);
}
