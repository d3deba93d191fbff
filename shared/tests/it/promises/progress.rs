//! How far requests are, for those who wait for them.

use storm_shared::{
    models::RequestId,
    services::store::{Outcome, Progress, Scope, Settlement, Store},
};

use super::handlers::{RESULT, accept_of, claim_work, failed_work, result, told_of_failed_work};
use crate::{
    database::TestDatabase,
    jobs::{
        accept, claim_due, claimed, delivered, fail_attempt, failed, finished, redeliver,
        writes_nothing,
    },
};

on_every_engine! {
    progress_tells_when_the_result_is_stored_and_when_a_request_is_over,
    the_progress_of_a_failed_work_shows_once_its_request_is_over,
    the_progress_of_many_requests_comes_in_their_order,
}

async fn progress(store: &Store, id: RequestId) -> Progress {
    store.progress_of(&[id]).await.unwrap().pop().unwrap()
}

async fn progress_tells_when_the_result_is_stored_and_when_a_request_is_over(
    database: TestDatabase,
) {
    let store = database.open().await;
    let id = RequestId::generate();
    assert_eq!(progress(&store, id).await, Progress::Unknown);

    let id = accept_of(&store, "pdf").await;
    assert_eq!(progress(&store, id).await, Progress::Unfinished);
    let job = claim_work(&store, id).await;
    assert_eq!(progress(&store, id).await, Progress::Unfinished);
    let stored = store.store_worked(job.claim, Ok(result(RESULT)), None);
    stored.await.unwrap();
    assert_eq!(progress(&store, id).await, Progress::Worked);
    // Its callback is put off.
    let give_back = Settlement::GiveBack;
    store.settle(job.claim, None, give_back).await.unwrap();
    assert_eq!(progress(&store, id).await, Progress::Worked);
    writes_nothing(&store, job.claim, &result(RESULT)).await;
    let job = claim_due(&store).await.pop().unwrap();
    store.settle(job.claim, None, delivered()).await.unwrap();
    assert_eq!(progress(&store, id).await, Progress::Over);
    // A redelivery changes no outcome.
    redeliver(&store, id).await.unwrap();
    assert_eq!(progress(&store, id).await, Progress::Over);

    // A result that is too large for the row of its request.
    let large = format!("[{:?}]", "a".repeat(10_000));
    let id = accept_of(&store, "pdf").await;
    let job = claim_work(&store, id).await;
    let stored = store.store_worked(job.claim, Ok(result(&large)), None);
    stored.await.unwrap();
    assert_eq!(progress(&store, id).await, Progress::Worked);

    // A report's result is stored with its first outcome.
    let job = claimed(&store).await;
    fail_attempt(&store, &job).await;
    assert_eq!(progress(&store, job.claim.id).await, Progress::Worked);

    let id = accept(&store).await;
    store.cancel(Scope::All, id).await.unwrap().unwrap();
    assert_eq!(progress(&store, id).await, Progress::Over);
}

async fn the_progress_of_a_failed_work_shows_once_its_request_is_over(database: TestDatabase) {
    let store = database.open().await;
    let job = failed_work(&store).await;
    assert_eq!(progress(&store, job.claim.id).await, Progress::Unfinished);
    let id = told_of_failed_work(&store).await;
    assert_eq!(progress(&store, id).await, Progress::Over);
}

async fn the_progress_of_many_requests_comes_in_their_order(database: TestDatabase) {
    let store = database.open().await;
    assert_eq!(store.progress_of(&[]).await.unwrap(), []);
    let completed = finished(&store, Outcome::Completed).await;
    let failed = finished(&store, failed("It answered 500.")).await;
    let waiting = accept(&store).await;
    // More than one read takes.
    let mut ids = vec![completed];
    ids.extend((0..1500).map(|_| RequestId::generate()));
    ids.extend([waiting, failed, waiting]);
    let found = store.progress_of(&ids).await.unwrap();
    assert_eq!(found.len(), ids.len());
    assert_eq!(found[0], Progress::Over);
    assert!(found[1..=1500].iter().all(|it| *it == Progress::Unknown));
    let last = [Progress::Unfinished, Progress::Over, Progress::Unfinished];
    assert_eq!(found[1501..], last);
}
