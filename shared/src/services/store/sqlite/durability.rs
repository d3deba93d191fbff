//! Makes commits durable (`DB_SYNCHRONOUS=full`), outside of `SQLite`'s write lock.
//!
//! With `synchronous = FULL`, `SQLite` syncs the write-ahead log (WAL) within COMMIT, and every
//! other process waits for the disk. So the writer's connection has `NORMAL`, and the writer syncs
//! the log through a file of its own once COMMIT has released the lock. It answers no caller before
//! that.
//!
//! This is as durable:
//! * A sync of a file includes what other processes have written to it.
//! * What is no longer in the log by then is in the database file, and durable there. A checkpoint
//!   syncs the log, copies it and syncs the database file, before anybody begins the log anew or
//!   truncates it (`walCheckpoint` in sqlite3.c).
//! * Whoever writes the first frame of a log has synced its header (`walFrames`), and with it the
//!   file's entry in its directory.
//!
//! But a commit can be read a moment before it is durable. An answer that promises durability and
//! rests on a read waits for a sync that began after the read: [`Durability::confirm`].
//!
//! # A failed sync
//!
//! The commit stays, and others read it, but a power cut may undo it. The kernel reports such an
//! error once to each open file, and then takes what it could not write for written. So a later
//! sync that succeeds proves nothing, and at the next start a recovery stops at the gap. From a
//! failed sync on, no commit counts as durable until a checkpoint has copied the whole log into the
//! database file, has synced that, and has truncated the log. It copies what the kernel still has
//! in memory, and so it is tried at once: `SQLite` verifies no checksum of what it copies. Where
//! the kernel has dropped such a page, older bytes of the log would damage the database.
//!
//! Each process has its own open file, so each learns of the error by its own next sync. One that
//! opens the log between the first report and the checkpoint does not.

use std::{
    fmt::Display,
    fs::File,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rusqlite::Connection;
use tokio::task::spawn_blocking;

use super::{checkpoint, trouble};
use crate::services::store::{StoreError, Trouble};

/// What a process does to make its commits durable.
pub(super) struct Durability {
    /// `None` if nothing is done.
    log: Option<Log>,
}

struct Log {
    sync: Mutex<Sync>,
    /// How many syncs have begun.
    begun: AtomicU64,
    /// Which of them was the last one that succeeded.
    succeeded: AtomicU64,
    /// For those who wait for a sync without a commit: one of them makes it.
    turn: tokio::sync::Mutex<()>,
}

/// One at a time: an error is reported to one of two syncs of the same open file.
struct Sync {
    sync: Box<dyn FnMut() -> io::Result<()> + Send>,
    /// Why a sync failed, until a checkpoint has made up for it.
    trouble: Option<Trouble>,
}

impl Durability {
    /// Syncs `log`, the write-ahead log.
    pub(super) fn full(log: File) -> Self {
        Self::synced_by(move || log.sync_data())
    }

    /// Syncs nothing: a power cut can undo the most recent commits.
    pub(super) fn normal() -> Self {
        Self { log: None }
    }

    /// Calls `sync` to sync the log.
    pub(super) fn synced_by(sync: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        Self {
            log: Some(Log {
                sync: Mutex::new(Sync {
                    sync: Box::new(sync),
                    trouble: None,
                }),
                begun: AtomicU64::new(0),
                succeeded: AtomicU64::new(0),
                turn: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Makes durable what is committed, also by others. For the thread of `connection`, after its
    /// COMMIT.
    ///
    /// # Errors
    /// [`StoreError::Indeterminate`]: it is committed, and may not be durable.
    pub(super) fn secure(&self, connection: &Connection) -> Result<(), StoreError> {
        match &self.log {
            Some(log) => log.sync(|| checkpoint::complete(connection)),
            None => Ok(()),
        }
    }

    /// Waits until all is durable that was committed before the call. Needs no lock of the
    /// database.
    ///
    /// # Errors
    /// As for [`Durability::secure`], which has to repair what is wrong.
    pub(super) async fn confirm(self: &Arc<Self>) -> Result<(), StoreError> {
        let Some(log) = &self.log else { return Ok(()) };
        let begun = log.begun.load(Ordering::SeqCst);
        let _turn = log.turn.lock().await;
        if log.succeeded.load(Ordering::SeqCst) > begun {
            return Ok(()); // by a commit, or by who had the turn before
        }
        let this = Arc::clone(self);
        // A blocking thread, and not that of the writer, which may wait for the database's lock.
        let synced = spawn_blocking(move || {
            let log = this.log.as_ref();
            log.map_or(Ok(()), |log| log.sync(|| Ok(false)))
        });
        synced.await.map_err(|_| StoreError::Closed)?
    }
}

impl Log {
    /// Syncs the log. From a failed sync on, it calls `checkpoint`, which returns whether all of
    /// the log is in the database file, and durable.
    fn sync(&self, checkpoint: impl Fn() -> rusqlite::Result<bool>) -> Result<(), StoreError> {
        let mut state = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
        // SeqCst: whoever has read the number before this is sure that the sync covers its commit.
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let repaired = if state.trouble.is_some() {
            checkpoint()
        } else if let Err(error) = (state.sync)() {
            tracing::warn!(%error, "the write-ahead log was not synced; checkpointing it instead");
            state.trouble = Some(trouble::of_file(&error));
            // At once: memory pressure takes from the kernel what it could not write, and then a
            // checkpoint would copy what the disk has in its place. Twice: SQLite's own open file
            // reports the error, too.
            checkpoint().or_else(|_| checkpoint())
        } else {
            Ok(true)
        };
        if let Some(trouble) = state.trouble {
            match repaired {
                Ok(true) => state.trouble = None,
                Ok(false) => return Err(unsynced(trouble, &"a sync of the log has failed")),
                Err(error) => return Err(unsynced(trouble, &error)),
            }
        }
        self.succeeded.store(number, Ordering::SeqCst);
        Ok(())
    }
}

fn unsynced(trouble: Trouble, error: &impl Display) -> StoreError {
    StoreError::Indeterminate {
        trouble,
        message: format!("the write-ahead log was not synced: {error}").into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io::ErrorKind};

    use super::Durability;

    #[test]
    fn the_same_error_by_another_open_file_of_the_log_does_not_prevent_its_checkpoint() {
        let mut errors = vec![ErrorKind::Other];
        let durability =
            Durability::synced_by(move || errors.pop().map_or(Ok(()), |it| Err(it.into())));
        let log = durability.log.unwrap();
        let checkpoints = Cell::new(0);
        let checkpoint = || {
            checkpoints.set(checkpoints.get() + 1);
            match checkpoints.get() {
                1 => Err(rusqlite::Error::InvalidQuery),
                _ => Ok(true),
            }
        };
        for _ in 0..2 {
            log.sync(checkpoint).unwrap();
            assert_eq!(checkpoints.get(), 2);
        }
    }
}
