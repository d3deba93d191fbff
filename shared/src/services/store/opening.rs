//! How a process comes to its database: it waits for what passes, and refuses what doesn't.
//!
//! A file that is locked, a full disk or a folder that can't be written to would only make whoever
//! restarts the process do so again and again: so it is tried until it works. A file that is none
//! of ours is refused at once, and before anything is written.

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use url::Url;

use super::{
    condition::Condition,
    connection::{self, Opened},
    error::{StoreError, Trouble},
    schema::{self, SchemaError},
};
use crate::config::StoreSettings;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A lock that is gone by then is another process that starts or migrates: nothing to tell of.
const WORTH_A_LINE: Duration = Duration::from_secs(1);

/// What is in the way of opening.
enum Obstacle {
    /// It may be gone at the next try.
    Passing(Trouble, String),
    /// It stays until somebody does something about the file or the settings.
    Lasting(StoreError),
}

/// Opens the database's connections, migrating it. Tries until what is in the way has passed; to be
/// dropped when the process is told to end.
///
/// # Errors
/// The file can't be used as it is.
pub(super) async fn open(settings: &StoreSettings) -> Result<Opened, StoreError> {
    let condition = Condition::good(
        "the database can't be opened yet; it is tried until it can",
        "the database could be opened at last",
    );
    let begun = Instant::now();
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .build();
    loop {
        let settings = settings.clone();
        let tried = tokio::task::spawn_blocking(move || try_to_open(&settings));
        match tried.await.map_err(|_| StoreError::Closed)? {
            Ok(opened) => {
                condition.went_well();
                return Ok(opened);
            }
            Err(Obstacle::Passing(Trouble::Busy, _)) if begun.elapsed() < WORTH_A_LINE => {}
            Err(Obstacle::Passing(trouble, problem)) => condition.failed(trouble, &problem),
            Err(Obstacle::Lasting(error)) => return Err(error),
        }
        tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

fn try_to_open(settings: &StoreSettings) -> Result<Opened, Obstacle> {
    let path = &settings.path;
    make_folder(path)?;
    inspect_file(path)?;
    inspect_contents(path)?;
    connection::open(settings).map_err(|error| Obstacle::of(path, error))
}

fn make_folder(path: &Path) -> Result<(), Obstacle> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(folder).map_err(|error| match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => unusable(
            path,
            "a part of its path is no folder; point DB_URL elsewhere",
        ),
        ErrorKind::InvalidFilename => unusable(path, "its path is too long"),
        _ => passing(path, &error, "its folder can't be made"),
    })
}

/// Refuses what is no file, and waits for one that this user may not write.
fn inspect_file(path: &Path) -> Result<(), Obstacle> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() => {}
        Ok(_) => {
            let problem = "is no file; point DB_URL at a file, or at a name that is free";
            return Err(unusable(path, problem));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(passing(path, &error, "can't be looked at")),
    }
    // Asked, not tried: closing the file would let go of SQLite's locks on it in this process.
    let access = Access::READ_OK | Access::WRITE_OK;
    accessat(CWD, path, access, AtFlags::EACCESS).map_err(|error| {
        let what = "can't be written to by the user of this process";
        passing(path, &error.into(), what)
    })
}

/// Refuses a file that is not ours, or of a newer version, by what stands in it.
///
/// This connection takes no lock, makes no file, rolls nothing back: the file stays as it is, byte
/// for byte. It doesn't see the log, in which everything may stand after a crash, so that its yes is
/// none yet: [`connection::open`] checks once more, with the log.
fn inspect_contents(path: &Path) -> Result<(), Obstacle> {
    let Ok(mut url) = Url::from_file_path(path) else {
        return Ok(());
    };
    url.set_query(Some("immutable=1"));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let checked = Connection::open_with_flags(url.as_str(), flags)
        .map_err(SchemaError::from)
        .and_then(|connection| schema::check(&connection));
    match checked {
        Err(SchemaError::Sqlite(error)) if !connection::is_no_database(&error) => Ok(()),
        Err(error) => Err(Obstacle::of(path, connection::at(path, error))),
        Ok(()) => Ok(()),
    }
}

impl Obstacle {
    fn of(path: &Path, error: StoreError) -> Self {
        let StoreError::Sqlite(error) = error else {
            return Self::Lasting(error);
        };
        let trouble = Trouble::from(error.as_ref());
        if trouble.may_pass() {
            return Self::Passing(trouble, format!("{}: {error}", path.display()));
        }
        if trouble == Trouble::Corrupt {
            let problem = format!("is damaged ({error}): restore it from a backup");
            return unusable(path, problem);
        }
        unusable(path, error.to_string())
    }
}

fn unusable(path: &Path, problem: impl Into<String>) -> Obstacle {
    Obstacle::Lasting(connection::unusable(path, problem))
}

fn passing(path: &Path, error: &std::io::Error, what: &str) -> Obstacle {
    let problem = format!("{}: {what}: {error}", path.display());
    Obstacle::Passing(Trouble::from(error), problem)
}
