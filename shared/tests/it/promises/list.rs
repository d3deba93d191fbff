//! The list of requests: pages, filters, and whose requests it has.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use storm_shared::{
    models::{Failure, FailureReason, Mode, RequestId, Status},
    services::{
        report,
        store::{ListPage, NewJob, Outcome, RequestFilter, RequestList, Scope, Store},
    },
};

use crate::{
    database::TestDatabase,
    jobs::{accept, claim_one, claimed, failed, finished, redeliver, row, spec},
};

on_every_engine! {
    pages_have_every_request_once_newest_first,
    an_entry_says_what_became_of_the_request,
    requests_that_are_deleted_between_pages_hide_and_repeat_no_other,
    requests_that_are_accepted_between_pages_are_not_added,
    a_list_by_status_has_the_requests_of_that_status,
    a_list_by_time_goes_by_created_at_and_not_by_ids,
    requests_of_one_moment_are_split_between_pages,
    a_list_begins_and_ends_at_any_time_that_can_be_asked_for,
    a_client_lists_its_own_requests_only,
    a_page_examines_ten_thousand_requests_and_continues,
    other_clients_requests_are_not_examined,
    a_row_that_was_edited_by_hand_hides_no_other,
    many_pages_at_once_leave_room_for_short_reads,
}

fn page(filter: RequestFilter, limit: usize) -> ListPage {
    ListPage {
        filter,
        before: None,
        limit,
    }
}

fn with_status(status: Status) -> RequestFilter {
    RequestFilter {
        status: Some(status),
        ..RequestFilter::default()
    }
}

fn client(name: &str) -> Scope {
    Scope::Of(name.parse().unwrap())
}

async fn list(store: &Store, scope: &Scope, page: ListPage) -> RequestList {
    store.list(scope.clone(), page).await.unwrap()
}

fn ids(found: &RequestList) -> Vec<RequestId> {
    found.requests.iter().map(|request| request.id).collect()
}

/// The ids of each page, from `first` on.
async fn pages(store: &Store, scope: Scope, first: ListPage) -> Vec<Vec<RequestId>> {
    let mut pages = Vec::new();
    let mut page = first;
    loop {
        let found = list(store, &scope, page.clone()).await;
        pages.push(ids(&found));
        page.before = found.next;
        if found.next.is_none() {
            return pages;
        }
    }
}

/// The ids of the whole list.
async fn all(store: &Store, scope: Scope, filter: RequestFilter) -> Vec<RequestId> {
    pages(store, scope, page(filter, 100)).await.concat()
}

/// Accepts `count` jobs. Returns them newest first.
async fn accepted(store: &Store, count: usize) -> Vec<RequestId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.insert(0, accept(store).await);
    }
    ids
}

async fn accepted_by(store: &Store, name: &str) -> RequestId {
    let id = RequestId::generate();
    let job = NewJob {
        created_by: Some(name.parse().unwrap()),
        ..NewJob::new(id, spec(), None)
    };
    store.accept(job).await.unwrap();
    id
}

/// Accepts a job while the wall clock says `created_at`.
async fn accepted_at(store: &Store, created_at: Timestamp) -> RequestId {
    let id = RequestId::generate();
    let job = NewJob {
        created_at,
        ..NewJob::new(id, spec(), None)
    };
    store.accept(job).await.unwrap();
    id
}

async fn pages_have_every_request_once_newest_first(database: TestDatabase) {
    let store = database.open().await;
    let first = page(RequestFilter::default(), 2);
    assert_eq!(pages(&store, Scope::All, first.clone()).await, [[]]);
    let newest_first = accepted(&store, 5).await;
    let found = pages(&store, Scope::All, first).await;
    assert_eq!(found.concat(), newest_first);
    let lengths: Vec<_> = found.iter().map(Vec::len).collect();
    assert_eq!(lengths, [2, 2, 1]);
    // The last page is known as such also if it is full.
    let found = pages(&store, Scope::All, page(RequestFilter::default(), 5)).await;
    assert_eq!(found, [newest_first]);
}

async fn an_entry_says_what_became_of_the_request(database: TestDatabase) {
    let store = database.open().await;
    let failed_id = finished(&store, failed("It answered 500.")).await;
    let sync = RequestId::generate();
    let at: Timestamp = "2026-11-24T08:00:00Z".parse().unwrap();
    let done = report::expected(&spec());
    store
        .record_sync(sync, at, &spec(), None, Ok(&done))
        .await
        .unwrap();
    let found = list(&store, &Scope::All, page(RequestFilter::default(), 9)).await;
    let [sync_entry, failed_entry] = &found.requests[..] else {
        panic!("{found:?}")
    };
    assert_eq!((sync_entry.id, sync_entry.mode), (sync, Mode::Sync));
    assert_eq!(sync_entry.created_at, "2026-11-24T08:00:00.000Z");
    assert_eq!(
        (&sync_entry.callback_url, &sync_entry.failure),
        (&None, &None)
    );
    let full = row(&store, failed_id).await;
    assert_eq!(failed_entry.id, failed_id);
    assert_eq!(failed_entry.status, Status::Failed);
    assert_eq!(failed_entry.failure, full.failure);
    assert_eq!(failed_entry.callback_url, full.callback_url);
    assert_eq!(failed_entry.completed_at, full.completed_at);
    assert!(full.failure.is_some() && full.callback_url.is_some() && full.completed_at.is_some());
}

