//! Where everything that is seen in a run is written down, from many tasks.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};

use super::history::Record;

/// The records so far. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    records: Arc<Mutex<Vec<Record>>>,
}

impl Journal {
    pub(super) fn note(&self, record: Record) {
        self.records().push(record);
    }

    /// Takes the records out; what is noted later begins a new journal.
    pub(super) fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.records())
    }

    fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        // Nothing panics while it holds them; and if it did, they would be whole.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a history in `file`, one record a line.
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
        Ok(lines.flush()?)
    };
    write().with_context(|| format!("can't write {}", file.display()))
}
