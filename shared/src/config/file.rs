//! The settings file: `STORM_CONFIG`.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use super::{
    error::{FILE_VARIABLE, SettingError},
    warning::Warning,
};
use crate::size;

/// A file longer than this, in bytes, is no settings file.
const MAX_LENGTH: u64 = 1 << 20;

/// The permission bits of the group and of others.
const OTHERS: u32 = 0o077;

/// The settings that can contain a secret. Tokens are in the file as hashes, which give no access.
const SECRETS: [&str; 2] = ["callback_signing_secrets", "redis_url"];

/// The text of a settings file, and who may read it.
pub(super) struct SettingsFile {
    pub(super) text: String,
    mode: u32,
}

impl SettingsFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It is missing, empty, no file, no text, or cannot be read. One line that names it.
    pub(super) fn read(path: &Path) -> Result<Self, SettingError> {
        let refused = |problem: String| SettingError::Value {
            name: FILE_VARIABLE.to_owned(),
            value: path.display().to_string().escape_debug().to_string(),
            problem,
        };
        let (text, metadata) = read_text(path, MAX_LENGTH, "a TOML file").map_err(refused)?;
        // Cut off while it was written, or mounted in place of a missing file.
        if text.trim().is_empty() {
            return Err(refused(
                "it is empty; expected settings, as `storm-api --help` prints them".into(),
            ));
        }
        Ok(Self {
            text,
            mode: metadata.permissions().mode() & 0o777,
        })
    }

    /// A warning if the file contains a secret and is not private. `value` gives a setting's value
    /// in the file, if it has one. `of_handlers` names a secret in the tables of handlers.
    pub(super) fn warning(
        &self,
        value: impl Fn(&str) -> Option<String>,
        of_handlers: Option<String>,
    ) -> Option<Warning> {
        if self.mode & OTHERS == 0 {
            return None;
        }
        let is_secret = |key: &&str| match value(key) {
            // A password, of a host or of a Unix socket.
            Some(url) if *key == "redis_url" => url.contains('@') || url.contains("pass="),
            Some(secrets) => !secrets.trim().is_empty(),
            None => false,
        };
        let secret = SECRETS.into_iter().find(is_secret);
        let secret = secret.map(str::to_ascii_uppercase).or(of_handlers)?;
        let mode = self.mode;
        Some(Warning::new(
            FILE_VARIABLE,
            format!(
                "the file contains {secret}, and others than its owner may access it (mode \
                 {mode:04o}): chmod 600"
            ),
        ))
    }
}

/// Reads a file of at most `max_length` bytes.
///
/// # Errors
/// It is missing, longer, no file, no text, or cannot be read. `expected` completes the problem.
pub(super) fn read_text(
    path: &Path,
    max_length: u64,
    expected: &str,
) -> Result<(String, Metadata), String> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such file; a relative path starts at the working directory".to_owned()
        }
        _ => format!("it cannot be read: {error}"),
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    // A folder; or a pipe or a device, whose end may never come.
    if !metadata.is_file() {
        return Err(format!("it is not a file; expected {expected}"));
    }
    let most = size::format(usize::try_from(max_length).unwrap_or(usize::MAX));
    let too_long = || format!("it is longer than {most}; expected {expected}");
    if metadata.len() > max_length {
        return Err(too_long());
    }
    // It may grow meanwhile.
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    let read = file.take(max_length + 1).read_to_end(&mut bytes);
    if read.map_err(unreadable)? as u64 > max_length {
        return Err(too_long());
    }
    let text =
        String::from_utf8(bytes).map_err(|_| format!("it is not UTF-8; expected {expected}"))?;
    Ok((text, metadata))
}
