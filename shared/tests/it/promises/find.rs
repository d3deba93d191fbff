//! Tenancy: which client finds which request.

use jiff::Timestamp;
use storm_shared::{
    models::{ClientName, RequestId},
    services::{
        report,
        store::{NewJob, Scope, Store},
    },
};

use crate::{database::TestDatabase, jobs::spec};

on_every_engine! {
    a_request_is_found_only_in_its_clients_scope_and_in_the_scope_of_all,
}

fn name(text: &str) -> ClientName {
    text.parse().unwrap()
}

async fn accept(store: &Store, created_by: Option<ClientName>) -> RequestId {
    let id = RequestId::generate();
    let job = NewJob {
        created_by,
        ..NewJob::new(id, spec(), None)
    };
    store.accept(job).await.unwrap();
    id
}

async fn record(store: &Store, created_by: Option<ClientName>) -> RequestId {
    let id = RequestId::generate();
    let done = report::expected(&spec());
    store
        .record_sync(id, Timestamp::now(), &spec(), created_by, Ok(&done))
        .await
        .unwrap();
    id
}

/// Whether the request is found within the scopes of client `one`, client `other`, and all.
async fn found(store: &Store, id: RequestId) -> (bool, bool, bool) {
    let is_found = async |scope| store.find_within(scope, id).await.unwrap().is_some();
    (
        is_found(Scope::Of(name("one"))).await,
        is_found(Scope::Of(name("other"))).await,
        is_found(Scope::All).await,
    )
}

async fn a_request_is_found_only_in_its_clients_scope_and_in_the_scope_of_all(
    database: TestDatabase,
) {
    let store = database.open().await;
    for (created_by, seen) in [
        (Some("one"), (true, false, true)),
        (Some("other"), (false, true, true)),
        (Some("One"), (false, false, true)),
        (None, (false, false, true)),
    ] {
        let created_by = created_by.map(name);
        let job = accept(&store, created_by.clone()).await;
        assert_eq!(found(&store, job).await, seen);
        let sync = record(&store, created_by).await;
        assert_eq!(found(&store, sync).await, seen);
    }
    assert_eq!(
        found(&store, RequestId::generate()).await,
        (false, false, false)
    );
}
