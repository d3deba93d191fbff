//! The counts for operators, and the store of an operator's command beside those of services.

use std::time::Duration;

use storm_shared::{
    models::Status,
    services::store::{COUNTED, Outcome, Scope, Store, StoreError},
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, claimed, fail_attempt, failed, finished, new_worker, redeliver, retry, timeout,
    },
};

on_every_engine! {
    requests_are_counted_by_their_status,
    a_workers_jobs_and_redeliveries_are_counted_and_its_heartbeat_is_dated,
    a_scheduled_job_counts_as_backlog_of_its_destination_and_is_not_due,
    a_command_uses_what_a_service_has_made_and_makes_nothing,
}

async fn requests_are_counted_by_their_status(database: TestDatabase) {
    let store = database.open().await;
    let stats = store.stats().await.unwrap();
    assert_eq!(
        stats.requests,
        storm_shared::services::store::RequestStats::default()
    );
    assert_eq!(
        (stats.store.as_str(), stats.counted_up_to),
        (store.id(), COUNTED)
    );
    assert!(stats.files.database_bytes > 0);
    let done = finished(&store, Outcome::Completed).await;
    for _ in 0..2 {
        finished(&store, failed("refused")).await;
    }
    claimed(&store).await;
    redeliver(&store, done).await.unwrap();
    for _ in 0..3 {
        accept(&store).await;
    }
    let counts = store.stats().await.unwrap().requests;
    assert_eq!((counts.pending, counts.processing), (3, 1));
    assert_eq!(
        (counts.completed, counts.failed, counts.redeliveries),
        (1, 2, 1)
    );
}

async fn a_workers_jobs_and_redeliveries_are_counted_and_its_heartbeat_is_dated(
    database: TestDatabase,
) {
    let store = database.open().await;
    let idle = new_worker(&store).await.to_string();
    let busy = claimed(&store).await.claim.owner.to_string();
    database
        .set_heartbeat(idle.parse().unwrap(), "2020-01-01T00:00:00.000Z")
        .await;
    let workers = store.stats().await.unwrap().workers;
    let of = |owner: &str| workers.iter().find(|worker| worker.owner == owner).unwrap();
    assert_eq!((of(&idle).jobs, of(&busy).jobs), (0, 1));
    assert!(of(&idle).heartbeat_age_ms > of(&busy).heartbeat_age_ms);
}

async fn a_scheduled_job_counts_as_backlog_of_its_destination_and_is_not_due(
    database: TestDatabase,
) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let hour = Duration::from_hours(1);
    store
        .settle(job.claim, None, retry(timeout(1), hour))
        .await
        .unwrap();
    let again = claimed(&store).await;
    fail_attempt(&store, &again).await;
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.requests.pending, 2);
    assert!(
        stats.requests.due <= 1,
        "the other is due in an hour: {stats:?}"
    );
    let [destination] = stats.destinations.as_slice() else {
        panic!("{stats:?}");
    };
    assert_eq!(
        (destination.tenant.as_ref(), destination.backlog),
        (None, 2)
    );
    assert_eq!(destination.origin, "http://example.com");
}

async fn a_command_uses_what_a_service_has_made_and_makes_nothing(database: TestDatabase) {
    let settings = database.settings();
    for _ in 0..2 {
        let refused = Store::attach(&settings).await;
        assert!(matches!(refused, Err(StoreError::Unusable(_))));
    }
    let service = database.open().await;
    let id = accept(&service).await;
    let command = Store::attach(&settings).await.unwrap();
    assert_eq!(command.id(), service.id());
    command.cancel(Scope::All, id).await.unwrap().unwrap();
    command.close().await;
    let row = service.find(id).await.unwrap().unwrap();
    assert_eq!(row.status, Status::Failed);
    service.check().await.unwrap();
}
