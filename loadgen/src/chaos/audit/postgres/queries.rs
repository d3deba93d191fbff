//! The SQL of the audit of a `PostgreSQL` database.

use std::collections::HashMap;

use anyhow::Result;
use tokio_postgres::{Client, Row};

use super::{
    super::log::{Columns, Log, Queries, Table, Times},
    snapshots::Snapshot,
};
use crate::chaos::history::Record;

const TRIGGERS: &str = include_str!("triggers.sql");

/// The rows of each table of the log.
pub(super) type Rows = Vec<(Table, Vec<Row>)>;

pub(super) async fn install_triggers(client: &Client) -> Result<()> {
    // Either all of it or nothing: it is tried again after a failure.
    let install = format!("BEGIN; {TRIGGERS} COMMIT");
    let installed = client.batch_execute(&install).await;
    if installed.is_err() {
        // Without a transaction this only warns. A connection that is lost needs none.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    Ok(installed?)
}

/// The server's clock, in microseconds since 1970.
pub(super) async fn server_time(client: &Client) -> Result<i64> {
    number(
        client,
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
    )
    .await
}

pub(super) async fn snapshot(client: &Client) -> Result<Snapshot> {
    let row = client.query_one("SELECT pg_current_snapshot()::text", &[]);
    let row = row.await?;
    row.try_get::<_, &str>(0)?.parse()
}

pub(super) async fn unfinished(client: &Client) -> Result<u64> {
    let count = "SELECT (SELECT count(*) FROM requests WHERE status IN ('PENDING', 'PROCESSING'))
              + (SELECT count(*) FROM redeliveries)";
    Ok(number(client, count).await?.try_into()?)
}

pub(super) async fn changes(client: &Client) -> Result<i64> {
    number(client, "SELECT coalesce(max(number), 0) FROM chaos_moves").await
}

/// The transaction that stored the newest job, and when that was created, in microseconds since
/// 1970; none: there is no job.
pub(super) async fn newest_job(client: &Client) -> Result<Option<(i64, i64)>> {
    let find = "SELECT xid, chaos_micros(created_at)
        FROM chaos_moves JOIN requests USING (id)
        WHERE old_status IS NULL AND NOT redelivery ORDER BY number DESC LIMIT 1";
    let row = client.query_opt(find, &[]).await?;
    let read = |row: Row| Ok((row.try_get(0)?, row.try_get(1)?));
    row.map(read).transpose()
}

pub(super) async fn heartbeats(client: &Client) -> Result<HashMap<String, i64>> {
    let rows = client
        .query("SELECT owner::text, beat FROM workers", &[])
        .await?;
    let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.iter().map(read).collect()
}

pub(super) async fn holds_redelivery(client: &Client, owner: &str) -> Result<bool> {
    let find = "SELECT EXISTS (SELECT 1 FROM redeliveries WHERE owner::text = $1)";
    Ok(client.query_one(find, &[&owner]).await?.try_get(0)?)
}

pub(super) async fn bytes(client: &Client) -> Result<u64> {
    let bytes = number(client, "SELECT pg_database_size(current_database())").await?;
    Ok(bytes.try_into()?)
}

async fn number(client: &Client, sql: &str) -> Result<i64> {
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

/// Reads what was logged.
pub(super) async fn read(client: &Client) -> Result<Rows> {
    // The services have stopped, so these reads need no common transaction.
    let mut rows = Vec::new();
    for (table, sql) in QUERIES.by_table() {
        rows.push((table, client.query(sql, &[]).await?));
    }
    Ok(rows)
}

pub(super) fn records(rows: &Rows, times: impl Times) -> Result<Vec<Record>> {
    let mut log = Log::new(times);
    for (table, rows) in rows {
        for row in rows {
            log.take(*table, row)?;
        }
    }
    Ok(log.records())
}

impl Columns for Row {
    fn text(&self, column: usize) -> Result<Option<String>> {
        Ok(self.try_get(column)?)
    }

    fn number(&self, column: usize) -> Result<Option<i64>> {
        Ok(self.try_get(column)?)
    }
}

const QUERIES: Queries = Queries {
    // The row of a redelivery does not say how it ended, and its request does not if it was
    // `COMPLETED`: its last attempt does.
    transitions: "SELECT xid, id::text,
        old_status, old_claim, old_owner::text, old_attempts, old_lost_claims, old_result,
        old_parks,
        coalesce(new_status, CASE WHEN
            EXISTS (SELECT 1 FROM chaos_successes WHERE request_id = chaos_moves.id
                    AND number = new_attempts AND claim = new_claim)
            THEN 'COMPLETED' ELSE 'FAILED' END),
        new_claim, new_owner::text, new_attempts, new_lost_claims, new_result, new_parks,
        old_due, new_due, redelivery::integer::bigint, erases::integer::bigint, reason,
        place, number
    FROM chaos_moves JOIN chaos_places USING (number) ORDER BY place",
    rows: "SELECT id::text,
        coalesce(chaos_name(input_payload), erased.report_name),
        status, claim, owner::text, attempts::bigint, lost_claims::bigint,
        chaos_result(result_payload), parks::bigint, failure_reason, failure_detail,
        (callback_url IS NOT NULL OR coalesce(erased.called_back, false))::integer::bigint,
        chaos_time(completed_at, 'US'), chaos_time(created_at, 'US'), handler::text
    FROM requests LEFT JOIN chaos_erased AS erased USING (id)
    UNION ALL
    SELECT id::text, report_name, status, claim, owner::text, attempts, lost_claims,
        result_payload, parks, failure_reason, failure_detail, called_back::integer::bigint,
        completed_at, created_at, handler
    FROM chaos_deleted ORDER BY 1",
    // What is left of an erased request, by table and column, until the request is deleted.
    erasures: "SELECT id::text, coalesce(erased.erased_at, ''),
        outcome_kept::integer::bigint,
        concat_ws(',',
            CASE WHEN input_payload::text <> '{\"erased\":true}'
                THEN 'requests.input_payload' END,
            CASE WHEN result_payload IS NOT NULL THEN 'requests.result_payload' END,
            CASE WHEN callback_url IS NOT NULL THEN 'requests.callback_url' END,
            CASE WHEN callback_target IS NOT NULL THEN 'requests.callback_target' END,
            CASE WHEN origin IS NOT NULL THEN 'requests.origin' END,
            CASE WHEN traceparent IS NOT NULL THEN 'requests.traceparent' END,
            CASE WHEN EXISTS (SELECT 1 FROM attempts WHERE request_id = erased.id
                    AND coalesce(error, internal_detail) IS NOT NULL)
                THEN 'attempts.error' END,
            CASE WHEN EXISTS (SELECT 1 FROM events WHERE request_id = erased.id
                    AND detail IS NOT NULL)
                THEN 'events.detail' END,
            CASE WHEN EXISTS (SELECT 1 FROM idempotency_keys
                        WHERE request_id = erased.id AND fingerprint <> '')
                THEN 'idempotency_keys.fingerprint' END)
    FROM chaos_erased AS erased LEFT JOIN requests USING (id) ORDER BY id",
    // Its records in the audit are those until the next change of the same kind.
    pauses: "SELECT xid, nullif(origin, ''), paused::integer::bigint,
        (SELECT count(*) FROM chaos_audit AS audited
         WHERE changed > 0 AND action = CASE WHEN paused THEN 'pause' ELSE 'resume' END
             AND CASE WHEN change.origin = '' THEN filter::json ->> 'everything' = 'true'
                      ELSE filter::json ->> 'origin' = change.origin END
             AND audited.number > change.number
             AND audited.number < coalesce(
                 (SELECT min(number) FROM chaos_pauses AS next
                  WHERE next.number > change.number AND next.origin = change.origin
                      AND next.paused = change.paused),
                 9223372036854775807))
    FROM chaos_pauses AS change ORDER BY number",
    filters: "SELECT xid, (action = 'cancel')::integer::bigint, filter, matched, changed,
        dry_run::integer::bigint, place
    FROM chaos_audit JOIN chaos_places USING (number)
    WHERE action IN ('cancel', 'redeliver') ORDER BY number",
    deletions: "SELECT xid, id::text, ended, redelivering::integer::bigint
    FROM chaos_deleted ORDER BY number",
    worked: "SELECT xid, id::text, result, reason FROM chaos_worked ORDER BY number",
    work_attempts: "SELECT request_id::text, number, claim, class, status
    FROM chaos_work_attempts",
    events: "SELECT xid, id::text, event, claim, detail
    FROM chaos_events ORDER BY number",
};
