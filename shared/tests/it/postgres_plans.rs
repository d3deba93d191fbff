//! How the engine reads: along indexes, whatever the planner believes of the table.

use std::time::Duration;

use storm_shared::services::store::Store;
use tokio_postgres::Client;

use crate::postgres_server::{PostgresServer, until};

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
    client
        .batch_execute("SELECT pg_stat_reset()")
        .await
        .unwrap();
    until(async || reads(&client).await == [0; 3]).await;

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

    // What a connection has read shows after its end.
    until(async || reads(&client).await[1] >= 20).await;
    let [scans, _, rows] = reads(&client).await;
    assert_eq!(scans, 0);
    assert!(rows < 100, "{rows} rows were read");
}
