//! What the handlers beside the report have to do.

use std::{collections::BTreeMap, time::Duration};

use tokio_postgres::types::Type;

use super::{
    breakers, columns,
    error::Error,
    session::{Session, Sessions},
};
use crate::{
    models::HandlerName,
    services::store::{HandlerLoad, StoreError},
};

/// The most handlers with jobs that are told apart: more than can be configured at a time.
const MOST: usize = 256;

/// SQL for a common table `names` of the handlers, beside the report, with jobs whose work is to be
/// done and that no worker holds. A skip scan: one step of the index for each.
pub(super) fn names() -> String {
    let first =
        format!("SELECT coalesce(handler, '') AS handler {WAITING} AND coalesce(handler, '') > ");
    let order = "ORDER BY coalesce(handler, '') LIMIT 1";
    format!(
        "every_name AS (
             ({first} '' {order})
             UNION ALL
             SELECT next.handler FROM every_name CROSS JOIN LATERAL (
                 {first} every_name.handler {order}) AS next
         ), names AS MATERIALIZED (SELECT handler FROM every_name LIMIT {MOST})"
    )
}

/// SQL for these jobs, but for suspected poison jobs, which another index has.
const WAITING: &str = "FROM requests WHERE status = 'PENDING' AND is_long AND lost_claims <= 0";

/// Up to `$1` jobs of each handler that wait, those of them that are due within `$2` milliseconds,
/// and those that run. Only few are suspects, and workers hold only as many as they have room for:
/// those of all handlers are read together.
fn count() -> String {
    let is_due = columns::is_due_within("due", 2);
    format!(
        "WITH RECURSIVE {}, counted AS (
             SELECT names.handler, waiting, due, 0 AS running
             FROM names CROSS JOIN LATERAL (
                 SELECT count(*) AS waiting, count(*) FILTER (WHERE {is_due}) AS due
                 FROM (SELECT due {WAITING} AND coalesce(handler, '') = names.handler LIMIT $1)
                     AS job) AS of_handler
             UNION ALL
             SELECT handler, count(*), count(*) FILTER (WHERE {is_due}), 0 FROM requests
             WHERE status = 'PENDING' AND lost_claims > 0 AND is_long AND handler IS NOT NULL
             GROUP BY handler
             UNION ALL
             SELECT handler, 0, 0, count(*) FROM requests
             WHERE status = 'PROCESSING' AND is_long AND handler IS NOT NULL
             GROUP BY handler)
         SELECT handler, least(sum(waiting), $1)::bigint AS waiting,
             least(sum(due), $1)::bigint AS due, least(sum(running), $1)::bigint AS running
         FROM counted GROUP BY handler ORDER BY handler LIMIT {}",
        names(),
        2 * MOST
    )
}

/// The jobs whose work each handler is to do within `grace`: of each of them up to `most` that
/// wait, and as many that run.
pub(super) async fn jobs(
    session: &Session,
    most: usize,
    grace: Duration,
) -> Result<BTreeMap<HandlerName, HandlerLoad>, Error> {
    let (most, grace) = (columns::integer(most), columns::millis(grace));
    let parameters = [(&most as _, Type::INT8), (&grace as _, Type::INT8)];
    let mut load = BTreeMap::new();
    for row in session.query(&count(), &parameters).await? {
        let count = |column| Ok::<_, Error>(columns::count(row.try_get::<_, i64>(column)?));
        // One that can't be parsed was edited by hand: nobody serves it.
        if let Ok(handler) = row.try_get::<_, &str>("handler")?.parse() {
            let of_handler = HandlerLoad {
                waiting: count("waiting")?,
                due: count("due")?,
                running: count("running")?,
                ..HandlerLoad::default()
            };
            load.insert(handler, of_handler);
        }
    }
    Ok(load)
}

/// What each handler has to do now.
pub(super) async fn load(
    sessions: &Sessions,
) -> Result<BTreeMap<HandlerName, HandlerLoad>, StoreError> {
    let most = HandlerLoad::MOST as usize;
    let mut load = sessions
        .snapshot(async |session| jobs(session, most, Duration::ZERO).await)
        .await?;
    // What workers say counts no jobs: it may be of another snapshot.
    for serving in breakers::serving(sessions, None).await? {
        if let Ok(handler) = serving.handler.parse() {
            let of_handler = load.entry(handler).or_default();
            (of_handler.workers, of_handler.breakers) = (serving.workers, serving.breakers);
        }
    }
    Ok(load)
}
