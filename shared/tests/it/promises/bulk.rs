//! What operators do to many requests at a time.

use std::time::Duration;

use storm_shared::{
    models::{CallbackUrl, FailureReason, RequestId, Status},
    services::store::{
        Acted, Applied, Bulk, BulkAction, Ended, Job, NewJob, Outcome, Selected, Selection,
        SelectionPage, Settlement, Store, Uncancellable, Unredeliverable,
    },
};

use crate::{
    database::{Tables, TestDatabase},
    jobs::{
        accept, claim_due, claim_one, claimed, failed, finished, next_millisecond, redeliver,
        result_of, row, spec, status, success,
    },
};

on_every_engine! {
    everything_in_progress_is_cancelled_and_nothing_else,
    a_cancelled_job_says_that_an_operator_did_it_and_its_worker_hears_of_it,
    each_filter_selects_its_requests,
    a_selection_of_redeliveries_leaves_out_what_can_not_be_redelivered,
    a_dry_run_changes_nothing_and_is_recorded,
    pages_go_on_from_their_cursor_oldest_first,
    a_page_examines_a_limited_number_of_requests,
    what_has_changed_since_it_was_selected_is_not_counted,
    an_action_says_what_became_of_each_request,
}

fn page(action: BulkAction, selection: Selection) -> SelectionPage {
    SelectionPage {
        action,
        selection,
        after: None,
        limit: 1000,
    }
}

async fn selected(store: &Store, action: BulkAction, selection: Selection) -> Vec<RequestId> {
    let found = store.select(page(action, selection)).await.unwrap();
    assert_eq!(found.next, None);
    found.requests.into_iter().map(|(id, _)| id).collect()
}

fn bulk(action: BulkAction, ids: &[RequestId]) -> Bulk {
    Bulk {
        action,
        ids: ids.to_vec(),
        with_cancelled: false,
        dry_run: false,
        matched: ids.len(),
        filter: r#"{"all":true}"#.to_owned(),
        operator: "ops".parse().unwrap(),
    }
}

async fn apply(store: &Store, action: BulkAction, ids: &[RequestId]) -> usize {
    store.apply(bulk(action, ids)).await.unwrap().changed
}

async fn accept_of(store: &Store, tenant: &str, url: &str) -> RequestId {
    let id = RequestId::generate();
    let job = NewJob {
        created_by: Some(tenant.parse().unwrap()),
        ..NewJob::new(id, spec(), Some(CallbackUrl::parse(url).unwrap()))
    };
    store.accept(job).await.unwrap();
    id
}

async fn park(store: &Store, job: &Job) {
    let report = result_of(job);
    let wait = Duration::from_hours(1);
    let parked = store.settle(job.claim, Some(report.clone()), Settlement::Park { wait });
    parked.await.unwrap();
}

