//! Bodies (payloads and results) of more than 4 KiB: they are in a table of their own, so that a
//! change of status does not write them anew.
//!
//! A row of `requests` has a short JSON in place of such a body, and a bit in `in_bodies` that says
//! that it means this. A small body costs no statement and no search.

use std::borrow::Cow;

use rusqlite::{Connection, params};

use super::{columns, state};
use crate::{
    models::RequestId,
    services::store::{Claim, Work},
};

/// The largest body that is stored in the row itself, in bytes: about a page of the database.
const LARGEST_IN_ROW: usize = 4 << 10;

/// SQL for the input of a row of `requests`, wherever it is. For a statement in which `id` and the
/// columns of bodies are those of this table.
pub(super) const INPUT: &str = "iif(in_bodies & 1,
    (SELECT body FROM bodies WHERE request_id = id AND kind = 'input'), input_payload)";

/// The same for its result.
pub(super) const RESULT: &str = "iif(in_bodies & 2,
    (SELECT body FROM bodies WHERE request_id = id AND kind = 'result'), result_payload)";

/// SQL for whether nothing has come of an unfinished job's work yet.
fn has_no_outcome() -> String {
    format!("result_payload IS NULL AND NOT {}", columns::WORK_FAILED)
}

/// A body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Input,
    Result,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Result => "result",
        }
    }

    /// Its bit in `in_bodies`.
    const fn bit(self) -> u8 {
        match self {
            Self::Input => 1,
            Self::Result => 2,
        }
    }
}

/// The text that the row of a request has for `body`: the body itself if it is small, or else where
/// it is.
pub(super) fn in_row(body: &str) -> Cow<'_, str> {
    if is_large(body) {
        let bytes = body.len();
        Cow::Owned(format!(r#"{{"stored_in":"bodies","bytes":{bytes}}}"#))
    } else {
        Cow::Borrowed(body)
    }
}

/// The value of `in_bodies` for a new request.
pub(super) fn bits(input: &str, result: Option<&str>) -> u8 {
    let bit = |kind: Kind, body: &str| if is_large(body) { kind.bit() } else { 0 };
    bit(Kind::Input, input) | result.map_or(0, |result| bit(Kind::Result, result))
}

/// Stores the large ones of the bodies of a request that was inserted in this transaction, with
/// [`in_row`] and [`bits`] of them.
pub(super) fn insert(
    tx: &Connection,
    id: RequestId,
    input: &str,
    result: Option<&str>,
) -> rusqlite::Result<()> {
    let bodies = [(Kind::Input, Some(input)), (Kind::Result, result)];
    for (kind, body) in bodies {
        if let Some(body) = body.filter(|body| is_large(body)) {
            put(tx, id, kind, body)?;
        }
    }
    Ok(())
}

/// Stores a large result of a claimed job, unless the job has a result or the claim is lost.
/// Returns the text for its row, which the statement after this one stores on the same conditions.
pub(super) fn place_result<'a>(
    tx: &Connection,
    claim: &Claim,
    result: &'a str,
) -> rusqlite::Result<Cow<'a, str>> {
    let text = in_row(result);
    // A redelivery has its result.
    if !is_large(result) || claim.work == Work::Redelivery {
        return Ok(text);
    }
    let placed = tx
        .prepare_cached(&format!(
            "UPDATE requests SET result_payload = ?4, in_bodies = in_bodies | ?5
             WHERE {} AND {} AND {}",
            state::IS_CLAIMED,
            state::IS_HELD,
            has_no_outcome()
        ))?
        .execute(params![
            claim.id.to_string(),
            claim.owner.to_string(),
            claim.number,
            text,
            Kind::Result.bit()
        ])?;
    if placed > 0 {
        put(tx, claim.id, Kind::Result, result)?;
    }
    Ok(text)
}

/// SQL for the result of a row that gets the one in the `n`th parameter, unless it has a result, or
/// its work has failed.
pub(super) fn kept_result(n: usize) -> String {
    format!("iif({}, ?{n}, result_payload)", has_no_outcome())
}

fn is_large(body: &str) -> bool {
    body.len() > LARGEST_IN_ROW
}

fn put(tx: &Connection, id: RequestId, kind: Kind, body: &str) -> rusqlite::Result<()> {
    // An older one of this kind is a remnant of an edit by hand.
    tx.prepare_cached(
        "INSERT OR REPLACE INTO bodies (request_id, kind, bytes, body) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        id.to_string(),
        kind.as_str(),
        columns::integer(body.len()),
        body
    ])
    .map(drop)
}

/// Deletes the large bodies of a request. Its row must get other texts in the same transaction.
pub(super) fn delete(tx: &Connection, id: RequestId) -> rusqlite::Result<()> {
    let id = id.to_string();
    tx.prepare_cached("DELETE FROM bodies WHERE request_id = ?1")?
        .execute([&id])?;
    tx.prepare_cached("UPDATE requests SET in_bodies = 0 WHERE id = ?1 AND in_bodies <> 0")?
        .execute([&id])
        .map(drop)
}

#[cfg(test)]
mod tests;
