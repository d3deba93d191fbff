//! Pauses: what operators hold back.
//!
//! A pause of everything and a claim must not miss each other. So a claim locks the row of `store`,
//! `FOR KEY SHARE` or stronger, in the statement that looks into `pauses`; and a pause locks the
//! table `store` first, so that it waits for the claims under way, and the next ones wait for it.
//! A lock on the row would let them pass: there is always a claim under way, and it would wait for
//! ever. A statement that waits for the table does so before it takes its snapshot, and sees the
//! pause.

use tokio_postgres::{Row, types::Type};

use super::{audit, columns, error::Error, session::Session};
use crate::{
    models::{ClientName, Origin},
    services::store::{Pause, Paused, TooManyPauses, audit::Action, pause::MAX_PAUSED_ORIGINS},
};

/// How `pauses.origin` names everything.
const EVERYTHING: &str = "";

/// Waits for the claims under way. The pauses are begun and ended one at a time.
const LOCK: &str = "LOCK TABLE store IN EXCLUSIVE MODE";

/// Pauses `what`. Returns whether it was not paused before.
pub(super) async fn begin(
    session: &Session,
    what: &Paused,
    operator: &ClientName,
) -> Result<Result<bool, TooManyPauses>, Error> {
    session.execute_all(LOCK).await?;
    let begun = session
        .execute(
            "INSERT INTO pauses (origin, since, operator)
             SELECT $1, clock_timestamp(), $2
             WHERE $1 = '' OR $3 > (SELECT count(*) FROM pauses WHERE origin <> '')
             ON CONFLICT DO NOTHING",
            &[
                (&column(what), Type::TEXT),
                (&operator.as_str(), Type::TEXT),
                (&columns::integer(MAX_PAUSED_ORIGINS), Type::INT8),
            ],
        )
        .await?;
    if begun == 0 && !is_paused(session, what).await? {
        return Ok(Err(TooManyPauses));
    }
    note(session, "pause", what, operator, begun > 0).await?;
    Ok(Ok(begun > 0))
}

/// Ends the pause of `what`. Returns whether it was paused.
pub(super) async fn end(
    session: &Session,
    what: &Paused,
    operator: &ClientName,
) -> Result<bool, Error> {
    session.execute_all(LOCK).await?;
    let ended = session
        .execute(
            "DELETE FROM pauses WHERE origin = $1",
            &[(&column(what), Type::TEXT)],
        )
        .await?;
    if ended > 0 && *what == Paused::Everything {
        // The time of the commit, as far as it is known.
        session
            .execute_all("UPDATE store SET resumed = clock_timestamp()")
            .await?;
    }
    note(session, "resume", what, operator, ended > 0).await?;
    Ok(ended > 0)
}

async fn note(
    session: &Session,
    name: &str,
    what: &Paused,
    operator: &ClientName,
    has_changed: bool,
) -> Result<(), Error> {
    let action = Action {
        operator,
        name,
        filter: &what.filter(),
        matched: 1,
        changed: usize::from(has_changed),
        dry_run: false,
    };
    audit::record(session, &action).await
}

/// Whether exactly `what` is paused.
async fn is_paused(session: &Session, what: &Paused) -> Result<bool, Error> {
    let found = session
        .find(
            "SELECT 1 FROM pauses WHERE origin = $1",
            &[(&column(what), Type::TEXT)],
        )
        .await?;
    Ok(found.is_some())
}

/// The pauses in force, that of everything first.
pub(super) const LIST: &str = "SELECT origin, since, operator FROM pauses ORDER BY origin";

/// Reads a row of [`LIST`].
pub(super) fn listed(row: &Row) -> Result<Pause, Error> {
    Ok(Pause {
        what: paused(row.try_get("origin")?),
        since: columns::shown(columns::time(row, "since")?),
        operator: row.try_get("operator")?,
    })
}

/// What a row of `pauses` names with its `origin`.
pub(super) fn paused(origin: &str) -> Paused {
    if origin == EVERYTHING {
        Paused::Everything
    } else {
        Paused::Origin(Origin::stored(origin))
    }
}

fn column(what: &Paused) -> &str {
    match what {
        Paused::Everything => EVERYTHING,
        Paused::Origin(origin) => origin.as_str(),
    }
}