async fn everything_in_progress_is_cancelled_and_nothing_else(database: TestDatabase) {
    let store = database.open().await;
    let done = finished(&store, Outcome::Completed).await;
    let again = finished(&store, failed("It answered 500.")).await;
    redeliver(&store, again).await.unwrap();
    let (new, running, parked) = (
        accept(&store).await,
        claimed(&store).await,
        claimed(&store).await,
    );
    park(&store, &parked).await;
    let expected = [again, new, running.claim.id, parked.claim.id];
    let ids = selected(&store, BulkAction::Cancel, Selection::default()).await;
    assert_eq!(ids, expected);
    assert_eq!(apply(&store, BulkAction::Cancel, &ids).await, 4);
    for id in [new, running.claim.id, parked.claim.id] {
        assert_eq!(status(&store, id).await, Status::Failed);
    }
    assert_eq!(row(&store, again).await.redelivery, None);
    assert_eq!(status(&store, done).await, Status::Completed);
    assert_eq!(claim_due(&store).await.len(), 0);
    let ids = selected(&store, BulkAction::Cancel, Selection::default()).await;
    assert_eq!(ids, []);
    assert_eq!(
        apply(&store, BulkAction::Cancel, &expected).await,
        0,
        "a repeat"
    );
    let records = store.audit(None, 9).await.unwrap();
    let told: Vec<_> = records
        .iter()
        .map(|it| (it.action.as_str(), it.matched, it.changed, it.dry_run))
        .collect();
    assert_eq!(told, [("cancel", 4, 0, false), ("cancel", 4, 4, false)]);
    assert_eq!(records[0].filter.get(), r#"{"all":true}"#);
}

async fn a_cancelled_job_says_that_an_operator_did_it_and_its_worker_hears_of_it(
    database: TestDatabase,
) {
    let store = database.open().await;
    let (waits, runs) = (accept(&store).await, claimed(&store).await);
    let ids = [waits, runs.claim.id];
    assert_eq!(apply(&store, BulkAction::Cancel, &ids).await, 2);
    let told = store
        .renew(runs.claim.owner, Ended::default())
        .await
        .unwrap()
        .cancelled;
    assert_eq!(told[0].id, runs.claim.id);
    for id in ids {
        let failure = row(&store, id).await.failure.unwrap();
        assert_eq!(failure.reason, FailureReason::Cancelled);
        assert!(
            failure.detail.starts_with("An operator cancelled it"),
            "{}",
            failure.detail
        );
        // Its client is told the same as of a job that it has cancelled itself.
        let scope = storm_shared::services::store::Scope::All;
        let again = store.cancel(scope, id).await.unwrap().unwrap();
        assert_eq!(again.may_arrive, id == runs.claim.id);
    }
}

async fn each_filter_selects_its_requests(database: TestDatabase) {
    let store = database.open().await;
    let one = accept_of(&store, "one", "https://a.example/x").await;
    let other = accept_of(&store, "other", "https://b.example:8443/x").await;
    next_millisecond().await;
    let middle = jiff::Timestamp::now();
    next_millisecond().await;
    let nameless = claimed(&store).await.claim.id;
    let select = async |selection| selected(&store, BulkAction::Cancel, selection).await;
    let none = Selection::default;
    for (selection, expected) in [
        (none(), vec![one, other, nameless]),
        (
            Selection {
                client: Some("one".parse().unwrap()),
                ..none()
            },
            vec![one],
        ),
        (
            Selection {
                client: Some("nobody".parse().unwrap()),
                ..none()
            },
            vec![],
        ),
        (
            Selection {
                origin: Some("https://b.example:8443".parse().unwrap()),
                ..none()
            },
            vec![other],
        ),
        (
            Selection {
                origin: Some("https://b.example".parse().unwrap()),
                ..none()
            },
            vec![],
        ),
        (
            Selection {
                statuses: vec![Status::Processing],
                ..none()
            },
            vec![nameless],
        ),
        (
            Selection {
                statuses: vec![Status::Pending, Status::Processing],
                ..none()
            },
            vec![one, other, nameless],
        ),
        (
            Selection {
                created_before: Some(middle),
                ..none()
            },
            vec![one, other],
        ),
        (
            Selection {
                created_after: Some(middle),
                ..none()
            },
            vec![nameless],
        ),
        (
            Selection {
                ids: vec![other, nameless, other],
                ..none()
            },
            vec![other, nameless],
        ),
        (
            Selection {
                ids: vec![one],
                client: Some("other".parse().unwrap()),
                ..none()
            },
            vec![],
        ),
        (
            Selection {
                reason: Some(FailureReason::Cancelled),
                ..none()
            },
            vec![],
        ),
    ] {
        assert_eq!(select(selection.clone()).await, expected, "{selection:?}");
    }
}

async fn a_selection_of_redeliveries_leaves_out_what_can_not_be_redelivered(
    database: TestDatabase,
) {
    let store = database.open().await;
    let done = finished(&store, Outcome::Completed).await;
    let lost = finished(&store, failed("It answered 500.")).await;
    let under_way = finished(&store, failed("It answered 500.")).await;
    redeliver(&store, under_way).await.unwrap();
    let cancelled = claimed(&store).await;
    park(&store, &cancelled).await;
    let cancelled = cancelled.claim.id;
    assert_eq!(apply(&store, BulkAction::Cancel, &[cancelled]).await, 1);
    accept(&store).await;
    let select = async |selection| selected(&store, BulkAction::Redeliver, selection).await;
    let none = Selection::default;
    assert_eq!(select(none()).await, [done, lost]);
    let of_reason = |reason| Selection {
        reason: Some(reason),
        ..none()
    };
    assert_eq!(
        select(of_reason(FailureReason::CallbackFailed)).await,
        [lost]
    );
    assert_eq!(
        select(of_reason(FailureReason::Cancelled)).await,
        [cancelled]
    );
    let ids = vec![lost, under_way, cancelled];
    assert_eq!(select(Selection { ids, ..none() }).await, [lost, cancelled]);

    // A cancelled job is redelivered only if it was named.
    assert_eq!(
        apply(&store, BulkAction::Redeliver, &[lost, cancelled]).await,
        1
    );
    let named = Bulk {
        with_cancelled: true,
        ..bulk(BulkAction::Redeliver, &[lost, cancelled])
    };
    assert_eq!(store.apply(named).await.unwrap().changed, 1);
    for id in [lost, cancelled] {
        assert_eq!(row(&store, id).await.redelivery, Some(Status::Pending));
    }
}

async fn a_dry_run_changes_nothing_and_is_recorded(database: TestDatabase) {
    let store = database.open().await;
    let (new, done) = (
        accept(&store).await,
        finished(&store, Outcome::Completed).await,
    );
    let before = database.tables().await;
    for action in [BulkAction::Cancel, BulkAction::Redeliver] {
        let tried = Bulk {
            dry_run: true,
            ..bulk(action, &[new, done])
        };
        assert_eq!(store.apply(tried).await.unwrap(), Applied::default());
    }
    let after = Tables {
        audit: before.audit.clone(),
        ..database.tables().await
    };
    assert_eq!(after, before);
    let records = store.audit(None, 9).await.unwrap();
    let told: Vec<_> = records
        .iter()
        .map(|it| (it.action.as_str(), it.matched, it.changed, it.dry_run))
        .collect();
    assert_eq!(told, [("redeliver", 2, 0, true), ("cancel", 2, 0, true)]);
}

async fn pages_go_on_from_their_cursor_oldest_first(database: TestDatabase) {
    let store = database.open().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(accept(&store).await);
    }
    let (mut after, mut pages) = (None, Vec::new());
    loop {
        let page = SelectionPage {
            after,
            limit: 2,
            ..page(BulkAction::Cancel, Selection::default())
        };
        let Selected { requests, next } = store.select(page).await.unwrap();
        let found: Vec<_> = requests.into_iter().map(|(id, _)| id).collect();
        // What is done to a page leaves the next ones as they are.
        assert_eq!(apply(&store, BulkAction::Cancel, &found).await, found.len());
        pages.push(found);
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, [&ids[..2], &ids[2..4], &ids[4..]]);
}

