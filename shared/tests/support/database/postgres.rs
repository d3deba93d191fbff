//! A database of the `PostgreSQL` engine: one for each test, on the server at `TEST_POSTGRES`.

use std::{fmt::Debug, str::FromStr, sync::Arc, time::Duration};

use storm_shared::{
    config::{Settings, StoreSettings},
    models::RequestId,
    services::store::{OwnerId, Work},
};
use tokio::{sync::OnceCell, task::JoinHandle};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::{Due, Entry, History, Key, Moment, Parked, Row, Tables};
use crate::postgres_database::{LOCK, PostgresDatabase, connect};

// The column's type is checked by the server: what is no JSON can't be stored.
pub(super) const INVALID_JOBS: [&str; 3] = [
    "input_payload = '{}'",
    "result_payload = '[]'",
    "callback_target = 'no URL'",
];
pub(super) const INVALID_TRACES: [&str; 2] = ["traceparent = NULL", "traceparent = '00-nonsense'"];
// The empty name counts as none.
pub(super) const ODD_CLIENT_NAMES: [&str; 3] = ["' '", "'no name'", "'\u{1}'"];
// The column takes times only.
pub(super) const INVALID_CREATED_AT: &str = "created_at = 'infinity'";
pub(super) const INVALID_DUE_TIMES: [&str; 2] = ["due = '9000-01-01'", "due = 'epoch'"];

/// The columns that [`read`] reads, of each table of what is claimed. Times are in milliseconds.
const COLUMNS: [(&str, &str); 2] = [
    (
        "requests",
        "id, 0, status, claim, owner, attempts, 0, lost_claims, parks,
         floor(extract(epoch FROM due) * 1000)::bigint, result_payload::text, failure_reason,
         completed_at, erased_at, parked_at > now() + interval '1 year'",
    ),
    (
        "redeliveries",
        "id, 1, status, claim, owner, attempts, attempts_before, lost_claims, parks,
         floor(extract(epoch FROM due) * 1000)::bigint, NULL::text, NULL::text,
         NULL::timestamptz, NULL::timestamptz, parked_at > now() + interval '1 year'",
    ),
];

/// The attempts, wherever they are.
const ATTEMPTS: &str = "(
    SELECT request_id, number, class, claim FROM attempts
    UNION ALL
    SELECT id, (delivered ->> 'number')::integer, 'success', (delivered ->> 'claim')::bigint
    FROM requests WHERE delivered IS NOT NULL) AS attempts";

/// Records each row after every change, also of several changes within one transaction.
const HISTORY: &str = "
    CREATE TABLE history (
        place bigint GENERATED ALWAYS AS IDENTITY, id uuid, work integer, status text,
        claim bigint, owner uuid, attempts integer, attempts_before integer, lost_claims integer,
        parks integer, due bigint, result_payload text, failure_reason text,
        completed_at timestamptz, erased_at timestamptz, parked_by_pause boolean,
        beside_it integer, is_deleted boolean, is_paused boolean, is_origin_paused boolean
    );
    CREATE TABLE attempts_ever (request_id uuid, number integer, class text, claim bigint);
    CREATE FUNCTION attempt_ever() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO attempts_ever VALUES (NEW.request_id, NEW.number, NEW.class, NEW.claim);
        RETURN NULL;
    END $$;
    CREATE TRIGGER attempts_ever AFTER INSERT ON attempts
        FOR EACH ROW EXECUTE FUNCTION attempt_ever();
    CREATE FUNCTION delivered_ever() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO attempts_ever VALUES (NEW.id, (NEW.delivered ->> 'number')::integer, 'success',
            (NEW.delivered ->> 'claim')::bigint);
        RETURN NULL;
    END $$;
    CREATE TRIGGER delivered_ever AFTER UPDATE ON requests
        FOR EACH ROW WHEN (NEW.delivered IS NOT NULL
            AND NEW.delivered::text IS DISTINCT FROM OLD.delivered::text)
        EXECUTE FUNCTION delivered_ever();
    CREATE TABLE events_ever (
        request_id uuid, event text, claim bigint, detail text, number integer);
    CREATE FUNCTION event_ever() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO events_ever
        VALUES (NEW.request_id, NEW.event, NEW.claim, NEW.detail, NEW.number);
        RETURN NULL;
    END $$;
    CREATE TRIGGER events_ever AFTER INSERT ON events
        FOR EACH ROW EXECUTE FUNCTION event_ever();
    CREATE VIEW held AS
        SELECT id, owner FROM requests WHERE status = 'PROCESSING'
        UNION ALL
        SELECT id, owner FROM redeliveries WHERE status = 'PROCESSING';";

