//! The health check: one write, which needs a commit on a server that can be written to.

use std::sync::Arc;

use super::session::Sessions;
use crate::services::store::{StoreError, metrics::Sizes};

/// Overwrites the one row of `health`.
pub(super) async fn write(sessions: &Arc<Sessions>) -> Result<(), StoreError> {
    let write = sessions.write(|session| async move {
        session
            .execute_all(
                "INSERT INTO health (checked_at) VALUES (now())
                 ON CONFLICT (one) DO UPDATE SET checked_at = excluded.checked_at",
            )
            .await
    });
    write.await
}

/// Measures the database, for the metrics.
pub(super) async fn measure(sessions: &Sessions) -> Result<(), StoreError> {
    let size = "SELECT pg_database_size(current_database())";
    let rows = sessions.query(size, &[]).await?;
    let size = rows.first().and_then(|row| row.try_get::<_, i64>(0).ok());
    sessions.measures().measured(Sizes {
        database: size.and_then(|size| size.try_into().ok()).unwrap_or(0),
        ..Sizes::default()
    });
    Ok(())
}