async fn requests_that_are_deleted_between_pages_hide_and_repeat_no_other(database: TestDatabase) {
    let store = database.open().await;
    let newest_first = accepted(&store, 7).await;
    let mut page = page(RequestFilter::default(), 2);
    let found = list(&store, &Scope::All, page.clone()).await;
    assert_eq!(ids(&found), newest_first[..2]);
    // Also the one that the cursor names, and the next one.
    for nth in [1, 2, 5] {
        database.delete(newest_first[nth]).await;
    }
    page.before = found.next;
    let rest = pages(&store, Scope::All, page).await.concat();
    assert_eq!(rest, [newest_first[3], newest_first[4], newest_first[6]]);
}

async fn requests_that_are_accepted_between_pages_are_not_added(database: TestDatabase) {
    let store = database.open().await;
    let newest_first = accepted(&store, 4).await;
    let mut page = page(RequestFilter::default(), 2);
    page.before = list(&store, &Scope::All, page.clone()).await.next;
    accept(&store).await;
    let rest = pages(&store, Scope::All, page).await.concat();
    assert_eq!(rest, newest_first[2..]);
}

async fn a_list_by_status_has_the_requests_of_that_status(database: TestDatabase) {
    let store = database.open().await;
    let pending = accept(&store).await;
    let completed = finished(&store, Outcome::Completed).await;
    let processing = claimed(&store).await.claim.id;
    let failed_ids = [
        finished(&store, failed("It answered 500.")).await,
        finished(&store, failed("It answered 500.")).await,
    ];
    // Its status does not change meanwhile.
    redeliver(&store, failed_ids[1]).await.unwrap();
    for (status, ids) in [
        (Status::Pending, vec![pending]),
        (Status::Processing, vec![processing]),
        (Status::Completed, vec![completed]),
        (Status::Failed, vec![failed_ids[1], failed_ids[0]]),
    ] {
        let found = all(&store, Scope::All, with_status(status)).await;
        assert_eq!(found, ids, "{status}");
    }
    assert!(claim_one(&store, pending).await.is_some());
    let found = all(&store, Scope::All, with_status(Status::Pending)).await;
    assert_eq!(found, []);
}

async fn a_list_by_time_goes_by_created_at_and_not_by_ids(database: TestDatabase) {
    let store = database.open().await;
    let midnight: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let hours = |hours| midnight + Duration::from_hours(hours);
    // The wall clock is set back by ten hours after the second one. Ids only increase.
    let mut requests = Vec::new();
    for at in [hours(10), hours(11), hours(1), hours(2), hours(48)] {
        requests.push(accepted_at(&store, at).await);
    }
    let filter = |after: Option<u64>, before: Option<u64>| RequestFilter {
        created_after: after.map(hours),
        created_before: before.map(hours),
        ..RequestFilter::default()
    };
    let found = async |filter| all(&store, Scope::All, filter).await;
    let [first, second, third, fourth, fifth] = requests[..] else {
        unreachable!()
    };
    let any = RequestFilter::default();
    assert_eq!(found(any).await, [fifth, fourth, third, second, first]);
    // From the first moment on, and before the second.
    assert_eq!(found(filter(Some(2), Some(11))).await, [fourth, first]);
    assert_eq!(found(filter(None, Some(3))).await, [fourth, third]);
    let since = [fifth, second, first];
    assert_eq!(found(filter(Some(10), None)).await, since);
    let a_millisecond = Duration::from_millis(1);
    let just_before = RequestFilter {
        created_before: Some(hours(1) + a_millisecond),
        ..filter(Some(1), None)
    };
    assert_eq!(found(just_before).await, [third]);
}

async fn requests_of_one_moment_are_split_between_pages(database: TestDatabase) {
    let store = database.open().await;
    let at = Timestamp::now();
    let mut newest_first = Vec::new();
    for _ in 0..6 {
        newest_first.insert(0, accepted_at(&store, at).await);
    }
    let filter = RequestFilter {
        created_after: Some(at - Duration::from_millis(1)),
        created_before: Some(at + Duration::from_millis(1)),
        ..with_status(Status::Pending)
    };
    let found = pages(&store, Scope::All, page(filter, 4)).await;
    assert_eq!(found, [&newest_first[..4], &newest_first[4..]]);
}

async fn a_list_begins_and_ends_at_any_time_that_can_be_asked_for(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let filter = RequestFilter {
        created_after: Some(Timestamp::MIN),
        created_before: Some(Timestamp::MAX),
        ..RequestFilter::default()
    };
    assert_eq!(all(&store, Scope::All, filter).await, [id]);
    let nothing = [
        RequestFilter {
            created_after: Some(Timestamp::MAX),
            ..RequestFilter::default()
        },
        RequestFilter {
            created_before: Some(Timestamp::MIN),
            ..RequestFilter::default()
        },
    ];
    for filter in nothing {
        assert_eq!(all(&store, Scope::All, filter).await, []);
    }
}

