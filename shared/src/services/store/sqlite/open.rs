//! Opening the database at start: retry transient conditions, refuse permanent ones.
//!
//! A locked file, a full disk or an unwritable directory is retried until it works. Exiting would
//! only make a supervisor restart the process in a loop. A file that is not a database of this
//! service is refused at once, before anything is written.

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use url::Url;

use super::{
    connection::{self, OpenError, Opened, Opener},
    private,
    schema::{self, SchemaError},
    trouble,
};
use crate::{
    config::SqliteSettings,
    services::store::{StoreError, Trouble, condition::Condition},
};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A lock held for less than this is not logged: it is another process that starts or migrates.
const QUIET_PERIOD: Duration = Duration::from_secs(1);

/// How long an operator's command waits for a lock, such as that of a migration.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);

/// What a database counts as that was moved elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    Refused,
    /// For the move itself, which goes on.
    #[cfg(feature = "postgres")]
    Accepted,
}

/// Why an attempt to open failed.
enum Obstacle {
    /// A condition that can clear by itself.
    Transient(Trouble, String),
    /// A condition that stays until an operator changes the file or the settings.
    Permanent(StoreError),
}

/// Opens all connections and migrates the database. Retries transient conditions with exponential
/// backoff and no time limit; drop the future on shutdown.
///
/// # Errors
/// A permanent condition.
pub(super) async fn open(settings: &SqliteSettings) -> Result<Opened, StoreError> {
    let condition = Condition::healthy(
        "the database can't be opened yet; retrying until it can",
        "the database is open",
    );
    let begun = Instant::now();
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .build();
    let path = settings.path.clone();
    loop {
        let settings = settings.clone();
        // A blocking thread: SQLite waits for locks and disks synchronously.
        let tried = tokio::task::spawn_blocking(move || try_to_open(&settings));
        match tried.await.map_err(|_| StoreError::Closed)? {
            Ok(opened) => {
                condition.succeeded();
                private::warn_if_shared(&path);
                return Ok(opened);
            }
            Err(Obstacle::Transient(Trouble::Busy, _)) if begun.elapsed() < QUIET_PERIOD => {}
            Err(Obstacle::Transient(trouble, problem)) => condition.failed(trouble, &problem),
            Err(Obstacle::Permanent(error)) => return Err(error),
        }
        tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

/// Opens all connections of a database that is there and current. Waits for a lock for a few
/// seconds.
///
/// # Errors
/// There is none, its schema is another, or it can't be opened now.
pub(super) async fn attach(settings: &SqliteSettings) -> Result<Opened, StoreError> {
    let begun = Instant::now();
    loop {
        let settings = settings.clone();
        let tried = tokio::task::spawn_blocking(move || try_to_attach(&settings));
        match tried.await.map_err(|_| StoreError::Closed)? {
            Ok(opened) => return Ok(opened),
            Err(Obstacle::Transient(Trouble::Busy, _)) if begun.elapsed() < COMMAND_PATIENCE => {}
            Err(obstacle) => return Err(obstacle.into()),
        }
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}

fn try_to_attach(settings: &SqliteSettings) -> Result<Opened, Obstacle> {
    let path = &settings.path;
    require_file(path)?;
    inspect_contents(path, Moved::Refused)?;
    connection::open(settings, Opener::Command).map_err(|error| Obstacle::of(path, error))
}

/// Refuses a path at which there is no database.
fn require_file(path: &Path) -> Result<(), Obstacle> {
    if is_usable_file(path)? {
        return Ok(());
    }
    let problem = "there is no database; run the command with the settings of the services (DB_URL, \
                   STORM_CONFIG) and where they run";
    Err(unusable(path, problem))
}

/// Refuses a path at which there is no database of this service, without opening it for good.
///
/// # Errors
/// There is none, or it can't be read now.
pub(super) fn require_database(path: &Path) -> Result<(), StoreError> {
    require_file(path)?;
    inspect_contents(path, Moved::Refused)?;
    Ok(())
}

/// The same, but one that was moved elsewhere will do.
///
/// # Errors
/// Those of [`require_database`].
#[cfg(feature = "postgres")]
pub(super) fn require_database_or_mark(path: &Path) -> Result<(), StoreError> {
    require_file(path)?;
    inspect_contents(path, Moved::Accepted)?;
    Ok(())
}

/// The error of an operator's command for an error of `SQLite` on the database at `path`.
pub(super) fn command_failed(path: &Path, error: impl Into<OpenError>) -> StoreError {
    Obstacle::of(path, error.into()).into()
}

fn try_to_open(settings: &SqliteSettings) -> Result<Opened, Obstacle> {
    let path = &settings.path;
    create_directory(path)?;
    if !is_usable_file(path)? {
        create_file(path)?;
    }
    // Before the real connection, which would create files beside a foreign database.
    inspect_contents(path, Moved::Refused)?;
    connection::open(settings, Opener::Service).map_err(|error| Obstacle::of(path, error))
}

fn create_directory(path: &Path) -> Result<(), Obstacle> {
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    private::create_directory(directory).map_err(|error| match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => unusable(
            path,
            "a parent of its path is not a directory; use another path",
        ),
        ErrorKind::InvalidFilename => unusable(path, "its path is too long"),
        _ => {
            let what = format!("can't be created{}", remedy(path, directory, &error));
            transient(directory, &error, &what)
        }
    })?;
    // SQLite creates its journal beside the file.
    require(directory, path, Access::WRITE_OK | Access::EXEC_OK)
}

fn create_file(path: &Path) -> Result<(), Obstacle> {
    private::create_file(path).map_err(|error| match error.kind() {
        ErrorKind::InvalidFilename => unusable(path, "its name is too long"),
        _ => transient(path, &error, "can't be created"),
    })
}

/// Whether there is a file. Refuses a path that is not a regular file. Retries while the file is
/// not writable.
fn is_usable_file(path: &Path) -> Result<bool, Obstacle> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() => {}
        Ok(_) => {
            let problem = "is not a file; use a file or an unused path";
            return Err(unusable(path, problem));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) if error.kind() == ErrorKind::InvalidFilename => {
            return Err(unusable(path, "its name is too long"));
        }
        Err(error) => return Err(transient(path, &error, "can't read its metadata")),
    }
    require(path, path, Access::READ_OK | Access::WRITE_OK)?;
    Ok(true)
}

