//! The health check: one write, which needs a commit on a server that can be written to. And the
//! size of the database.

use std::{sync::Arc, time::Duration};

use tokio_postgres::types::Type;

use super::session::Sessions;
use crate::services::store::{StoreError, metrics::Sizes};

/// How often the database is measured.
const PERIOD: Duration = Duration::from_mins(1);

/// The rows of `health`.
const SLOTS: i16 = 64;

/// The row of this process.
pub(super) fn slot() -> i16 {
    fastrand::i16(0..SLOTS)
}

/// Overwrites a row of `health`.
pub(super) async fn write(sessions: &Arc<Sessions>, slot: i16) -> Result<(), StoreError> {
    let write = sessions.write(move |session| async move {
        session
            .execute(
                "INSERT INTO health (slot, checked_at) VALUES ($1, now())
                 ON CONFLICT (slot) DO UPDATE SET checked_at = excluded.checked_at",
                &[(&slot, Type::INT2)],
            )
            .await
    });
    write.await.map(drop)
}

/// Measures the database for the metrics, and then again and again until the store closes.
pub(super) async fn keep_measuring(sessions: &Arc<Sessions>) {
    measure(sessions).await;
    let of_task = Arc::downgrade(sessions);
    let closing = sessions.closing().clone();
    sessions.tasks().spawn(async move {
        while let Err(_elapsed) = tokio::time::timeout(PERIOD, closing.cancelled()).await {
            let Some(sessions) = of_task.upgrade() else {
                return;
            };
            measure(&sessions).await;
        }
    });
}

async fn measure(sessions: &Sessions) {
    let size = "SELECT pg_database_size(current_database())";
    // A failure is in the log. The last size stands.
    let Ok(rows) = sessions.query(size, &[]).await else {
        return;
    };
    let size = rows.first().and_then(|row| row.try_get::<_, i64>(0).ok());
    if let Some(size) = size {
        sessions.measures().measured(Sizes {
            database: size.try_into().unwrap_or(0),
            ..Sizes::default()
        });
    }
}
