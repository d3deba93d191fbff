//! The source of a move, for callers that must not block: one thread at a time uses it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    config::SqliteSettings,
    services::store::{MoveError, StoreError, sqlite::moving::Source},
};

/// A source, whose operations run in threads that may block.
#[derive(Clone)]
pub(super) struct SharedSource(Arc<Mutex<Source>>);

impl SharedSource {
    /// As [`Source::open`].
    pub(super) async fn open(settings: &SqliteSettings) -> Result<Self, StoreError> {
        let settings = settings.clone();
        let source = tokio::task::spawn_blocking(move || Source::open(&settings));
        let source = source.await.unwrap_or(Err(StoreError::Closed))?;
        Ok(Self(Arc::new(Mutex::new(source))))
    }

    /// Runs `act` on it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Source) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, MoveError> {
        let source = self.clone();
        let acting = tokio::task::spawn_blocking(move || source.with(act));
        let acted = acting.await.unwrap_or(Err(StoreError::Closed));
        acted.map_err(MoveError::Source)
    }

    /// The same, in a thread that may block.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Source) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
