//! Backups, by `SQLite`'s online backup.
//!
//! The copy is made page by page, in steps, within one read transaction. Without that transaction,
//! each commit of another process would restart it, and under load it would never end. Writers do
//! not wait for it; the write-ahead log only can't be reset meanwhile.

use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    connection::{OpenError, wait_for_locks},
    open, schema, trouble,
};
use crate::services::store::{BackedUp, BackupError, Trouble};

/// Pages that are copied between two looks for a signal: 4 MiB.
const STEP: i32 = 1024;

const FILE_MODE: u32 = 0o600;

/// Copies the database at `path` to `target`.
pub(in crate::services::store) fn backup(
    path: &Path,
    target: &Path,
    replace: bool,
    cancelled: &CancellationToken,
) -> Result<BackedUp, BackupError> {
    open::require_database(path)?;
    check_target(path, target, replace)?;
    let source = open_source(path)?;
    let partial = Partial::create(target)?;
    let copied = copy(&source, path, &partial, target, cancelled);
    let bytes = copied.and_then(|()| partial.finish(target, replace))?;
    Ok(BackedUp { bytes })
}

/// Opens the database and begins a snapshot. Any schema of this service will do: a copy is also
/// made before an upgrade.
fn open_source(path: &Path) -> Result<Connection, BackupError> {
    let failed = |error: rusqlite::Error| open::command_failed(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(path, flags).map_err(failed)?;
    wait_for_locks(&source).map_err(failed)?;
    let found = schema::check(&source).map_err(|error| open::command_failed(path, error))?;
    if found.is_new() {
        let problem = found.needs_a_start();
        return Err(open::command_failed(path, OpenError::Unusable(problem)).into());
    }
    // A transaction begins with its first read.
    let begin = "BEGIN; SELECT count(*) FROM store";
    source.execute_batch(begin).map_err(failed)?;
    Ok(source)
}

fn copy(
    source: &Connection,
    path: &Path,
    partial: &Partial,
    target: &Path,
    cancelled: &CancellationToken,
) -> Result<(), BackupError> {
    let failed = |error: rusqlite::Error| match trouble::of(&error) {
        Trouble::Full => no_room(target),
        Trouble::Corrupt => open::command_failed(path, error).into(),
        _ => refused(target, &format!("can't be written: {error}")),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(&partial.0, flags).map_err(failed)?;
    // The copy is synced as a whole, and a copy that is cut off is deleted.
    copy.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")
        .map_err(failed)?;
    let steps = Backup::new(source, &mut copy).map_err(failed)?;
    loop {
        if cancelled.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        match steps.step(STEP).map_err(failed)? {
            StepResult::Done => break,
            StepResult::More => {}
            // A lock of another process, such as one that recovers the log after a crash.
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
    drop(steps);
    copy.close().map_err(|(_, error)| failed(error))
}

/// Refuses a target that is there, is a part of the database, can't be a file, or would be damaged
/// by a file beside it.
fn check_target(path: &Path, target: &Path, replace: bool) -> Result<(), BackupError> {
    let found = match fs::metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return check_logs(target),
        found => found.map_err(|error| io_refused(target, &error))?,
    };
    if !found.is_file() {
        return Err(refused(target, "is not a file; expected the path of one"));
    }
    for suffix in ["", "-wal", "-shm"] {
        let is_same = |file: fs::Metadata| (file.dev(), file.ino()) == (found.dev(), found.ino());
        if fs::metadata(beside(path, suffix)).is_ok_and(is_same) {
            return Err(refused(target, "is the database itself; use another file"));
        }
    }
    if replace {
        return check_logs(target);
    }
    let problem = "there is a file already; use another name, or --force to replace it";
    Err(refused(target, problem))
}

/// Refuses a target beside which there is the log of another database: whoever opens the backup
/// would apply it, which damages it.
fn check_logs(target: &Path) -> Result<(), BackupError> {
    for suffix in ["-wal", "-journal"] {
        let log = beside(target, suffix);
        if fs::symlink_metadata(&log).is_ok() {
            return Err(refused(
                target,
                &format!(
                    "{} is the log of another database, and would be applied to the backup: use \
                     another name. If no process has that database open, and it is not wanted any \
                     more, delete it with its log",
                    log.display()
                ),
            ));
        }
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut file = OsString::from(path);
    file.push(suffix);
    file.into()
}

/// The copy until it is complete. Deleted on drop.
struct Partial(PathBuf);

impl Partial {
    /// Creates it beside `target`, so that it can be renamed to it.
    fn create(target: &Path) -> Result<Self, BackupError> {
        let Some(name) = target.file_name() else {
            return Err(refused(target, "is not a file; expected the path of one"));
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        // Not the process id: one that was killed in a container before had the same.
        hidden.push(format!(".{}.partial", Uuid::new_v4().simple()));
        let path = target.with_file_name(hidden);
        let created = File::options()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path)
            // Again: the umask can take bits from the owner, too.
            .and_then(|file| file.set_permissions(Permissions::from_mode(FILE_MODE)));
        match created {
            Ok(()) => Ok(Self(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(refused(target, "its folder does not exist"))
            }
            Err(error) => Err(io_refused(target, &error)),
        }
    }

    /// Makes it durable under its name. Returns its size.
    fn finish(self, target: &Path, replace: bool) -> Result<u64, BackupError> {
        let failed = |error: io::Error| io_refused(target, &error);
        let file = File::open(&self.0).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        check_logs(target)?; // again: the copy can have taken long
        self.name(target, replace).map_err(failed)?;
        let folder = target.parent().filter(|folder| *folder != Path::new(""));
        let folder = File::open(folder.unwrap_or(Path::new("."))).map_err(failed)?;
        folder.sync_all().map_err(failed)?;
        Ok(bytes)
    }
}

impl Partial {
    /// Gives it the name `target` as well, or instead.
    fn name(&self, target: &Path, replace: bool) -> io::Result<()> {
        if !replace {
            // Unlike a rename, this fails if there is a file by now.
            match fs::hard_link(&self.0, target) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {} // no links here
                linked => return linked,
            }
        }
        fs::rename(&self.0, target)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It is renamed, or there is nowhere to report to.
        let _ = fs::remove_file(&self.0);
    }
}

fn io_refused(target: &Path, error: &io::Error) -> BackupError {
    if trouble::of_file(error) == Trouble::Full {
        return no_room(target);
    }
    refused(target, &format!("can't be written: {error}"))
}

fn no_room(target: &Path) -> BackupError {
    refused(
        target,
        "the disk is full, or a limit is reached; nothing was written",
    )
}

fn refused(target: &Path, problem: &str) -> BackupError {
    BackupError::Target(format!("{}: {problem}", target.display()))
}
