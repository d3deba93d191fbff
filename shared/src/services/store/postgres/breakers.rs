//! What workers say of the circuit breakers of their handlers: `workers.breakers`.
//!
//! A JSON object: for each handler whose breaker is not closed, the time of its probe in
//! milliseconds since the epoch by the server's clock, or `"half-open"`.

use tokio_postgres::types::Type;

use super::{columns, error::Error, session::Session};
use crate::services::store::{OpenBreaker, OwnerId};

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
    let report = "UPDATE workers SET breakers = coalesce(
             (SELECT json_object_agg(handler, coalesce(
                  to_json(floor(extract(epoch FROM now()) * 1000)::bigint + wait),
                  '\"half-open\"'::json))
              FROM unnest($2::text[], $3::bigint[]) AS open (handler, wait)), '{}')
         WHERE owner = $1";
    let values = [
        (&owner.uuid() as _, Type::UUID),
        (&handlers as _, Type::TEXT_ARRAY),
        (&waits as _, Type::INT8_ARRAY),
    ];
    Ok(session.execute(report, &values).await? > 0)
}
