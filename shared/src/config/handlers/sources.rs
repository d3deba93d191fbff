//! Where a value comes from: the table itself, another file, or another variable.

use std::{collections::HashMap, path::Path};

use config::{Value, ValueKind};

use super::{
    super::{
        error::SettingError,
        file,
        layers::{HIDDEN, invalid},
    },
    tables::setting_name,
};

/// A longer file, in bytes, has no secret and no value of a header.
const MAX_LENGTH: u64 = 64 << 10;

/// Where a value comes from.
#[derive(PartialEq, Eq)]
pub(super) enum Source {
    /// The value itself.
    Text(String),
    /// The path of the file that has it.
    File(String),
    /// The name of the variable that has it.
    Variable(String),
}

impl Source {
    /// The value, without surrounding white space. `key` is the setting.
    ///
    /// # Errors
    /// There is no such file or variable, or it is empty. Neither it nor its value is shown where
    /// it may be a secret, set in the wrong place.
    pub(super) fn read(
        self,
        key: &str,
        variables: &HashMap<String, String>,
    ) -> Result<String, SettingError> {
        match self {
            Self::Text(text) => Ok(text.trim().to_owned()),
            Self::File(path) => {
                let key = format!("{key}.file");
                let text = read_file(path.trim()).map_err(|(shown, problem)| {
                    invalid(&key, shown.unwrap_or_else(|| HIDDEN.to_owned()), problem)
                })?;
                Ok(text.trim().to_owned())
            }
            Self::Variable(name) => {
                let name = name.trim();
                let value = variables.get(name).map(|value| value.trim());
                match value.filter(|value| !value.is_empty()) {
                    Some(value) => Ok(value.to_owned()),
                    None => Err(no_variable(&format!("{key}.env"), name)),
                }
            }
        }
    }

    /// Whether the value itself is there, and is not empty.
    pub(super) fn is_text(&self) -> bool {
        matches!(self, Self::Text(text) if !text.trim().is_empty())
    }
}

/// A value that may be a secret: a text, or a table that says where it is.
pub(super) fn hidden_text(key: &str, value: Value) -> Result<Source, SettingError> {
    let refused = || {
        let accepted = "expected a text, { file = \"/path\" } or { env = \"NAME\" }";
        SettingError::no_value(setting_name(key), accepted)
    };
    let table = match value.kind {
        ValueKind::Table(table) => table,
        ValueKind::String(text) => return Ok(Source::Text(text)),
        _ => return Err(refused()),
    };
    let mut entries = table.into_iter();
    match (entries.next(), entries.next()) {
        (Some((place, value)), None) => match (place.as_str(), value.kind) {
            ("file", ValueKind::String(path)) => Ok(Source::File(path)),
            ("env", ValueKind::String(name)) => Ok(Source::Variable(name)),
            _ => Err(refused()),
        },
        _ => Err(refused()),
    }
}

/// The error's first part is the path, if it can be shown.
fn read_file(path: &str) -> Result<String, (Option<String>, String)> {
    if !path.starts_with('/') {
        let problem = "expected the absolute path of a file".to_owned();
        return Err((None, problem));
    }
    let refused = |problem| (Some(path.escape_debug().to_string()), problem);
    let expected = "a file with the value alone";
    let (text, _) = file::read_text(Path::new(path), MAX_LENGTH, expected).map_err(refused)?;
    if text.trim().is_empty() {
        return Err(refused(format!("it is empty; expected {expected}")));
    }
    Ok(text)
}

fn no_variable(key: &str, name: &str) -> SettingError {
    let is_usual = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() || !name.bytes().all(is_usual) {
        let problem = "expected the name of a variable of the environment that is not empty";
        return invalid(key, HIDDEN.to_owned(), problem);
    }
    let problem = "there is no such variable in the environment, or it is empty";
    invalid(key, name.to_owned(), problem)
}
