//! Recognises a database of this service without the marks in its header: one that was made from a
//! dump. `sqlite3 .dump` writes neither `application_id` nor `user_version`.

use rusqlite::Connection;

use super::MIGRATIONS;

/// A table: its columns, in order, and its indexes.
struct Table {
    columns: Vec<Column>,
    indexes: Vec<String>,
}

/// Name, type, NOT NULL, place in the primary key, and whether it is generated.
type Column = (String, String, bool, i64, i64);

/// The number of migrations whose tables these are, or `None`. Other tables beside them, such as
/// `lost_and_found` of `.recover`, don't matter.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<Option<usize>> {
    let template = Connection::open_in_memory()?;
    let mut found = None;
    for (version, migration) in (1..).zip(MIGRATIONS) {
        template.execute_batch(migration)?;
        if has_all(connection, &tables(&template)?)? {
            found = Some(version);
        }
    }
    Ok(found)
}

fn has_all(connection: &Connection, wanted: &[(String, Table)]) -> rusqlite::Result<bool> {
    for (name, wanted) in wanted {
        let found = table(connection, name)?;
        // Exactly these columns: a newer version adds some. Indexes may have been added by hand.
        let has_indexes = wanted
            .indexes
            .iter()
            .all(|index| found.indexes.contains(index));
        if found.columns != wanted.columns || !has_indexes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<(String, Table)>> {
    let mut names = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let names = names.query_map([], |row| row.get(0))?;
    names
        .map(|name: rusqlite::Result<String>| {
            let name = name?;
            let table = table(connection, &name)?;
            Ok((name, table))
        })
        .collect()
}

/// A table without columns if there is none of this name.
// By columns and not by the text of CREATE TABLE: the comments in it have changed over time.
fn table(connection: &Connection, name: &str) -> rusqlite::Result<Table> {
    let mut columns = connection.prepare(
        "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid",
    )?;
    let columns = columns.query_map([name], |row| {
        Ok((
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
        ))
    })?;
    // Those of a primary key have no name of ours.
    let mut indexes =
        connection.prepare("SELECT name FROM pragma_index_list(?1) WHERE origin = 'c'")?;
    let indexes = indexes.query_map([name], |row| row.get(0))?;
    Ok(Table {
        columns: columns.collect::<Result<_, _>>()?,
        indexes: indexes.collect::<Result<_, _>>()?,
    })
}
