//! The open files of the database, and whether they are still at their paths.
//!
//! A file that is deleted, renamed or replaced stays open: everything still works, and the next
//! start finds none of it.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::{error, info};

/// The write-ahead log and its index. Commits are in the log until the next checkpoint, and
/// processes with different indexes would damage the database.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// The files of one database, as they were when it was opened.
pub(super) struct OpenFiles {
    files: Vec<(PathBuf, FileId)>,
    are_moved: AtomicBool,
}

/// Device and inode. An open file keeps them, and no other file has them meanwhile.
type FileId = (u64, u64);

impl OpenFiles {
    /// Notes the files of the database at `path`, which has just been opened.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let files = SUFFIXES.map(|suffix| {
            let mut path = OsString::from(path);
            path.push(suffix);
            let path = PathBuf::from(path);
            let id = id(&path)?;
            Ok((path, id))
        });
        Ok(Self {
            files: files.into_iter().collect::<io::Result<_>>()?,
            are_moved: AtomicBool::new(false),
        })
    }

    /// No files, for a database in memory.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            files: Vec::new(),
            are_moved: AtomicBool::new(false),
        }
    }

    /// Whether one of the files is no longer at its path, as of the last [`OpenFiles::look`].
    pub(super) fn are_moved(&self) -> bool {
        // Relaxed: the flag orders nothing else.
        self.are_moved.load(Ordering::Relaxed)
    }

    /// Looks at the paths. Returns whether a file is no longer at its path; logs a change once.
    pub(super) fn look(&self) -> bool {
        let gone = self.files.iter().find(|(path, opened)| match id(path) {
            Ok(found) => found != *opened,
            // Any other error says nothing about the file.
            Err(error) => matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
        });
        match (gone, self.are_moved.swap(gone.is_some(), Ordering::Relaxed)) {
            (Some((path, _)), false) => error!(
                file = %path.display(),
                "the open database is no longer at its path, so the next start will not find what is \
                 written now; put the files back, or restart this process"
            ),
            (None, true) => info!("the open database is at its path again"),
            _ => {}
        }
        gone.is_some()
    }
}

fn id(path: &Path) -> io::Result<FileId> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}
