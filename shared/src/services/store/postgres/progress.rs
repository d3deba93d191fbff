//! Reads how far requests are, for those who wait for their results.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Sessions, columns, error::Error};
use crate::{
    models::RequestId,
    services::store::{Progress, StoreError},
};

/// The most requests in one read.
pub(super) const BATCH: usize = 1000;

/// Whether a result is null is in the head of its row, so that none is read for it. A scalar
/// subquery is a search by the primary key, however many rows the planner expects.
const PROGRESS: &str = "
SELECT place, (SELECT CASE WHEN status IN ('COMPLETED', 'FAILED') THEN 2
                           WHEN result_payload IS NOT NULL THEN 1
                           ELSE 0 END
               FROM requests WHERE requests.id = sought.id) AS progress
FROM unnest($1::uuid[]) WITH ORDINALITY AS sought (id, place)";

/// How far each of these requests is, in their order.
pub(super) async fn of(
    sessions: &Sessions,
    ids: &[RequestId],
) -> Result<Vec<Progress>, StoreError> {
    let sought: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let rows = sessions
        .query(PROGRESS, &[(&sought, Type::UUID_ARRAY)])
        .await?;
    let read = || {
        let mut found = vec![Progress::Unknown; ids.len()];
        for row in &rows {
            let progress = match row.try_get("progress")? {
                None => Progress::Unknown,
                Some(0) => Progress::Unfinished,
                Some(1) => Progress::Worked,
                Some::<i32>(_) => Progress::Over,
            };
            columns::set(&mut found, row, progress)?;
        }
        Ok::<_, Error>(found)
    };
    read().map_err(|error| error.into_store(false))
}
