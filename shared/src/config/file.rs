//! The settings file: `STORM_CONFIG`.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use super::{
    error::{FILE_VARIABLE, SettingError},
    warning::Warning,
};

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
        let unreadable = |error: io::Error| {
            refused(match error.kind() {
                io::ErrorKind::NotFound => {
                    "there is no such file; a relative path starts at the working directory".into()
                }
                _ => format!("it cannot be read: {error}"),
            })
        };
        let metadata = fs::metadata(path).map_err(unreadable)?;
        // A folder; or a pipe or a device, whose end may never come.
        if !metadata.is_file() {
            return Err(refused("it is not a file; expected a TOML file".into()));
        }
        if metadata.len() > MAX_LENGTH {
            return Err(refused(
                "it is longer than 1 MiB; expected a TOML file".into(),
            ));
        }
        let bytes = fs::read(path).map_err(unreadable)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| refused("it is not UTF-8; expected a TOML file".into()))?;
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
    /// in the file, if it has one.
    pub(super) fn warning(&self, value: impl Fn(&str) -> Option<String>) -> Option<Warning> {
        if self.mode & OTHERS == 0 {
            return None;
        }
        let is_secret = |key: &&str| match value(key) {
            // A password, of a host or of a Unix socket.
            Some(url) if *key == "redis_url" => url.contains('@') || url.contains("pass="),
            Some(secrets) => !secrets.trim().is_empty(),
            None => false,
        };
        let secret = SECRETS.into_iter().find(is_secret)?.to_ascii_uppercase();
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