/// Empties the tables, however the last case has ended: a transaction of it may still run. The
/// triggers that record the history stay, and say nothing of this.
const EMPTY: &str = "
    DO $$ DECLARE it text; BEGIN
        PERFORM pg_terminate_backend(pid, 60000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND backend_type = 'client backend' AND state <> 'idle';
        SET LOCAL session_replication_role = replica;
        FOR it IN SELECT tablename FROM pg_tables
            WHERE schemaname = current_schema() AND tablename <> 'store' LOOP
            EXECUTE format('DELETE FROM %I', it);
        END LOOP;
        IF to_regclass('store') IS NOT NULL THEN UPDATE store SET resumed = 'epoch'; END IF;
    END $$";

pub(crate) struct Database {
    database: Arc<PostgresDatabase>,
    /// Opened at its first use: a store has to create the tables first.
    direct: OnceCell<Client>,
}

/// A connection that has locked the tables for writes.
pub(crate) struct Lock {
    client: Client,
    connection: JoinHandle<()>,
}

impl Lock {
    pub(super) async fn release(self) {
        self.client.batch_execute("ROLLBACK").await.unwrap();
        drop(self.client);
        let _ = self.connection.await;
    }
}

impl Database {
    pub(super) async fn fresh() -> Self {
        Self {
            database: Arc::new(PostgresDatabase::fresh().await),
            direct: OnceCell::new(),
        }
    }

    pub(super) async fn again(&self) -> Self {
        let again = Self {
            database: Arc::clone(&self.database),
            direct: OnceCell::new(),
        };
        again.execute(EMPTY).await;
        again
    }

    pub(super) fn settings(&self) -> StoreSettings {
        let url = self.database.pooled_url();
        Settings::with([("DB_URL", url.as_str())]).unwrap().store
    }

    pub(super) async fn hold_lock(&self) -> Lock {
        let (client, connection) = connect(&self.database.url()).await;
        client.batch_execute(LOCK).await.unwrap();
        Lock { client, connection }
    }

    pub(super) async fn edit(&self, id: RequestId, assignments: &str) {
        let edit = format!("UPDATE requests SET {assignments} WHERE id = '{id}'");
        let edited = self.direct().await.execute(&edit, &[]).await;
        assert_eq!(edited.unwrap(), 1, "{assignments}");
    }

    pub(super) async fn delete(&self, id: RequestId) {
        let delete = format!("DELETE FROM requests WHERE id = '{id}'");
        let deleted = self.direct().await.execute(&delete, &[]).await;
        assert_eq!(deleted.unwrap(), 1, "{id}");
    }

    pub(super) async fn set_heartbeat(&self, owner: OwnerId, at: &str) {
        self.execute(&format!(
            "UPDATE workers SET renewed_at = '{at}' WHERE owner = '{owner}'"
        ))
        .await;
    }

    pub(super) async fn set_report(&self, owner: OwnerId, report: &str) {
        self.execute(&format!(
            "UPDATE workers SET report = '{report}' WHERE owner = '{owner}'"
        ))
        .await;
    }

    pub(super) async fn forget_breakers(&self, owner: OwnerId) {
        self.execute(&format!(
            "UPDATE workers SET breakers = NULL WHERE owner = '{owner}'"
        ))
        .await;
    }

    pub(super) async fn make_redelivery_due(&self, id: RequestId) {
        self.execute(&format!(
            "UPDATE redeliveries SET due = 'epoch' WHERE id = '{id}'"
        ))
        .await;
    }

    pub(super) async fn park_earlier(&self, time: Duration) {
        for table in ["requests", "redeliveries"] {
            let millis = time.as_millis();
            self.execute(&format!(
                "UPDATE {table} SET parked_at = parked_at - interval '{millis} milliseconds'"
            ))
            .await;
        }
    }

    pub(super) async fn end_earlier(&self, id: RequestId, time: Duration) {
        let millis = time.as_millis();
        let earlier = format!("ended = ended - interval '{millis} milliseconds'");
        self.edit(id, &earlier).await;
    }

    pub(super) async fn resume_earlier(&self, time: Duration) {
        let millis = time.as_millis();
        self.execute(&format!(
            "UPDATE store SET resumed = resumed - interval '{millis} milliseconds'"
        ))
        .await;
    }

    pub(super) async fn forget_workers(&self) {
        self.execute("DELETE FROM workers").await;
    }

    pub(super) async fn add_releases(&self, id: RequestId, claims: u32) {
        self.execute(&format!(
            "INSERT INTO events (request_id, number, at, event, claim)
             SELECT '{id}', i, '2026-01-01T00:00:00Z', 'given_back', i
             FROM generate_series(1, {claims}) AS i;
             UPDATE requests SET claim = {claims}, due = 'epoch' WHERE id = '{id}';"
        ))
        .await;
    }

    pub(super) async fn add_attempts(&self, id: RequestId, attempts: u32) {
        self.execute(&format!(
            "INSERT INTO attempts
                 (request_id, number, started_at, duration_ms, stage, class, claim)
             SELECT '{id}', i, 'epoch', 0, 'callback', 'timeout', i
             FROM generate_series(2, {attempts}) AS i;
             INSERT INTO events (request_id, number, at, event, claim)
             SELECT request_id, number, 'epoch', 'attempt_failed', number FROM attempts
             WHERE number > 1;
             UPDATE requests SET attempts = {attempts}, claim = {attempts} WHERE id = '{id}';"
        ))
        .await;
    }

    pub(super) async fn add_completed(&self, client: &str, count: u32) {
        self.execute(&format!(
            "INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at,
                 completed_at, result_payload, created_by)
             SELECT format('%s-%s-7000-8000-%s', lpad(to_hex(i / 3), 8, '0'),
                     lpad(to_hex(i), 4, '0'), lpad(to_hex(i), 12, '0'))::uuid,
                 'async', 'COMPLETED', '{{}}', 'http://a/', 'epoch', 'epoch', '{{}}', '{client}'
             FROM generate_series(1, {count}) AS i;"
        ))
        .await;
    }

    pub(super) async fn boot_after(&self, hours: i64) {
        // A server keeps its clock right: what waits for a time waits for it.
        let hours = hours.max(0);
        self.execute(&format!(
            "UPDATE requests SET due = due - interval '{hours} hours',
                 parked_at = parked_at - interval '{hours} hours',
                 ended = ended - interval '{hours} hours';
             UPDATE redeliveries SET due = due - interval '{hours} hours',
                 parked_at = parked_at - interval '{hours} hours';
             UPDATE idempotency_keys SET expires = expires - interval '{hours} hours';"
        ))
        .await;
    }

    pub(super) async fn large_bodies(&self) -> usize {
        let large = "SELECT 1 FROM requests, LATERAL (
                         VALUES (input_payload::text), (result_payload::text)) AS body (text)
                     WHERE octet_length(text) > 100000";
        self.query::<_, Vec<()>>(large, |_| ()).await.len()
    }

    pub(super) async fn keyed(&self) -> Vec<RequestId> {
        let keyed = "SELECT request_id FROM idempotency_keys ORDER BY request_id";
        self.query(keyed, |row| word(row, 0)).await
    }

    pub(super) async fn places_of(&self, text: &str) -> Vec<String> {
        let columns: Vec<(String, String)> = self
            .query(
                "SELECT table_name, column_name FROM information_schema.columns
                 WHERE table_schema = 'public'",
                |row| (word(row, 0), word(row, 1)),
            )
            .await;
        let mut places = Vec::new();
        for (table, column) in columns {
            let sql = format!(
                "SELECT 1 FROM {table} WHERE position('{text}' in {column}::text) > 0 LIMIT 1"
            );
            if !self.query::<_, Vec<()>>(&sql, |_| ()).await.is_empty() {
                places.push(format!("{table}.{column}"));
            }
        }
        places
    }

    pub(super) async fn leftovers(&self) -> usize {
        // One statement: it runs after each call of an interleaving.
        let of_requests = ["attempts", "events", "resends", "idempotency_keys"].map(|table| {
            format!("SELECT 1 FROM {table} WHERE request_id NOT IN (SELECT id FROM requests)")
        });
        let sql = format!(
            "{} UNION ALL
             SELECT 1 FROM redeliveries WHERE id NOT IN (SELECT id FROM requests) UNION ALL
             SELECT 1 FROM cancellations WHERE owner NOT IN (SELECT owner FROM workers)",
            of_requests.join(" UNION ALL ")
        );
        self.query::<_, Vec<()>>(&sql, |_| ()).await.len()
    }

    pub(super) async fn record_history(&self) {
        let is_there = "SELECT to_regclass('history') IS NOT NULL";
        let is_there: Vec<bool> = self.query(is_there, |row| row.get(0) == Some("t")).await;
        if is_there == [true] {
            return;
        }
        self.execute(HISTORY).await;
        for (table, columns) in COLUMNS {
            let insert = |beside: &str, deleted: bool, id: &str| {
                format!(
                    "INSERT INTO history (id, work, status, claim, owner, attempts,
                         attempts_before, lost_claims, parks, due, result_payload, failure_reason,
                         completed_at, erased_at, parked_by_pause, beside_it, is_deleted,
                         is_paused, is_origin_paused)
                     SELECT {columns}, {beside}, {deleted},
                         EXISTS (SELECT 1 FROM pauses AS p WHERE p.origin = ''),
                         EXISTS (SELECT 1 FROM pauses AS p WHERE p.origin = {table}.origin)
                     FROM {table} WHERE id = {id}"
                )
            };
            let beside = "(SELECT count(*) FROM held
                WHERE held.owner = coalesce(NEW.owner, OLD.owner) AND held.id <> NEW.id)";
            let (new, changed, deleted) = (
                insert("0", false, "NEW.id"),
                insert(beside, false, "NEW.id"),
                insert("0", true, "OLD.id"),
            );
            self.execute(&format!(
                "CREATE FUNCTION record_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF TG_OP = 'INSERT' THEN {new}; RETURN NULL;
                     ELSIF TG_OP = 'UPDATE' THEN {changed}; RETURN NULL;
                     ELSE {deleted}; RETURN OLD; END IF;
                 END $$;
                 CREATE TRIGGER changed_in_{table} AFTER INSERT OR UPDATE ON {table}
                     FOR EACH ROW EXECUTE FUNCTION record_{table}();
                 CREATE TRIGGER deleted_in_{table} BEFORE DELETE ON {table}
                     FOR EACH ROW EXECUTE FUNCTION record_{table}();"
            ))
            .await;
        }
    }

    pub(super) async fn history(&self) -> History {
        let moments: Vec<_> = self
            .query(
                "SELECT id, work, status, claim, owner, attempts, attempts_before, lost_claims,
                     parks, due, result_payload, failure_reason, completed_at, erased_at,
                     parked_by_pause, beside_it, is_deleted, is_paused, is_origin_paused
                 FROM history ORDER BY place",
                |row| {
                    let ((id, work), changed) = read(row);
                    let moment = Moment {
                        work,
                        row: changed,
                        beside_it: word(row, 15),
                        is_deleted: row.get(16) == Some("t"),
                        is_paused: row.get(17) == Some("t"),
                        is_origin_paused: row.get(18) == Some("t"),
                    };
                    (id, moment)
                },
            )
            .await;
        let mut history = History::new();
        for (id, moment) in moments {
            history.entry(id).or_default().push(moment);
        }
        history
    }

    pub(super) async fn tables(&self) -> Tables {
        let mut tables = self.recorded(ATTEMPTS, "events").await;
        tables.workers = self
            .query("SELECT owner, beat FROM workers", |row| {
                (word(row, 0), word(row, 1))
            })
            .await;
        tables.keys = self
            .query(
                "SELECT tenant, key, request_id, length(fingerprint) > 0 FROM idempotency_keys",
                |row| {
                    let key = (word(row, 0), word(row, 1));
                    (key, (word(row, 2), row.get(3) == Some("t")))
                },
            )
            .await;
        tables.pauses = self
            .query("SELECT origin FROM pauses", |row| word(row, 0))
            .await;
        tables.audit = self
            .query(
                "SELECT action, filter, changed FROM audit ORDER BY number",
                |row| (word(row, 0), word(row, 1), word(row, 2)),
            )
            .await;
        tables.cancellations = self
            .query("SELECT owner, id, claim, beat FROM cancellations", |row| {
                ((word(row, 0), word(row, 1), word(row, 2)), word(row, 3))
            })
            .await;
        for (table, columns) in COLUMNS {
            let rows: Vec<_> = self
                .query(&format!("SELECT {columns} FROM {table}"), read)
                .await;
            tables.rows.extend(rows);
        }
        tables
    }

    pub(super) async fn ever(&self) -> Tables {
        self.recorded("attempts_ever", "events_ever").await
    }

    /// The attempts and events in these tables.
    async fn recorded(&self, attempts: &str, events: &str) -> Tables {
        let mut tables = Tables {
            attempts: self
                .query(
                    &format!("SELECT request_id, number, class, claim FROM {attempts}"),
                    |row| ((word(row, 0), word(row, 1)), (word(row, 2), word(row, 3))),
                )
                .await,
            ..Tables::default()
        };
        let events: Vec<(RequestId, Entry, u32)> = self
            .query(
                &format!(
                    "SELECT request_id, event, claim, detail, number FROM {events}
                     ORDER BY request_id, number"
                ),
                |row| {
                    let event = (word(row, 1), word(row, 2), row.get(3).map(str::to_owned));
                    (word(row, 0), event, word(row, 4))
                },
            )
            .await;
        for (id, event, number) in events {
            let events = tables.events.entry(id).or_default();
            events.push(event);
            assert_eq!(
                u32::try_from(events.len()),
                Ok(number),
                "events count from 1"
            );
        }
        tables
    }

    pub(super) async fn lost(&self) -> Vec<Key> {
        let mut lost = Vec::new();
        for (table, columns) in COLUMNS {
            let found: Vec<Key> = self
                .query(
                    &format!(
                        "SELECT {columns} FROM {table} WHERE status = 'PROCESSING'
                           AND (owner IS NULL OR owner NOT IN (SELECT owner FROM workers))"
                    ),
                    |row| read(row).0,
                )
                .await;
            lost.extend(found);
        }
        lost
    }

    pub(super) async fn count(&self) -> usize {
        let count: Vec<usize> = self
            .query("SELECT count(*) FROM requests", |row| word(row, 0))
            .await;
        count[0]
    }

    pub(super) async fn text(&self, id: RequestId, column: &str) -> String {
        let value = format!("SELECT {column}::text FROM requests WHERE id = '{id}'");
        let values: Vec<String> = self.query(&value, |row| word(row, 0)).await;
        values.into_iter().next().unwrap()
    }

    pub(super) async fn internal_details(&self, id: RequestId) -> Vec<Option<String>> {
        self.query(
            &format!(
                "SELECT internal_detail FROM attempts WHERE request_id = '{id}' ORDER BY number"
            ),
            |row| row.get(0).map(str::to_owned),
        )
        .await
    }

    pub(super) async fn execute(&self, sql: &str) {
        self.direct().await.batch_execute(sql).await.unwrap();
    }

    async fn query<T, C: FromIterator<T>>(
        &self,
        sql: &str,
        read: impl Fn(&SimpleQueryRow) -> T,
    ) -> C {
        let messages = self.direct().await.simple_query(sql).await.unwrap();
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(read(row)),
            _ => None,
        });
        rows.collect()
    }

    async fn direct(&self) -> &Client {
        let open = || async { connect(&self.database.url()).await.0 };
        self.direct.get_or_init(open).await
    }
}

/// Reads [`COLUMNS`].
fn read(row: &SimpleQueryRow) -> (Key, Row) {
    let work = match row.get(1) {
        Some("0") => Work::Job,
        _ => Work::Redelivery,
    };
    let read = Row {
        status: word(row, 2),
        claim: word(row, 3),
        owner: row.get(4).map(|owner| owner.parse().unwrap()),
        attempts: word(row, 5),
        attempts_before: word(row, 6),
        lost_claims: word(row, 7),
        parks: word(row, 8),
        due: row.get(9).map(|due| Due::At(due.parse().unwrap())),
        parked: row.get(14).map(|by_pause| match by_pause {
            "t" => Parked::ByPause,
            _ => Parked::Since,
        }),
        result: row.get(10).map(str::to_owned),
        failure: row.get(11).map(|reason| reason.parse().unwrap()),
        is_over: row.get(12).is_some(),
        is_erased: row.get(13).is_some(),
    };
    ((word(row, 0), work), read)
}

fn word<T: FromStr<Err: Debug>>(row: &SimpleQueryRow, column: usize) -> T {
    row.get(column).unwrap().parse().unwrap()
}
