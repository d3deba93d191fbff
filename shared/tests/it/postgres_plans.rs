//! How the engine reads: along indexes, whatever the planner believes of the table.

use std::time::Duration;

use storm_shared::services::store::{Claim, Store};
use tokio_postgres::Client;

use crate::{
    jobs::{accept, claim_new, delivered, heartbeat_of, new_worker, retry, timeout},
    postgres_server::{PostgresServer, until},
};

/// Fills the table as after a long run: mostly finished requests, and a backlog of two tenants, of
/// which some jobs are parked.
const FILL: &str = "
    INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at, created_by,
        origin, is_long, handler, due, claim, completed_at, parked_at)
    SELECT gen_random_uuid(), 'async', status, '{}', 'http://a/', now(), tenant, 'http://a',
        is_long, CASE WHEN is_long THEN 'pdf' END, CASE status WHEN 'PENDING' THEN now() END,
        claim, CASE status WHEN 'COMPLETED' THEN now() END, CASE claim WHEN 1 THEN now() END
    FROM generate_series(1, 10000) AS i, LATERAL (
        SELECT CASE i % 4 WHEN 0 THEN 'PENDING' ELSE 'COMPLETED' END AS status,
            i % 16 = 0 AS is_long, CASE i % 8 WHEN 0 THEN 'one' END AS tenant,
            (i % 12 = 0)::integer AS claim) AS kind;";

/// How often the table was scanned, how often one of its indexes, and how many of its rows were
/// read by way of an index.
async fn reads(client: &Client) -> [i64; 3] {
    let reads = "SELECT coalesce(seq_scan, 0), coalesce(idx_scan, 0), coalesce(idx_tup_fetch, 0)
         FROM pg_stat_user_tables WHERE relname = 'requests'";
    let row = client.query_one(reads, &[]).await.unwrap();
    [0, 1, 2].map(|column| row.get(column))
}

/// Waits until all other connections have ended: then what they have read is in the statistics.
async fn until_others_are_gone(client: &Client) {
    let others = "SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    until(async || {
        let row = client.query_one(others, &[]).await.unwrap();
        row.get::<_, i64>(0) == 0
    })
    .await;
}

/// Forgets what was read until now.
async fn forget_reads(client: &Client) {
    until_others_are_gone(client).await;
    let reset = "SELECT pg_stat_reset()";
    client.batch_execute(reset).await.unwrap();
    until(async || reads(client).await == [0; 3]).await;
}

#[tokio::test]
async fn counts_go_along_indexes_and_read_no_row_that_vacuum_has_seen() {
    let server = PostgresServer::start(&["autovacuum = off"]);
    let service = Store::open(&server.settings()).await.unwrap();
    let client = server.client().await;
    client.batch_execute(FILL).await.unwrap();
    client
        .batch_execute("VACUUM ANALYZE requests")
        .await
        .unwrap();
    service.close().await;
    forget_reads(&client).await;

    let store = Store::attach(&server.settings()).await.unwrap();
    let load = store.load(100_000, Duration::ZERO, true).await.unwrap();
    assert_eq!((load.unfinished, load.waiting), (2500, 2500));
    assert_eq!(load.tenants.len(), 2);
    let handlers = store.handlers_load().await.unwrap();
    assert_eq!(handlers[&"pdf".parse().unwrap()].waiting, 625);
    assert_eq!(store.destinations_over_limit(300).await.unwrap().len(), 2);
    assert!(store.oldest_due_age().await.unwrap().is_some());
    assert_eq!(store.stats().await.unwrap().requests.completed, 7500);
    store.close().await;

    until_others_are_gone(&client).await;
    until(async || reads(&client).await[1] >= 20).await;
    let [scans, _, rows] = reads(&client).await;
    assert_eq!(scans, 0);
    assert!(rows < 100, "{rows} rows were read");
}

/// Settles all these claims at the same time.
async fn settle(store: &Store, claims: Vec<Claim>) {
    let settle = |(n, claim)| {
        let settlement = if n % 2 == 0 {
            delivered()
        } else {
            retry(timeout(1), Duration::ZERO)
        };
        let store = store.clone();
        tokio::spawn(async move { store.settle(claim, None, settlement).await })
    };
    let settling: Vec<_> = claims.into_iter().enumerate().map(settle).collect();
    for settled in settling {
        settled.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn settlements_an_expiry_and_a_sweep_read_few_rows_but_theirs() {
    const JOBS: usize = 300;
    let server = PostgresServer::start(&["autovacuum = off"]);
    let service = Store::open(&server.settings()).await.unwrap();
    let client = server.client().await;
    client.batch_execute(FILL).await.unwrap();
    // As far as the planner knows, no worker holds a job.
    client
        .batch_execute("VACUUM ANALYZE requests")
        .await
        .unwrap();
    let (worker, dead) = (new_worker(&service).await, new_worker(&service).await);
    let seen = heartbeat_of(&service, dead).await;
    let mut ids = Vec::new();
    for _ in 0..2 * JOBS {
        ids.push(accept(&service).await);
    }
    let claimed = claim_new(&service, worker, &ids[..JOBS]).await;
    assert_eq!(claim_new(&service, dead, &ids[JOBS..]).await.len(), JOBS);
    service.close().await;

    let mut read = Vec::new();
    for work in ["settle", "expire", "sweep"] {
        forget_reads(&client).await;
        let store = Store::attach(&server.settings()).await.unwrap();
        match work {
            "settle" => settle(&store, claimed.iter().map(|job| job.claim).collect()).await,
            "expire" => {
                let expired = store.expire(seen, 5).await.unwrap().unwrap();
                assert_eq!(expired.reclaimed, JOBS);
            }
            _ => {
                let swept = store.sweep(Duration::from_hours(1), None).await.unwrap();
                assert_eq!((swept.deleted, swept.next.is_some()), (0, true));
            }
        }
        store.close().await;
        until_others_are_gone(&client).await;
        until(async || reads(&client).await[1] > 0).await;
        let [scans, _, rows] = reads(&client).await;
        assert_eq!(scans, 0, "{work}");
        read.push(usize::try_from(rows).unwrap());
    }
    // Each is read once by each statement that changes it, or looks at it.
    let most = [3 * JOBS, 7 * JOBS, 3 * 500];
    assert!(
        read.iter().zip(most).all(|(read, most)| *read <= most),
        "{read:?} rows were read"
    );
}