/// Retries while this process has no `access` to `place`: the database at `path` or its directory.
fn require(place: &Path, path: &Path, access: Access) -> Result<(), Obstacle> {
    // accessat, not open: closing a file descriptor would drop the POSIX locks that SQLite holds
    // on the file in this process.
    accessat(CWD, place, access, AtFlags::EACCESS).map_err(|error| {
        let error = error.into();
        let directory = path.parent().unwrap_or(path);
        let what = format!("is not writable{}", remedy(path, directory, &error));
        transient(place, &error, &what)
    })
}

/// Where a permission is missing: the user that needs it, and the command that gives it. In a
/// container that user is known by its number only.
fn remedy(path: &Path, directory: &Path, error: &std::io::Error) -> String {
    if error.kind() != ErrorKind::PermissionDenied {
        return String::new();
    }
    let user = rustix::process::geteuid().as_raw();
    let (folder, file) = (directory.display(), path.display());
    let (make, places) = if !directory.exists() {
        (format!("mkdir -p {folder} && "), folder.to_string())
    } else if path.exists() {
        // Its write-ahead log too.
        (String::new(), format!("{folder} {file}*"))
    } else {
        (String::new(), folder.to_string())
    };
    format!(
        " by uid {user}, which runs this process; as root (for a container, on the folder that is \
         mounted there): {make}chown {user} {places} && chmod u+rwX {places}"
    )
}

/// Refuses a file of another program or with a newer schema, by its contents.
///
/// An `immutable` connection takes no lock, creates no file and rolls nothing back, so the file
/// stays unchanged byte for byte. It ignores the WAL, which can hold everything after a crash, so
/// a file that passes is not proven yet: [`connection::open`] checks again with the WAL.
fn inspect_contents(path: &Path, moved: Moved) -> Result<(), Obstacle> {
    look_at_contents(path, moved).or_else(|_| {
        // Without a lock, the first look can meet a page that another process has half written.
        thread::sleep(FIRST_PAUSE);
        look_at_contents(path, moved)
    })
}

fn look_at_contents(path: &Path, moved: Moved) -> Result<(), Obstacle> {
    // Settings hold an absolute path, so this succeeds. `connection::open` checks in any case.
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
        // Without its WAL a sound database can look damaged, so other errors decide nothing here.
        Err(SchemaError::Sqlite(error)) if !connection::is_no_database(&error) => Ok(()),
        Err(SchemaError::Moved(_)) if moved != Moved::Refused => Ok(()),
        Err(error) => Err(Obstacle::of(path, error.into())),
        Ok(_) => Ok(()),
    }
}

impl Obstacle {
    fn of(path: &Path, error: OpenError) -> Self {
        let error = match error {
            OpenError::Sqlite(error) => error,
            OpenError::Unusable(problem) => return unusable(path, problem),
        };
        let trouble = trouble::of(&error);
        if trouble.may_pass() {
            return Self::Transient(trouble, format!("{}: {error}", path.display()));
        }
        if trouble == Trouble::Corrupt {
            let problem = format!("is damaged ({error}): restore it from a backup");
            return unusable(path, problem);
        }
        unusable(path, error.to_string())
    }
}

impl From<Obstacle> for StoreError {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Transient(trouble, message) => Self::Failed {
                trouble,
                message: message.into(),
            },
            Obstacle::Permanent(error) => error,
        }
    }
}

fn unusable(path: &Path, problem: impl AsRef<str>) -> Obstacle {
    let text = format!("{}: {}", path.display(), problem.as_ref());
    Obstacle::Permanent(StoreError::Unusable(text))
}

fn transient(path: &Path, error: &std::io::Error, what: &str) -> Obstacle {
    let problem = format!("{}: {what}: {error}", path.display());
    Obstacle::Transient(trouble::of_file(error), problem)
}
