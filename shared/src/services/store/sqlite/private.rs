//! The permissions of the database. It contains clients' data, so only the user of the service may
//! read what the service creates, whatever the umask is.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::{Mutex, PoisonError},
};

use tracing::warn;

const DIRECTORY_MODE: u32 = 0o700;
/// `SQLite` gives its write-ahead log and the log's index the same mode.
const FILE_MODE: u32 = 0o600;
/// The permission bits of the group and of others.
const OTHERS: u32 = 0o077;

/// Creates a directory and its missing parents. One that exists stays as it is.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_directory(parent)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        // Again: the umask can take bits from the owner, too.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE)),
        // Another process was first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Creates an empty file, which is a new database for `SQLite`.
pub(super) fn create_file(path: &Path) -> io::Result<()> {
    // Closing a file drops the POSIX locks that SQLite holds on it in this process. Every store
    // comes through here before it opens a new file, so here none has a lock.
    static CREATING: Mutex<()> = Mutex::new(());
    let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
    if path.exists() {
        return Ok(());
    }
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))
}

/// Warns of a database that others than its owner may access. It may be meant, so it stays so.
pub(super) fn warn_if_shared(path: &Path) {
    let Ok(file) = fs::metadata(path) else {
        return;
    };
    let mode = file.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        warn!(
            database = %path.display(),
            mode = format_args!("{mode:04o}"),
            "others than its owner may access the database; chmod 600 it, its -wal and its -shm"
        );
    }
}