async fn a_client_lists_its_own_requests_only(database: TestDatabase) {
    let store = database.open().await;
    let nameless = accept(&store).await;
    let mut of_one = Vec::new();
    let mut of_other = Vec::new();
    for _ in 0..3 {
        of_one.insert(0, accepted_by(&store, "one").await);
        of_other.insert(0, accepted_by(&store, "other").await);
    }
    let sync = RequestId::generate();
    let failure = Failure::new(FailureReason::SyncTimeout, "Not done within 5s.");
    let created_by = Some("one".parse().unwrap());
    store
        .record_sync(sync, Timestamp::now(), &spec(), created_by, Err(&failure))
        .await
        .unwrap();
    of_one.insert(0, sync);
    let first = page(RequestFilter::default(), 2);
    assert_eq!(
        pages(&store, client("one"), first.clone()).await.concat(),
        of_one
    );
    assert_eq!(
        pages(&store, client("other"), first.clone()).await.concat(),
        of_other
    );
    // A cursor of another client says where to begin, and no more.
    let at_its_end = ListPage {
        before: Some(of_one[2]),
        ..first.clone()
    };
    let found = pages(&store, client("other"), at_its_end).await.concat();
    assert!(!found.is_empty() && found.iter().all(|id| of_other.contains(id)));
    assert_eq!(
        all(&store, client("nobody"), first.filter.clone()).await,
        []
    );
    let everything = all(&store, Scope::All, first.filter).await;
    assert_eq!(everything.len(), 8);
    assert_eq!(everything.last(), Some(&nameless));
}

async fn a_page_examines_ten_thousand_requests_and_continues(database: TestDatabase) {
    let store = database.open().await;
    // Older than the one that failed.
    database.add_completed("one", 10_001).await;
    let newest = finished(&store, failed("It answered 500.")).await;
    database.edit(newest, "created_by = 'one'").await;
    let filter = with_status(Status::Failed);
    for scope in [Scope::All, client("one")] {
        let mut page = page(filter.clone(), 20);
        let short = list(&store, &scope, page.clone()).await;
        assert_eq!(ids(&short), [newest]);
        page.before = Some(short.next.expect("two requests are left to examine"));
        let last = list(&store, &scope, page).await;
        assert_eq!((ids(&last), last.next), (vec![], None));
    }
    let (oldest, _) = database.tables().await.rows.into_keys().next().unwrap();
    database.edit(oldest, "status = 'FAILED'").await;
    database.edit(newest, "status = 'COMPLETED'").await;
    for scope in [Scope::All, client("one")] {
        let found = pages(&store, scope, page(filter.clone(), 20)).await;
        assert_eq!(found, [vec![], vec![oldest]]);
    }
}

async fn other_clients_requests_are_not_examined(database: TestDatabase) {
    let store = database.open().await;
    let oldest = accepted_by(&store, "one").await;
    database
        .edit(oldest, "id = '00000000-0000-7000-8000-000000000000'")
        .await;
    database.add_completed("other", 20_001).await;
    let newest = accepted_by(&store, "one").await;
    let found = list(&store, &client("one"), page(RequestFilter::default(), 9)).await;
    assert_eq!((found.requests.len(), found.next), (2, None));
    assert_eq!(found.requests[0].id, newest);
}

async fn a_row_that_was_edited_by_hand_hides_no_other(database: TestDatabase) {
    let store = database.open().await;
    let mut newest_first = Vec::new();
    for edit in database.invalid_jobs() {
        let id = finished(&store, failed("It answered 500.")).await;
        database.edit(id, edit).await;
        newest_first.insert(0, id);
    }
    for edit in [
        "failure_reason = 'of_a_later_release'",
        "created_at = 'yesterday'",
        "callback_url = 'no URL'",
    ] {
        let id = finished(&store, failed("It answered 500.")).await;
        database.edit(id, edit).await;
        newest_first.insert(0, id);
    }
    let found = all(&store, Scope::All, RequestFilter::default()).await;
    assert_eq!(found, newest_first);
}

async fn many_pages_at_once_leave_room_for_short_reads(database: TestDatabase) {
    let store = database.open().await;
    database.add_completed("one", 10_001).await;
    let id = accept(&store).await;
    let read = |_| {
        let store = store.clone();
        let page = page(with_status(Status::Processing), 1);
        tokio::spawn(async move { store.list(Scope::All, page).await.map(drop) })
    };
    // So that no connection has to be made for the short read.
    join_all((0..4).map(|_| row(&store, id))).await;
    let pages: Vec<_> = (0..60).map(read).collect();
    tokio::task::yield_now().await;
    row(&store, id).await;
    let done = pages.iter().filter(|page| page.is_finished()).count();
    assert!(done < 30, "{done} pages were read first");
    for page in pages {
        page.abort();
    }
}
