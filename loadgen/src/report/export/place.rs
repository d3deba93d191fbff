//! The place of a result file: what is checked before the run.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// More than a result takes, in bytes.
const ROOM: usize = 2 * 1024 * 1024;

/// What is at a path.
#[derive(Debug)]
pub(super) enum Place {
    /// Nothing; the folder accepts a new file.
    Free(PathBuf),
    /// A regular file. The path has no symbolic link.
    Taken(PathBuf),
    /// A pipe, a device, or the file that is this program's own output. It is not ours to replace.
    Stream(File),
}

impl Place {
    /// Checks that a file can be written at `path`.
    ///
    /// # Errors
    /// It can't. The error does not name the file.
    pub(super) fn of(path: &Path) -> Result<Self> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                bail!(
                    "it is a folder; give a file in it, such as {}",
                    path.join("result").display()
                )
            }
            Ok(found) if !found.is_file() || is_own_output(&found) => stream(path),
            Ok(_) => {
                // Without `truncate`, this changes nothing.
                File::options().append(true).open(path)?;
                Ok(Self::Taken(path.canonicalize()?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    bail!("it is a symbolic link to a file that does not exist");
                }
                let path = absolute(path)?;
                Temporary::beside(&path)?.try_room()?;
                Ok(Self::Free(path))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Opened once: a pipe ends when its last writer closes it.
fn stream(path: &Path) -> Result<Place> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = File::options();
    options.append(true);
    // Opening a named pipe without a reader would block.
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, nonblocking);
    let mut file = options.open(path).or_else(|error| {
        match error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error)
        {
            Some(rustix::io::Errno::NXIO) => bail!("it is a pipe that no program reads"),
            _ => Err(error.into()),
        }
    })?;
    // Some devices refuse even an empty write (`/dev/full`), and all others ignore it. `write_all`
    // would make no system call.
    let _nothing = file.write(&[])?;
    // From here on a reader may be slow: a result can be larger than what a pipe holds.
    rustix::io::ioctl_fionbio(&file, false)?;
    Ok(Place::Stream(file))
}

impl Place {
    /// Writes a text: replaces a file as a whole, and leaves its permissions as they are.
    ///
    /// # Errors
    /// It can't be written. A file is as it was.
    pub(super) fn write(&self, text: &str) -> Result<()> {
        match self {
            Self::Free(path) | Self::Taken(path) => replace(path, text),
            Self::Stream(file) => write_stream(file, text),
        }
    }
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let temporary = Temporary::beside(path)?;
    if let Ok(earlier) = fs::metadata(path) {
        temporary.file.set_permissions(earlier.permissions())?;
    }
    (&temporary.file).write_all(text.as_bytes())?;
    temporary.replace(path)
}

pub(super) fn write_stream(mut stream: &File, text: &str) -> Result<()> {
    Ok(stream.write_all(text.as_bytes())?)
}

/// Whether this is standard output or standard error, redirected to a file.
fn is_own_output(found: &Metadata) -> bool {
    [io::stdout().as_fd(), io::stderr().as_fd()]
        .into_iter()
        .filter_map(|own| File::from(own.try_clone_to_owned().ok()?).metadata().ok())
        .any(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
}

/// The path with its folder resolved, whether the file exists or not.
///
/// # Errors
/// The folder does not exist.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    if let Ok(path) = path.canonicalize() {
        return Ok(path);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().context("it has no file name")?;
    let folder = folder
        .canonicalize()
        .with_context(|| format!("the folder {} can't be used", folder.display()))?;
    Ok(folder.join(name))
}

/// The beginning of a file.
pub(super) fn beginning(path: &Path, bytes: u64) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    File::open(path)?.take(bytes).read_to_end(&mut found)?;
    Ok(found)
}

/// A new file beside another, in the same file system. It is removed when dropped.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) file: File,
    path: PathBuf,
}

impl Temporary {
    pub(super) fn beside(path: &Path) -> Result<Self> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        // Random: in a container, every run may have the same process id.
        name.push(format!(".{:08x}.tmp", fastrand::u32(..)));
        let path = path.with_file_name(name);
        let folder = path.parent().unwrap_or(Path::new("/"));
        // `create_new` follows no symbolic link and replaces no file.
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file
            .with_context(|| format!("no temporary file can be created in {}", folder.display()))?;
        Ok(Self { file, path })
    }

    /// Writes more than a result takes, to find a full disk.
    pub(super) fn try_room(&self) -> Result<()> {
        (&self.file)
            .write_all(&vec![b' '; ROOM])
            .context("there is no room for it")
    }

    /// Makes this the file at `path`, in one step.
    ///
    /// # Errors
    /// It can't be stored or renamed. The file at `path` is as it was.
    pub(super) fn replace(self, path: &Path) -> Result<()> {
        // Before the rename: after a power cut, the name would otherwise lead to an empty file.
        self.file.sync_all()?;
        Ok(fs::rename(&self.path, path)?)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is gone after a rename. Elsewhere a left-over file is no reason to fail.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _, process::Command, thread};

    use tempfile::TempDir;

    use super::Place;

    #[test]
    fn a_result_that_is_larger_than_a_pipe_waits_for_its_reader() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("pipe");
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let reader = thread::spawn({
            let path = path.clone();
            move || {
                // Opens when the writer does. It reads nothing until the pipe is full.
                let mut pipe = File::open(path).unwrap();
                while rustix::io::ioctl_fionread(&pipe).unwrap() < 4096 {
                    thread::yield_now();
                }
                let mut text = String::new();
                pipe.read_to_string(&mut text).unwrap();
                text
            }
        });
        // Without a reader, a pipe is refused.
        let place = loop {
            match Place::of(&path) {
                Ok(place) => break place,
                Err(_) => thread::yield_now(),
            }
        };
        let text = "result\n".repeat(100_000);
        place.write(&text).unwrap();
        drop(place);
        assert_eq!(reader.join().unwrap(), text);
    }
}
