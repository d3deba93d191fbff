//! The record of what operators do.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::value::RawValue;

use super::columns;
use crate::services::store::{
    AuditRecord,
    audit::{AUDIT_KEPT, Action},
};

/// Records an action, in its own transaction.
pub(super) fn record(tx: &Connection, action: &Action<'_>) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO audit (at, operator, action, filter, matched, changed, dry_run)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        columns::time(Timestamp::now()),
        action.operator.as_str(),
        action.name,
        action.filter,
        columns::integer(action.matched),
        columns::integer(action.changed),
        action.dry_run,
    ])?;
    let newest = tx.last_insert_rowid();
    tx.prepare_cached("DELETE FROM audit WHERE number <= ?1")?
        .execute([newest - columns::integer(AUDIT_KEPT)])
        .map(drop)
}

/// Reads up to `limit` records before number `before`, newest first.
pub(super) fn read(
    connection: &Connection,
    before: Option<i64>,
    limit: usize,
) -> rusqlite::Result<Vec<AuditRecord>> {
    connection
        .prepare_cached(
            "SELECT number, at, operator, action, filter, matched, changed, dry_run
             FROM audit WHERE number < ?1 ORDER BY number DESC LIMIT ?2",
        )?
        .query_map(
            params![before.unwrap_or(i64::MAX), columns::integer(limit)],
            |row| {
                Ok(AuditRecord {
                    number: row.get(0)?,
                    at: columns::text(row, 1)?.unwrap_or_default(),
                    operator: columns::text(row, 2)?.unwrap_or_default(),
                    action: columns::text(row, 3)?.unwrap_or_default(),
                    filter: columns::json(row, 4)?.unwrap_or_else(|| RawValue::NULL.to_owned()),
                    matched: columns::count(row.get(5)?) as usize,
                    changed: columns::count(row.get(6)?) as usize,
                    dry_run: row.get(7)?,
                })
            },
        )?
        .collect()
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{
        super::{columns, schema},
        AUDIT_KEPT, Action, read, record,
    };

    #[test]
    fn the_newest_records_are_kept_and_their_numbers_continue() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let kept = columns::integer(AUDIT_KEPT);
        let fill = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
                    INSERT INTO audit SELECT n, '', 'ops', 'pause', '{}', 1, 1, 0 FROM n";
        db.execute(fill, [kept]).unwrap();
        for n in 1..=2 {
            let action = Action {
                operator: &"ops".parse().unwrap(),
                name: "resume",
                filter: "{}",
                matched: 1,
                changed: 1,
                dry_run: false,
            };
            record(&db, &action).unwrap();
            let bounds = db.query_one("SELECT min(number), count(*) FROM audit", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            });
            assert_eq!(bounds.unwrap(), (1 + n, kept));
            let newest = &read(&db, None, 1).unwrap()[0];
            assert_eq!(newest.number, kept + n);
        }
    }
}
