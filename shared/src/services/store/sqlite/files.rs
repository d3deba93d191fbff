//! The open files of the database, and whether they are still at their paths.
//!
//! A file that is deleted, renamed or replaced stays open: everything still works, and the next
//! start finds none of it.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{error, info};

/// Commits are in the WAL until the next checkpoint. Processes with different `-shm` files would
/// corrupt the database.
const WAL_SUFFIXES: [&str; 2] = ["-wal", "-shm"];

/// How often the WAL files are checked. A check costs microseconds, so a commit checks the database
/// file alone.
const WAL_PERIOD: Duration = Duration::from_secs(1);

/// The files of one database, as they were when it was opened.
pub(super) struct OpenFiles {
    database: Option<OpenFile>,
    wal: Vec<OpenFile>,
    wal_is_due: Mutex<Instant>,
}

struct OpenFile {
    path: PathBuf,
    /// Device and inode. An open file keeps them, and no other file has them meanwhile.
    id: (u64, u64),
    is_moved: AtomicBool,
}

impl OpenFiles {
    /// Notes the files of the database at `path`, which has just been opened.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        // SQLite follows links before it adds the suffix.
        let target = fs::canonicalize(path)?;
        let wal = WAL_SUFFIXES.map(|suffix| {
            let mut path = OsString::from(&target);
            path.push(suffix);
            OpenFile::at(path.into())
        });
        Ok(Self {
            database: Some(OpenFile::at(path.to_owned())?),
            wal: wal.into_iter().collect::<io::Result<_>>()?,
            wal_is_due: Mutex::new(Instant::now() + WAL_PERIOD),
        })
    }

    /// Opens the write-ahead log, to sync it. `SQLite` holds no locks on that file, which closing
    /// this one would release. It exists for as long as a connection is open.
    pub(super) fn open_log(&self) -> io::Result<File> {
        let [log, ..] = &self.wal[..] else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let file = OpenOptions::new().write(true).open(&log.path)?;
        // Another file at the path is not the one that SQLite writes to.
        if of_file(&file.metadata()?) != log.id {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(file)
    }

    /// No files, for a database in memory.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            database: None,
            wal: Vec::new(),
            wal_is_due: Mutex::new(Instant::now()),
        }
    }

    /// Whether a file is no longer at its path, as of the last check.
    pub(super) fn are_moved(&self) -> bool {
        self.all().any(OpenFile::is_moved)
    }

    /// Checks every path. Returns whether a file is no longer there. Logs a change once.
    pub(super) fn check_all(&self) -> bool {
        self.all().for_each(OpenFile::check);
        self.are_moved()
    }

    /// As [`OpenFiles::check_all`], for every commit: checks the WAL files only once per
    /// [`WAL_PERIOD`].
    pub(super) fn check(&self) -> bool {
        let now = Instant::now();
        {
            let mut due = self
                .wal_is_due
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if now >= *due {
                *due = now + WAL_PERIOD;
                self.wal.iter().for_each(OpenFile::check);
            }
        }
        self.database.iter().for_each(OpenFile::check);
        self.are_moved()
    }

    fn all(&self) -> impl Iterator<Item = &OpenFile> {
        self.database.iter().chain(&self.wal)
    }
}

impl OpenFile {
    fn at(path: PathBuf) -> io::Result<Self> {
        Ok(Self {
            id: id(&path)?,
            path,
            is_moved: AtomicBool::new(false),
        })
    }

    fn is_moved(&self) -> bool {
        // Relaxed: the flag orders nothing else.
        self.is_moved.load(Ordering::Relaxed)
    }

    fn check(&self) {
        let is_moved = match id(&self.path) {
            Ok(found) => found != self.id,
            // Any other error says nothing about the file.
            Err(error) => matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
        };
        let file = self.path.display();
        match (is_moved, self.is_moved.swap(is_moved, Ordering::Relaxed)) {
            (true, false) => error!(
                %file,
                "the open database is no longer at its path, and the next start will not find what \
                 is written now; put the file back; before a restart, read docs/TROUBLESHOOTING.md, \
                 database-moved"
            ),
            (false, true) => info!(%file, "the open database is at its path again"),
            _ => {}
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| of_file(&file))
}

fn of_file(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
