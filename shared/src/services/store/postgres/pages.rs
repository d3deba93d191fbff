//! Pages of lists: reads that examine many rows, of which most may be left out.

use std::future::Future;

use tokio::sync::Semaphore;
use tokio_postgres::Row;

use super::error::Error;
use crate::{models::RequestId, services::store::StoreError};

/// The pages of a kind that are read at a time. Other reads have the other connections.
const AT_A_TIME: usize = 2;

/// The pages of a kind that wait or are read.
pub(super) struct Pages {
    queue: Semaphore,
    reading: Semaphore,
}

impl Pages {
    /// Up to `most` pages wait or are read. Each takes some 20 ms at most.
    pub(super) fn up_to(most: usize) -> Self {
        Self {
            queue: Semaphore::new(most),
            reading: Semaphore::new(AT_A_TIME),
        }
    }

    /// Reads a page in its turn.
    pub(super) async fn read<T>(
        &self,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let _queued = self
            .queue
            .try_acquire()
            .map_err(|_| StoreError::QueueFull)?;
        let _reading = self
            .reading
            .acquire()
            .await
            .map_err(|_| StoreError::Closed)?;
        read.await
    }
}

/// SQL that reads rows in the order of `examined`, a query that has the columns `id` and
/// `is_wanted`: those that are wanted, and those that say where the page ends. It examines up to
/// `most` rows and one more, and no more than the page needs. The limit is [`limit`].
///
/// The outer query has no `ORDER BY`: rows stay as they come, and a sort would need them all.
pub(super) fn sql(examined: &str, most: usize, limit: usize) -> String {
    format!(
        "SELECT * FROM (SELECT *, row_number() OVER () AS place
                        FROM ({examined} LIMIT {}) AS examined) AS numbered
         WHERE is_wanted OR place >= {most} LIMIT {}",
        most + 1,
        // A row without a place on the page ends it, and so may one that is not wanted.
        limit.saturating_add(2)
    )
}

/// Reads a page of up to `limit` rows from the `rows` of [`sql`], with the cursor of the next one.
pub(super) fn page<T>(
    rows: &[Row],
    most: usize,
    limit: usize,
    read: impl Fn(RequestId, &Row) -> Result<T, Error>,
) -> Result<(Vec<T>, Option<RequestId>), Error> {
    let mut found = Vec::new();
    let mut last = None;
    for row in rows {
        let place: i64 = row.try_get("place")?;
        if found.len() == limit || usize::try_from(place).is_ok_and(|place| place > most) {
            return Ok((found, last));
        }
        let id = RequestId::of(row.try_get("id")?);
        last = Some(id);
        if row.try_get("is_wanted")? {
            found.push(read(id, row)?);
        }
    }
    // There is no next page.
    Ok((found, None))
}
