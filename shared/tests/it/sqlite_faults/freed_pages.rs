//! The pages that deleted requests leave: new requests use them, so the file stops growing.

use std::time::Duration;

use futures_util::future::join_all;
use storm_shared::services::store::{Outcome, OwnerId, Store};
use tempfile::TempDir;

use super::{direct, new_store};
use crate::jobs::{accept, claim_new, finish, new_worker, success};

/// Jobs of a round: they take more pages than the empty tables.
const JOBS: usize = 300;

async fn end_jobs(store: &Store, owner: OwnerId) {
    let ids = join_all((0..JOBS).map(|_| accept(store))).await;
    let jobs = claim_new(store, owner, &ids).await;
    assert_eq!(jobs.len(), JOBS);
    let ends = jobs
        .iter()
        .map(|job| finish(store, job, success(), Outcome::Completed));
    join_all(ends).await;
}

/// Deletes everything that has ended. Returns the number of requests.
async fn delete_all(store: &Store) -> usize {
    let (mut deleted, mut after) = (0, None);
    loop {
        let swept = store.sweep(Duration::ZERO, after).await.unwrap();
        deleted += swept.deleted;
        after = swept.next;
        if after.is_none() {
            return deleted;
        }
    }
}

/// The pages of the file and how many of them are free.
fn pages(folder: &TempDir) -> (u32, u32) {
    let database = direct(folder);
    let pragma = |name| database.pragma_query_value(None, name, |row| row.get(0));
    (
        pragma("page_count").unwrap(),
        pragma("freelist_count").unwrap(),
    )
}

#[tokio::test]
async fn the_pages_of_deleted_requests_are_used_again_and_the_file_stops_growing() {
    let (store, folder) = new_store().await;
    let owner = new_worker(&store).await;
    let (empty, _) = pages(&folder);
    end_jobs(&store, owner).await;
    assert_eq!(delete_all(&store).await, JOBS);
    let (first, free) = pages(&folder);
    assert!(
        first > 2 * empty && free > first / 2,
        "{empty} {first} {free}"
    );
    for _ in 0..10 {
        end_jobs(&store, owner).await;
        assert_eq!(delete_all(&store).await, JOBS);
    }
    let (last, _) = pages(&folder);
    // Rows may lie a little less densely than the first ones.
    assert!(last <= first + first / 5, "{first} pages, and later {last}");
    store.close().await;
}
