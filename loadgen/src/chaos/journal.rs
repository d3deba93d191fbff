//! The in-memory journal of a run's observations, shared by many tasks.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};

use super::history::Record;

/// The records so far. Clones share the same journal.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    records: Arc<Mutex<Vec<Record>>>,
}

impl Journal {
    pub(super) fn record(&self, record: Record) {
        self.records().push(record);
    }

    /// Takes all records and leaves the journal empty.
    pub(super) fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.records())
    }

    fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        // A push either happens or not, so the list stays valid if a holder panics.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a history to `file`, one JSON record per line.
///
/// # Errors
/// The file can't be written.
pub fn keep(records: &[Record], file: &Path) -> Result<()> {
    let write = || -> Result<()> {
        let mut lines = BufWriter::new(File::create(file)?);
        for record in records {
            serde_json::to_writer(&mut lines, record)?;
            lines.write_all(b"\n")?;
        }
        // Dropping a `BufWriter` flushes it too, but ignores errors.
        Ok(lines.flush()?)
    };
    write().with_context(|| format!("can't write {}", file.display()))
}
