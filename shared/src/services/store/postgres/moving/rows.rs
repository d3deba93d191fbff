//! Rows as texts: inserting them, and comparing them with those that are there.

use sha2::{Digest as _, Sha256};
use tokio_postgres::types::Type;

use super::super::{
    columns,
    error::Error,
    session::{Parameter, Session},
};
use crate::services::{
    report::hex,
    store::moving::{Key, Kind, Rows, Table},
};

/// Inserts all of them.
pub(super) async fn insert(session: &Session, rows: &Rows) -> Result<(), Error> {
    let (table, columns) = (rows.table, rows.table.columns());
    let (mut names, mut arrays, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (at, (name, kind)) in columns.iter().enumerate() {
        names.push(*name);
        arrays.push(format!("${}::text[]", at + 1));
        values.push(cast(*kind, &format!("new.{name}")));
    }
    let names = names.join(", ");
    let sql = format!(
        "INSERT INTO {} ({names}) SELECT {} FROM unnest({}) AS new ({names})",
        table.name(),
        values.join(", "),
        arrays.join(", ")
    );
    let parameters: Vec<Parameter<'_>> = rows
        .columns
        .iter()
        .map(|column| (column as _, Type::TEXT_ARRAY))
        .collect();
    let inserted = columns::size(session.execute(&sql, &parameters).await?);
    if inserted == rows.len() {
        return Ok(());
    }
    let (table, sent) = (table.name(), rows.len());
    Err(Error::Row(format!(
        "{inserted} of {sent} rows of {table} were inserted"
    )))
}

/// SQL for a text as the column has it.
fn cast(kind: Kind, text: &str) -> String {
    let name = match kind {
        Kind::Text => return text.to_owned(),
        Kind::Bytes => return format!("decode({text}, 'hex')"),
        Kind::Id => "uuid",
        Kind::Json => "json",
        Kind::Integer => "integer",
        Kind::Long => "bigint",
        Kind::Flag => "boolean",
        Kind::Time | Kind::SomeTime | Kind::StoreTime => "timestamptz",
    };
    format!("{text}::{name}")
}

/// SQL for a column as such a text.
fn text(kind: Kind, column: &str) -> String {
    match kind {
        Kind::Text => column.to_owned(),
        Kind::Bytes => format!("encode({column}, 'hex')"),
        Kind::Time | Kind::SomeTime | Kind::StoreTime => columns::shown_by_sql(column),
        _ => format!("{column}::text"),
    }
}

/// How `rows` differ from those after `after`, up to the last of them; or, if there are none, from
/// no more rows. Compares all bytes, by a hash.
pub(super) async fn compare(
    session: &Session,
    rows: &Rows,
    after: Option<&Key>,
) -> Result<Option<String>, Error> {
    let last = rows.last_key();
    let bounds: Vec<&String> = after.into_iter().chain(last.as_ref()).flatten().collect();
    let parameters: Vec<Parameter<'_>> = bounds
        .iter()
        .map(|bound| (*bound as _, Type::TEXT))
        .collect();
    let sql = sql(rows.table, after.is_some(), last.is_some());
    let Some(row) = session.find(&sql, &parameters).await? else {
        return Err(Error::Row("an aggregate has no row".to_owned()));
    };
    let (count, hash): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
    let (count, expected) = (usize::try_from(count).unwrap_or(0), rows.len());
    let place = || match after {
        Some(key) => format!("after {}", key.join("/")),
        None => "at the beginning".to_owned(),
    };
    Ok(if count != expected {
        Some(format!("{count} rows, not {expected}, {}", place()))
    } else if hash != hash_of(rows) {
        Some(format!("other values in {count} rows {}", place()))
    } else {
        None
    })
}

fn sql(table: Table, has_start: bool, has_end: bool) -> String {
    let columns = table.columns();
    let values: Vec<_> = columns
        .iter()
        .map(|(name, kind)| {
            let text = text(*kind, name);
            format!("coalesce(octet_length({text}) || ':' || {text}, '-')")
        })
        .collect();
    let key: Vec<_> = columns[..table.key()]
        .iter()
        .map(|(name, _)| *name)
        .collect();
    let key = key.join(", ");
    let mut next = 0;
    let mut bound = |comparison: &str| {
        let casts: Vec<_> = columns[..table.key()]
            .iter()
            .map(|(_, kind)| {
                next += 1;
                cast(*kind, &format!("${next}"))
            })
            .collect();
        format!(" AND ({key}) {comparison} ({})", casts.join(", "))
    };
    let start = if has_start { bound(">") } else { String::new() };
    let end = if has_end { bound("<=") } else { String::new() };
    // If no row is expected, none is read but the first that is too many.
    let limit = if has_end { "" } else { " LIMIT 1" };
    format!(
        "SELECT count(*), encode(sha256(convert_to(
             coalesce(string_agg({}, '' ORDER BY {key}), ''), 'UTF8')), 'hex')
         FROM (SELECT * FROM {} WHERE true{start}{end} ORDER BY {key}{limit}) AS it",
        values.join(" || "),
        table.name()
    )
}

/// The hash of all values, as the SQL above makes it.
fn hash_of(rows: &Rows) -> String {
    let mut hash = Sha256::new();
    for row in 0..rows.len() {
        for column in &rows.columns {
            match &column[row] {
                Some(value) => {
                    hash.update(value.len().to_string());
                    hash.update(":");
                    hash.update(value);
                }
                None => hash.update("-"),
            }
        }
    }
    hex(&hash.finalize())
}
