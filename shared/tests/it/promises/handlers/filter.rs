//! Lists of the requests of a handler, and what is done to all of them.

use storm_shared::{
    models::{FailureReason, RequestId},
    services::store::{
        BulkAction, ListPage, RequestFilter, Scope, Selection, SelectionPage, Store,
    },
};

use super::{handler, job_of, store_job, told_of_failed_work};
use crate::{
    database::TestDatabase,
    jobs::{accept, failed, finished},
};

on_every_engine! {
    a_list_of_a_handler_has_its_requests_and_a_cursor_of_its_own,
    what_is_done_to_the_requests_of_a_handler_is_done_to_no_other,
}

fn of(name: &str) -> RequestFilter {
    RequestFilter {
        handler: Some(handler(name)),
        ..RequestFilter::default()
    }
}

async fn listed(store: &Store, filter: RequestFilter) -> Vec<RequestId> {
    let page = ListPage {
        filter,
        before: None,
        limit: 9,
    };
    let found = store.list(Scope::All, page).await.unwrap();
    found.requests.into_iter().map(|it| it.id).collect()
}

async fn a_list_of_a_handler_has_its_requests_and_a_cursor_of_its_own(database: TestDatabase) {
    let store = database.open().await;
    let report = accept(&store).await;
    let pdf = store_job(&store, job_of("pdf", "{}")).await;
    let other = store_job(&store, job_of("other", "{}")).await;
    assert_eq!(listed(&store, of("pdf")).await, [pdf]);
    assert_eq!(listed(&store, of("other")).await, [other]);
    assert_eq!(listed(&store, of("report")).await, [report]);
    assert_eq!(listed(&store, of("nobodys")).await, []);
    let any = RequestFilter::default();
    assert_eq!(listed(&store, any.clone()).await, [other, pdf, report]);

    let cursor = of("pdf").cursor(pdf);
    assert_eq!(of("pdf").position(&cursor), Some(pdf));
    for filter in [of("other"), any] {
        assert_eq!(filter.position(&cursor), None);
    }
}

async fn what_is_done_to_the_requests_of_a_handler_is_done_to_no_other(database: TestDatabase) {
    let store = database.open().await;
    let report = finished(&store, failed("It answered 500.")).await;
    let pdf = told_of_failed_work(&store).await;
    let unfinished = store_job(&store, job_of("other", "{}")).await;
    let selected = async |action, name, reason| {
        let page = SelectionPage {
            action,
            selection: Selection {
                handler: Some(handler(name)),
                reason,
                ..Selection::default()
            },
            after: None,
            limit: 9,
        };
        let selected = store.select(page).await.unwrap().requests.into_iter();
        selected.map(|(id, _)| id).collect::<Vec<_>>()
    };
    let (redeliver, cancel) = (BulkAction::Redeliver, BulkAction::Cancel);
    assert_eq!(selected(redeliver, "report", None).await, [report]);
    assert_eq!(selected(redeliver, "pdf", None).await, [pdf]);
    let work_failed = Some(FailureReason::WorkFailed);
    assert_eq!(selected(redeliver, "pdf", work_failed).await, [pdf]);
    assert_eq!(selected(redeliver, "report", work_failed).await, []);
    assert_eq!(selected(cancel, "pdf", None).await, []);
    assert_eq!(selected(cancel, "other", None).await, [unfinished]);
}
