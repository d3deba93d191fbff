//! How the server reads the rows for what runs often: along one index, however little it knows of
//! them.

use std::time::SystemTime;

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{
    claim,
    error::Error,
    fresh::Fresh,
    lanes::Lane,
    look::{self, ALONG_INDEXES},
    session::Parameter,
    suspects, unpark,
};
use crate::services::store::Work;

/// A backlog of which the server knows nothing: when it last counted the rows, none was pending.
const FILL: &str = "
    ALTER TABLE requests SET (autovacuum_enabled = off);
    ALTER TABLE redeliveries SET (autovacuum_enabled = off);
    INSERT INTO requests (id, mode, status, input_payload, created_at)
    SELECT gen_random_uuid(), 'async', 'COMPLETED', '{}', now() FROM generate_series(1, 3000);
    INSERT INTO redeliveries (id, status, claim, attempts, attempts_before, parks)
    SELECT gen_random_uuid(), 'PROCESSING', 1, 1, 0, 0 FROM generate_series(1, 3000);
    ANALYZE requests; ANALYZE redeliveries;
    INSERT INTO requests (id, mode, status, input_payload, created_at, due, is_long, claim, origin,
        lost_claims)
    SELECT gen_random_uuid(), 'async', 'PENDING', '{}', now(), now(), n % 2 = 0, n % 3, 'http://a',
        n % 5
    FROM generate_series(1, 3000) AS n;
    INSERT INTO redeliveries (id, status, claim, attempts, attempts_before, parks, due, origin,
        lost_claims)
    SELECT gen_random_uuid(), 'PENDING', 1, 1, 0, 0, now(), 'http://a', n % 5
    FROM generate_series(1, 3000) AS n";

/// The steps that read one of the tables, and those that sort.
async fn steps(fresh: &Fresh, sql: &str, values: &[Parameter<'_>]) -> Vec<String> {
    let explained = fresh.sessions.snapshot(async |session| {
        session.execute_all(ALONG_INDEXES).await?;
        let rows = session.query(&format!("EXPLAIN {sql}"), values).await?;
        let lines = rows.iter().map(|row| Ok(row.try_get(0)?));
        lines.collect::<Result<Vec<String>, Error>>()
    });
    let explained = explained.await.unwrap();
    let of_interest = |line: &String| {
        let reads = [" on requests", " on redeliveries"];
        line.contains("Sort ")
            || line.contains("Scan") && reads.iter().any(|table| line.contains(table))
    };
    explained.into_iter().filter(of_interest).collect()
}

#[tokio::test]
async fn searches_go_along_the_indexes_of_due_jobs_and_sort_nothing() {
    let fresh = Fresh::open().await;
    let text = || (&"a" as &(dyn ToSql + Sync), Type::TEXT);
    let (names, marks) = (["a", "b"], [Some(SystemTime::UNIX_EPOCH), None]);
    let (names, marks) = (&names[..], &marks[..]);
    let number = || (&9_i64 as &(dyn ToSql + Sync), Type::INT8);
    let id = (&Uuid::nil() as _, Type::UUID);
    let due = [
        text(),
        (&names as _, Type::TEXT_ARRAY),
        (&marks as _, Type::TIMESTAMPTZ_ARRAY),
        number(),
        number(),
    ];
    let tenants = [text(), text(), text(), number(), number()];
    let suspects = [number(), (&names as _, Type::TEXT_ARRAY), number()];
    let unpark = [text(), text(), number()];
    let release = [text(), text(), id, number()];
    let mut plans = Vec::new();
    for (lane, index) in [
        (Lane::Short, "requests_due"),
        (Lane::Redeliveries, "redeliveries_due"),
        (Lane::LONG, "requests_by_handler"),
        (Lane::Work("pdf"), "requests_by_handler"),
    ] {
        plans.push((index, lane.due_sql(), &due[..]));
        plans.push((index, lane.tenants_sql(), &tenants[..]));
        plans.push((index, lane.next_due_sql(), &due[..1]));
    }
    plans.push(("_waiting", look::next_due_sql(), &[]));
    for (work, index) in [
        (Work::Job, "requests_backlog"),
        (Work::Redelivery, "redeliveries_backlog"),
    ] {
        plans.push((index, unpark::parked_sql(work), &unpark[..]));
        plans.push((index, unpark::parked_by_pause_sql(work), &release[..]));
        let index = index.replace("backlog", "suspects");
        let index: &'static str = index.leak();
        plans.push((index, suspects::sql(work, "true"), &suspects[..]));
    }
    for is_full in [false, true] {
        if is_full {
            fresh.execute(FILL).await;
        }
        for (index, sql, values) in &plans {
            let steps = steps(&fresh, sql, values).await;
            let is_along = |step: &String| step.contains(" using ") && step.contains(index);
            assert!(
                !steps.is_empty() && steps.iter().all(is_along),
                "{sql}\n{steps:#?}"
            );
        }
    }
    fresh.drop().await;
}

#[tokio::test]
async fn a_claim_reads_its_candidates_by_their_ids() {
    let fresh = Fresh::open().await;
    fresh.execute(FILL).await;
    let ids = vec![Uuid::nil(); 500];
    let claims = vec![0_i64; 500];
    let number = || (&9_i64 as &(dyn ToSql + Sync), Type::INT8);
    let values = [
        (&Uuid::nil() as _, Type::UUID),
        (&ids as _, Type::UUID_ARRAY),
        (&claims as _, Type::INT8_ARRAY),
        number(),
        number(),
    ];
    for work in Work::ALL {
        for (sql, values) in [
            (claim::claim_sql(work), &values[..]),
            (claim::won_sql(work), &values[..3]),
        ] {
            let steps = steps(&fresh, &sql, values).await;
            let reads: Vec<_> = steps.iter().filter(|step| step.contains("Scan")).collect();
            let is_by_id = |step: &&&String| step.contains("_pkey on ");
            assert!(
                !reads.is_empty() && reads.iter().all(|step| is_by_id(&step)),
                "{sql}\n{reads:#?}"
            );
        }
    }
    fresh.drop().await;
}