async fn a_page_examines_a_limited_number_of_requests(database: TestDatabase) {
    let store = database.open().await;
    accept(&store).await;
    database.add_completed("busy", 10_500).await;
    let mut all = page(BulkAction::Cancel, Selection::default());
    let found = store.select(all.clone()).await.unwrap();
    assert!(found.requests.is_empty() && found.next.is_some());
    all.after = found.next;
    let found = store.select(all).await.unwrap();
    assert_eq!((found.requests.len(), found.next), (1, None));
    // Those of another client are not examined.
    let mine = accept_of(&store, "quiet", "https://a.example/").await;
    let of_mine = Selection {
        client: Some("quiet".parse().unwrap()),
        ..Selection::default()
    };
    assert_eq!(selected(&store, BulkAction::Cancel, of_mine).await, [mine]);
}

async fn what_has_changed_since_it_was_selected_is_not_counted(database: TestDatabase) {
    let store = database.open().await;
    let (id, other) = (accept(&store).await, accept(&store).await);
    let ids = selected(&store, BulkAction::Cancel, Selection::default()).await;
    assert_eq!(ids, [id, other]);
    let job = claim_one(&store, id).await.unwrap();
    crate::jobs::finish(&store, &job, success(), Outcome::Completed).await;
    assert_eq!(apply(&store, BulkAction::Cancel, &ids).await, 1);
    assert_eq!(status(&store, id).await, Status::Completed);
    let unknown = RequestId::generate();
    assert_eq!(apply(&store, BulkAction::Redeliver, &[unknown]).await, 0);
}

async fn an_action_says_what_became_of_each_request(database: TestDatabase) {
    let store = database.open().await;
    let (new, unknown) = (accept(&store).await, RequestId::generate());
    let done = finished(&store, Outcome::Completed).await;
    let parked = claimed(&store).await;
    park(&store, &parked).await;
    let parked = parked.claim.id;
    let ids = [parked, unknown, done];
    for changed in [1, 0] {
        let applied = store.apply(bulk(BulkAction::Cancel, &ids)).await.unwrap();
        assert_eq!(applied.changed, changed);
        let [(first, Acted::Cancelled(cancelled)), others @ ..] = applied.each.as_slice() else {
            panic!("{applied:?}");
        };
        assert_eq!((*first, cancelled.status), (parked, Status::Failed));
        let over = Uncancellable::Over(Status::Completed);
        assert_eq!(
            others,
            [
                (unknown, Acted::Uncancellable(Uncancellable::Unknown)),
                (done, Acted::Uncancellable(over)),
            ]
        );
    }
    let ids = [done, parked, new, unknown];
    let applied = store
        .apply(bulk(BulkAction::Redeliver, &ids))
        .await
        .unwrap();
    assert_eq!(applied.changed, 1);
    let why = |why| Acted::Unredeliverable(why);
    assert_eq!(
        applied.each,
        [
            (done, Acted::Redelivered),
            (parked, why(Unredeliverable::Cancelled)),
            (new, why(Unredeliverable::Unfinished)),
            (unknown, why(Unredeliverable::Unknown)),
        ]
    );
}
