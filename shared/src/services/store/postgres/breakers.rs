//! What workers say of the circuit breakers of their handlers: `workers.breakers`.
//!
//! It is an object: of each handler whose breaker is not closed, when the probe is due, in
//! milliseconds since the epoch by the server's clock, or `half-open`.

use jiff::Timestamp;
use tokio_postgres::{Row, types::Type};

use super::{Sessions, columns, error::Error, session::Session, state::HAS_LEASE};
use crate::services::store::{Breakers, OpenBreaker, OwnerId, StoreError, breakers::Serving};

/// What [`Serving`] has of each handler, or of the one in the parameter. A worker that has sent no
/// heartbeat for a minute serves nothing, and what it has said of its breakers is old: more than a
/// hundred are missing. Other workers expire its lease, but the last one may be gone.
const SELECT: &str = "
SELECT name, count(*) AS workers,
    count(*) FILTER (WHERE json_typeof(breakers -> name) = 'number') AS open,
    count(*) FILTER (WHERE json_typeof(breakers -> name) = 'string') AS half_open,
    count(*) FILTER (WHERE breakers IS NULL) AS unknown,
    greatest(now(), min(CASE json_typeof(breakers -> name)
        WHEN 'number' THEN to_timestamp((breakers ->> name)::float8 / 1000) END)) AS until
FROM workers CROSS JOIN LATERAL (SELECT DISTINCT unnest(handlers)) AS served (name)
WHERE renewed_at >= now() - interval '1 minute' AND ($1::text IS NULL OR name = $1)
GROUP BY name";

/// Writes that these breakers of `owner`, and no others, are not closed. False if it has no lease.
pub(super) async fn report(
    session: &Session,
    owner: OwnerId,
    open: &[(String, OpenBreaker)],
) -> Result<bool, Error> {
    let handlers: Vec<&str> = open.iter().map(|(handler, _)| handler.as_str()).collect();
    let waits: Vec<Option<i64>> = open
        .iter()
        .map(|(_, breaker)| match breaker {
            OpenBreaker::Open { probe_in } => Some(columns::millis(*probe_in)),
            OpenBreaker::HalfOpen => None,
        })
        .collect();
    let report = format!(
        "UPDATE workers SET breakers = coalesce(
             (SELECT json_object_agg(handler, coalesce(
                  to_json(floor(extract(epoch FROM now()) * 1000)::bigint + wait),
                  '\"half-open\"'::json))
              FROM unnest($2::text[], $3::bigint[]) AS open (handler, wait)), '{{}}')
         WHERE owner = $1 AND {HAS_LEASE}"
    );
    let values = [
        (&owner.uuid() as _, Type::UUID),
        (&handlers as _, Type::TEXT_ARRAY),
        (&waits as _, Type::INT8_ARRAY),
    ];
    Ok(session.execute(&report, &values).await? > 0)
}

/// That of all handlers that some worker serves, or of the one with this name.
pub(super) async fn serving(
    sessions: &Sessions,
    handler: Option<&str>,
) -> Result<Vec<Serving>, StoreError> {
    let rows = sessions.query(SELECT, &[(&handler, Type::TEXT)]).await?;
    let found: Result<_, Error> = rows.iter().map(read).collect();
    found.map_err(|error| error.into_store(false))
}

fn read(row: &Row) -> Result<Serving, Error> {
    let count = |column| Ok::<_, Error>(columns::count(row.try_get::<_, i64>(column)?));
    let breakers = Breakers {
        open: count("open")?,
        half_open: count("half_open")?,
        unknown: count("unknown")?,
        until: None,
    };
    let until: Option<Timestamp> = columns::time_or_null(row, "until")?;
    Ok(Serving {
        handler: row.try_get("name")?,
        workers: count("workers")?,
        breakers: Breakers {
            until: until.filter(|_| breakers.open > 0),
            ..breakers
        },
    })
}
