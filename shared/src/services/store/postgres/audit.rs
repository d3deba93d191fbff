//! The record of what operators do.

use serde_json::value::RawValue;
use tokio_postgres::{Row, types::Type};

use super::{columns, error::Error, session::Session};
use crate::services::store::{
    AuditRecord,
    audit::{AUDIT_KEPT, Action},
};

/// Records an action, in its own transaction, as the last thing that this does.
///
/// The lock is held until the commit: so a reader that has seen a number has seen, or will see, all
/// smaller ones. A sequence would hand out numbers in another order than that of the commits.
pub(super) async fn record(session: &Session, action: &Action<'_>) -> Result<(), Error> {
    session
        .execute_all("LOCK TABLE audit IN SHARE ROW EXCLUSIVE MODE")
        .await?;
    session
        .execute(
            "WITH new AS (
                 INSERT INTO audit (number, at, operator, action, filter, matched, changed, dry_run)
                 SELECT coalesce(max(number), 0) + 1, clock_timestamp(), $1, $2, $3::text::json,
                     $4, $5, $6
                 FROM audit
                 RETURNING number)
             DELETE FROM audit WHERE number <= (SELECT number FROM new) - $7",
            &[
                (&action.operator.as_str(), Type::TEXT),
                (&action.name, Type::TEXT),
                (&action.filter, Type::TEXT),
                (&columns::integer(action.matched), Type::INT8),
                (&columns::integer(action.changed), Type::INT8),
                (&action.dry_run, Type::BOOL),
                (&columns::integer(AUDIT_KEPT), Type::INT8),
            ],
        )
        .await
        .map(drop)
}

/// Up to `$2` records before number `$1`, newest first.
pub(super) const READ: &str = "
    SELECT number, at, operator, action, filter::text, matched, changed, dry_run
    FROM audit WHERE number < $1 ORDER BY number DESC LIMIT $2";

/// Reads a row of [`READ`].
pub(super) fn read(row: &Row) -> Result<AuditRecord, Error> {
    let count = |column| Ok::<_, Error>(usize::try_from(row.try_get::<_, i64>(column)?));
    Ok(AuditRecord {
        number: row.try_get("number")?,
        at: columns::shown(columns::time(row, "at")?),
        operator: row.try_get("operator")?,
        action: row.try_get("action")?,
        filter: columns::json(row, "filter")?.unwrap_or_else(|| RawValue::NULL.to_owned()),
        matched: count("matched")?.unwrap_or(0),
        changed: count("changed")?.unwrap_or(0),
        dry_run: row.try_get("dry_run")?,
    })
}
