//! The health check: one write, which needs a commit on a server that can be written to.

use std::sync::Arc;

use tokio_postgres::types::Type;

use super::session::Sessions;
use crate::services::store::StoreError;

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
