//! What is accepted or recorded stays.

use jiff::Timestamp;
use storm_shared::{
    models::{Failure, FailureReason, RequestId, Status},
    services::report,
};

use crate::{
    database::TestDatabase,
    jobs::{accept, claim_one, row, spec, status},
};

on_every_engine! {
    an_accepted_job_is_committed_when_accept_returns,
    a_sync_request_is_recorded_once_and_never_claimed,
}

async fn an_accepted_job_is_committed_when_accept_returns(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    for (column, stored) in [
        ("status", "PENDING"),
        ("mode", "async"),
        (
            "input_payload",
            r#"{"report_name":"Q1_Finance","records":10}"#,
        ),
    ] {
        assert_eq!(database.text(id, column).await, stored, "{column}");
    }
}

async fn a_sync_request_is_recorded_once_and_never_claimed(database: TestDatabase) {
    let store = database.open().await;
    let (good, bad) = (RequestId::generate(), RequestId::generate());
    let failure = Failure::new(FailureReason::SyncTimeout, "Not done within 5s.");
    store
        .record_sync(
            good,
            Timestamp::now(),
            &spec(),
            None,
            Ok(&report::expected(&spec())),
        )
        .await
        .unwrap();
    store
        .record_sync(bad, Timestamp::now(), &spec(), None, Err(&failure))
        .await
        .unwrap();
    assert_eq!(status(&store, good).await, Status::Completed);
    assert_eq!(row(&store, bad).await.failure, Some(failure));
    assert!(claim_one(&store, good).await.is_none());
}
