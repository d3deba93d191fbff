//! Why the settings are not accepted.

use std::path::Path;

use thiserror::Error;

/// The variable that names the settings file.
pub(super) const FILE_VARIABLE: &str = "STORM_CONFIG";

/// A setting that is not accepted. One line: the setting, its value, what is accepted.
#[derive(Debug, Error)]
pub enum SettingError {
    /// The value cannot be parsed or is out of bounds.
    #[error("{name}={value}: {problem}")]
    Value {
        /// The setting, in upper case.
        name: String,
        /// The value as it was given, or `(hidden)` if it may contain a secret.
        value: String,
        /// What is wrong with the value, or what is accepted.
        problem: String,
    },
    /// A setting is missing, is not a value, or must not be set.
    #[error("{name}: {problem}")]
    NoValue {
        /// The setting, in upper case.
        name: String,
        /// What is wrong, and what is accepted.
        problem: String,
    },
    /// The file, or a variable of a handler, names a setting that does not exist.
    #[error("{place}: unknown setting `{name}`; expected one of: {}", known.join(", "))]
    Unknown {
        /// The file or the variable.
        place: String,
        /// The unknown name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A value in the file is an array or a table.
    #[error(
        "{}: `{name}` is an array or a table; expected one text, number or boolean; a list is one \
         text, such as \"a,b\"",
        place
    )]
    Type {
        /// The file.
        place: String,
        /// The setting.
        name: String,
    },
    /// The sources can't be merged.
    #[error("{FILE_VARIABLE}: {0}")]
    File(String),
}

impl SettingError {
    pub(super) fn no_value(name: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::NoValue {
            name: name.into(),
            problem: problem.into(),
        }
    }

    /// The same of what was given as an `argument`, and not as the `setting`.
    pub(super) fn of_argument(mut self, setting: &str, argument: &str) -> Self {
        if let Self::Value { name, .. } | Self::NoValue { name, .. } = &mut self
            && name.as_str() == setting
        {
            argument.clone_into(name);
        }
        self
    }

    /// The file at `path` is not valid TOML.
    pub(super) fn in_file(path: &Path, error: &config::ConfigError) -> Self {
        Self::Value {
            name: FILE_VARIABLE.to_owned(),
            value: path.display().to_string(),
            problem: one_line(error),
        }
    }
}

impl From<config::ConfigError> for SettingError {
    fn from(error: config::ConfigError) -> Self {
        Self::File(one_line(&error))
    }
}

/// Joins the message into one line and drops the lines that the TOML parser quotes from the file,
/// because they may contain secrets.
fn one_line(error: &config::ConfigError) -> String {
    let error = error.to_string();
    // A quoted line reads `12 | text`, and the line that marks the column reads `   |    ^`.
    let is_quote = |line: &&str| {
        let after_number = line
            .trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit());
        after_number.trim_start().starts_with('|')
    };
    let message = error.lines().filter(|line| !is_quote(line));
    let words: Vec<_> = message.flat_map(str::split_whitespace).collect();
    words.join(" ")
}
