//! The store: the truth about every request. All SQL of the project stands in this module.
//!
//! One [`Store`] per process: one writer that takes whatever writes wait into one transaction
//! (`writer`), and a few readers with connections of their own (`readers`). Its operations are
//! the domain's, and none lets SQL through, so that another database can stand behind them. Those that
//! bring a request in (`accepting`), that a claim may write (`claimed`), and that deliver once more
//! (`redelivery`) stand in files of their own.

mod accepting;
mod attempts;
mod claim;
mod claimed;
mod condition;
mod connection;
mod error;
mod events;
mod lease;
mod log;
mod opening;
mod readers;
mod redelivery;
mod rows;
mod schema;
mod waiting;
mod writer;

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    config::StoreSettings,
    models::{ClientName, Request, RequestId},
};

pub use accepting::NewJob;
pub use attempts::AttemptRecord;
pub use claim::{Candidate, Claim, Job, OwnerId};
pub use claimed::Outcome;
pub use error::{StoreError, Trouble};
pub use lease::{Expired, Heartbeat, runs_alone_from};
use readers::Readers;
pub use redelivery::{Found, RedeliveryPage, Unredeliverable};
pub use waiting::{Look, Waiting};
use writer::Writer;

/// A handle to the store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    id: String,
    writer: Writer,
    readers: Readers,
}

/// Whose requests are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's, also those that were made without a name.
    All,
    /// This client's and no other's.
    Of(ClientName),
}

impl Scope {
    /// The name in the table; null for everybody.
    fn name(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Of(name) => Some(name.as_str()),
        }
    }
}

impl Store {
    /// Opens the database, making it and its folder when there is none, and migrates it.
    ///
    /// A lock, a full disk, a folder that can't be written to are waited for, however long they last:
    /// drop the future when the process is told to end.
    ///
    /// # Errors
    /// The file is no database, another program's, of a newer version than this one knows, damaged, or
    /// not this user's to write. Nothing was written to it.
    pub async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let opened = opening::open(settings).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                id: opened.id,
                writer: Writer::start(opened.writer.into(), settings.write_queue),
                readers: Readers::start(opened.readers),
            }),
        })
    }

    /// The store's random id, which the queue's entries carry.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Claims those of `candidates` that are still as they were seen, in one transaction; the others
    /// are somebody else's, over, or no rows of this store, and left out.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] where `owner` has no lease; or the write failed, and nothing was
    /// claimed.
    pub async fn claim(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
    ) -> Result<Vec<Job>, StoreError> {
        self.shared
            .writer
            .write(move |tx| {
                if lease::is_held(tx, owner)? {
                    claim::claim_all(tx, owner, &candidates).map(Some)
                } else {
                    Ok(None)
                }
            })
            .await?
            .ok_or(StoreError::LeaseLost)
    }

    /// The jobs that may be claimed now and that no worker died with, and when the next one may.
    ///
    /// # Errors
    /// The read failed.
    pub async fn waiting(&self, look: Look) -> Result<Waiting, StoreError> {
        self.shared
            .readers
            .read(move |db| waiting::look(db, look, Timestamp::now()))
            .await
    }

    /// Up to `limit` jobs that may be claimed and that workers died with, those first that the fewest did.
    ///
    /// # Errors
    /// The read failed.
    pub async fn suspects(&self, limit: usize) -> Result<Vec<Candidate>, StoreError> {
        self.shared
            .readers
            .read(move |db| waiting::suspects(db, limit))
            .await
    }

    /// Lets up to `limit` jobs that are parked for `origin` go on now. Returns how many there were.
    ///
    /// # Errors
    /// The write failed.
    pub async fn unpark(&self, origin: String, limit: usize) -> Result<usize, StoreError> {
        self.shared
            .writer
            .write(move |tx| waiting::unpark(tx, &origin, limit, Timestamp::now()))
            .await
    }

    /// The origins for which at least `most` jobs wait.
    ///
    /// # Errors
    /// The read failed.
    pub async fn origins_over_limit(&self, most: usize) -> Result<Vec<String>, StoreError> {
        self.shared
            .readers
            .read(move |db| waiting::origins_over_limit(db, most))
            .await
    }

    /// Enters `owner` among the workers: from here on it can claim jobs, as long as it renews.
    ///
    /// # Errors
    /// The write failed.
    pub async fn register(&self, owner: OwnerId) -> Result<(), StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::register(tx, owner))
            .await
    }

    /// Renews the lease of `owner`, and tells who else has one.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] where it was declared dead, and its jobs are others' now; or the
    /// write failed.
    pub async fn renew(&self, owner: OwnerId) -> Result<Vec<Heartbeat>, StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::renew(tx, owner))
            .await?
            .ok_or(StoreError::LeaseLost)
    }

    /// Declares a worker dead that has not renewed since it was `seen`, and makes its jobs `PENDING`
    /// again; a job that it held alone and that has lost `max_claims` (at least 2) claims in a row by now
    /// is `FAILED`. None, if the worker has renewed, or somebody else was quicker.
    ///
    /// # Errors
    /// The write failed.
    pub async fn expire(
        &self,
        seen: Heartbeat,
        max_claims: u32,
    ) -> Result<Option<Expired>, StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::expire(tx, &seen, max_claims))
            .await
    }

    /// Gives back every job that `owner` holds, and its lease. It must not be working on any of them
    /// any more. Returns how many there were.
    ///
    /// # Errors
    /// The write failed.
    pub async fn resign(&self, owner: OwnerId) -> Result<usize, StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::resign(tx, owner))
            .await
    }

    /// The request of that id, whose ever it is.
    ///
    /// # Errors
    /// The read failed, or too many reads wait already.
    pub async fn find(&self, id: RequestId) -> Result<Option<Request>, StoreError> {
        self.find_within(Scope::All, id).await
    }

    /// The request of that id within `scope`; one outside of it is as good as none.
    ///
    /// # Errors
    /// As for [`Store::find`].
    pub async fn find_within(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Option<Request>, StoreError> {
        self.shared
            .readers
            .read(move |db| rows::find(db, &scope, id))
            .await
    }

    /// Answers when the database has been read and written.
    ///
    /// # Errors
    /// It can't be, or too many reads wait.
    pub async fn check(&self) -> Result<(), StoreError> {
        let read = |db: &rusqlite::Connection| db.query_row("SELECT 1 FROM store", [], |_| Ok(()));
        self.shared.readers.read(read).await?;
        // What accepting a job takes, and back again: nothing has changed when it is committed, and yet
        // as much has been written. A disk that has room for less is full.
        let id = RequestId::generate();
        self.shared
            .writer
            .write(move |tx| {
                accepting::insert_probe(tx, id)?;
                tx.prepare_cached("DELETE FROM requests WHERE id = ?1")?
                    .execute([id.to_string()])
                    .map(drop)
            })
            .await
    }

    /// What kept the last write from being committed, if something did.
    pub fn trouble(&self) -> Option<Trouble> {
        self.shared.writer.trouble()
    }

    /// Completes when the store does nothing any more: it was closed, or a thread of it has ended, which
    /// is in the log then. Nothing but a new process helps.
    pub async fn ended(&self) {
        tokio::select! {
            () = self.shared.writer.ended() => {}
            () = self.shared.readers.ended() => {}
        }
    }

    /// Commits what waits, and closes the database. Every later operation is refused.
    pub async fn close(&self) {
        self.shared.readers.close().await;
        self.shared.writer.close().await;
    }
}
