//! The sources of the settings, merged: defaults, profile, file, environment.

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fmt::Display,
    path::{Path, PathBuf},
};

use config::{Config, Environment, File, FileFormat};

#[cfg(feature = "postgres")]
use super::postgres_url;
use super::{
    error::{FILE_VARIABLE, SettingError},
    file::SettingsFile,
    handlers::tables::{self, Tables},
    warning::Warning,
};

pub(super) const DEFAULTS: &str = include_str!("default.toml");
pub(super) const PRODUCTION: &str = include_str!("production.toml");

/// An unknown variable within this edit distance of a setting's name is probably a misspelled one.
const MAX_EDIT_DISTANCE: usize = 2;
/// A shorter name is within that distance of too many others to tell.
const MIN_COMPARED_LENGTH: usize = 6;

/// What an error shows in place of a value that may contain a secret.
pub(super) const HIDDEN: &str = "(hidden)";

/// The sources of the settings, merged.
#[derive(Clone)]
pub(super) struct Layers {
    config: Config,
    /// What the file sets, if there is one.
    file: Option<Config>,
    /// The settings that the environment sets, in upper case.
    set_variables: Vec<String>,
    /// The tables of handlers, of the file and the environment.
    handlers: Tables,
    unknown_variables: Vec<String>,
    file_warning: Option<Warning>,
    #[cfg(feature = "postgres")]
    postgres_variables: postgres_url::Variables,
}

impl Layers {
    /// Merges the defaults, the file named by `STORM_CONFIG`, and the process's environment.
    pub(super) fn from_process() -> Result<Self, SettingError> {
        let file = env::var_os(FILE_VARIABLE)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        // Invalid UTF-8 becomes U+FFFD, which no setting accepts.
        let lossy = |text: OsString| text.to_string_lossy().into_owned();
        let variables = env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
        Self::new(file.as_deref(), variables)
    }

    pub(super) fn new(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingError> {
        let defaults = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        // The defaults name every setting, so they are the list of known names, too.
        let known = keys(&defaults.build_cloned()?)?;
        let variables: HashMap<_, _> = variables.into_iter().collect();
        let mut overrides = Config::builder();
        let (mut file_warning, mut set_in_file) = (None, None);
        let handlers;
        if let Some(path) = file {
            let file = SettingsFile::read(path)?;
            let set = named_settings(path, &file, &known)?;
            handlers = Tables::read(Some((path, &set)), &variables)?;
            let secret = handlers.secret_in_file().map(str::to_owned);
            file_warning = file.warning(|key| set.get_string(key).ok(), secret);
            overrides = overrides.add_source(set.clone());
            set_in_file = Some(set);
        } else {
            handlers = Tables::read(None, &variables)?;
        }
        #[cfg(feature = "postgres")]
        let postgres_variables = postgres_url::Variables {
            password: variables.get("PGPASSWORD").cloned(),
            file: variables.get("PGPASSFILE").cloned(),
        };
        let (variables, unknown_variables) = partition(variables, &known);
        let set_variables = variables.keys().cloned().collect();
        let overrides = overrides
            .add_source(Environment::default().source(Some(variables)))
            .build()?;
        // Twice: the file and the environment select the profile that they override.
        let without_profile = Self {
            config: defaults.clone().add_source(overrides.clone()).build()?,
            file: set_in_file,
            set_variables,
            handlers,
            unknown_variables,
            file_warning,
            #[cfg(feature = "postgres")]
            postgres_variables,
        };
        // A profile replaces defaults, so the file and the environment override it.
        let profile = File::from_str(without_profile.profile()?, FileFormat::Toml);
        Ok(Self {
            config: defaults.add_source(profile).add_source(overrides).build()?,
            ..without_profile
        })
    }

    /// The TOML of the profile that `callback_profile` selects.
    fn profile(&self) -> Result<&'static str, SettingError> {
        let accepted = "default or production";
        self.parse("callback_profile", accepted, |word| match word {
            "default" => Some(""),
            "production" => Some(PRODUCTION),
            _ => None,
        })
    }

    pub(super) fn file_warning(&self) -> Option<&Warning> {
        self.file_warning.as_ref()
    }

    pub(super) fn unknown_variables(&self) -> &[String] {
        &self.unknown_variables
    }

    /// What the environment says of a password of `PostgreSQL`'s.
    #[cfg(feature = "postgres")]
    pub(super) fn postgres_variables(&self) -> &postgres_url::Variables {
        &self.postgres_variables
    }

    /// The tables of handlers.
    pub(super) fn handlers(&self) -> &Tables {
        &self.handlers
    }

    /// Whether there is a settings file.
    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// The text of the setting `name`, in upper case, as it was given.
    pub(super) fn value(&self, name: &str) -> Result<String, SettingError> {
        self.raw(&name.to_ascii_lowercase())
    }

    /// The names, in upper case and sorted, of the settings whose text is another in `other`. A
    /// handler's table is one name, `HANDLERS__NAME`.
    pub(super) fn differing_from(&self, other: &Self) -> Result<Vec<String>, SettingError> {
        let mut names = self.handlers.differing_from(&other.handlers);
        for key in keys(&self.config)? {
            if key != tables::ROOT && self.raw(&key)? != other.raw(&key)? {
                names.push(key.to_ascii_uppercase());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Those of the settings `names`, and the tables of handlers, that the file sets, and the
    /// environment to another text.
    pub(super) fn overridden(&self, names: &[&str]) -> Result<Vec<String>, SettingError> {
        let Some(file) = &self.file else {
            return Ok(Vec::new());
        };
        let mut overridden = self.handlers.overridden();
        for name in names.iter().copied().map(str::to_owned) {
            let in_file = file.get_string(&name.to_ascii_lowercase()).ok();
            let used = self.value(&name)?;
            if self.set_variables.contains(&name) && in_file.is_some_and(|text| text.trim() != used)
            {
                overridden.push(name);
            }
        }
        Ok(overridden)
    }

    /// The setting's text without surrounding white space.
    pub(super) fn text(&self, key: &str) -> Result<String, SettingError> {
        plain(key, self.raw(key)?)
    }

    /// The setting's text without surrounding white space, unchecked: it may be a secret, and have
    /// line breaks. The key `handlers.NAME.KEY` is that of a handler's table.
    pub(super) fn raw(&self, key: &str) -> Result<String, SettingError> {
        if let Some(text) = self.handlers.text(key) {
            return Ok(text.to_owned());
        }
        Ok(self.config.get_string(key)?.trim().to_owned())
    }

    /// The error for a setting `lesser` whose value is above that of the setting `greater`. It
    /// blames the one that was set: `greater`, unless that is at its default.
    pub(super) fn exceeds(
        &self,
        lesser: &str,
        greater: &str,
    ) -> Result<SettingError, SettingError> {
        let defaults = File::from_str(DEFAULTS, FileFormat::Toml);
        let defaults = Config::builder().add_source(defaults).build()?;
        let (lesser, greater) = ((lesser, self.text(lesser)?), (greater, self.text(greater)?));
        let is_default = |(key, value): &(&str, String)| {
            defaults.get_string(key).is_ok_and(|text| text == *value)
        };
        let name = |(key, _): &(&str, String)| key.to_ascii_uppercase();
        let described = |setting: &(&str, String)| {
            let by = if is_default(setting) {
                " by default"
            } else {
                ""
            };
            format!("{}, which is {}{by}", name(setting), setting.1)
        };
        let (raise, lower) = (name(&greater), name(&lesser));
        Ok(if is_default(&greater) {
            let most = described(&greater);
            let problem = format!("expected at most {most}; lower {lower}, or raise {raise}");
            invalid(lesser.0, lesser.1, problem)
        } else {
            let least = described(&lesser);
            let problem = format!("expected at least {least}; raise {raise}, or lower {lower}");
            invalid(greater.0, greater.1, problem)
        })
    }

    /// Parses a setting. `accepted` completes the error's `expected ...`.
    pub(super) fn parse<T>(
        &self,
        key: &str,
        accepted: impl Display,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SettingError> {
        let value = self.text(key)?;
        parse(&value).ok_or_else(|| invalid(key, value, format!("expected {accepted}")))
    }

    /// Parses a setting with a parser whose error says what is accepted.
    pub(super) fn try_parse<T, E: Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, SettingError> {
        parsed(key, self.text(key)?, parse)
    }

    /// As [`Layers::try_parse`], for a list: line breaks separate entries as spaces do.
    pub(super) fn try_parse_list<T, E: Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, SettingError> {
        let text = self.raw(key)?.replace(['\t', '\r', '\n'], " ");
        parsed(key, plain(key, text)?, parse)
    }

    /// As [`Layers::try_parse`], for a secret or a list of them: no error shows its value, and
    /// `parse` must not quote it. The value may contain line breaks.
    pub(super) fn try_parse_secret<T, E: Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, SettingError> {
        parse(&self.raw(key)?).map_err(|error| invalid(key, HIDDEN.into(), error.to_string()))
    }
}

/// What the settings file sets. It may name known settings only.
fn named_settings(
    path: &Path,
    file: &SettingsFile,
    known: &[String],
) -> Result<Config, SettingError> {
    let source = File::from_str(&file.text, FileFormat::Toml);
    let set = Config::builder().add_source(source).build();
    let set = set.map_err(|error| SettingError::in_file(path, &error))?;
    // An error, unlike in the environment: the file is ours alone.
    let named = keys(&set)?;
    let tables_aside = |name: &&String| *name != tables::ROOT;
    let mut plain = named.iter().filter(tables_aside);
    if let Some(name) = plain.clone().find(|name| !known.contains(name)) {
        return Err(SettingError::Unknown {
            place: path.display().to_string(),
            name: name.clone(),
            known: known
                .iter()
                .cloned()
                .chain(["handlers.NAME".into()])
                .collect(),
        });
    }
    match plain.find(|name| set.get_string(name).is_err()) {
        None => Ok(set),
        Some(name) => Err(SettingError::Type {
            place: path.display().to_string(),
            name: name.clone(),
        }),
    }
}

/// Separates the variables that are settings from the names of those that look like settings.
fn partition(
    variables: impl IntoIterator<Item = (String, String)>,
    known: &[String],
) -> (HashMap<String, String>, Vec<String>) {
    // Only upper case is accepted: `Environment` ignores case, so that of `log` and `LOG` an
    // arbitrary one would win.
    let (settings, others): (HashMap<_, _>, HashMap<_, _>) =
        variables.into_iter().partition(|(name, _)| {
            known.contains(&name.to_ascii_lowercase()) && *name == name.to_ascii_uppercase()
        });
    // Only a warning: the environment is shared with other programs, whose names may resemble ours.
    let unknown = others
        .into_keys()
        .filter(|name| !name.starts_with(tables::PREFIX))
        .filter(|name| looks_like_one_of(known, name) || looks_like_a_handlers(name))
        .collect();
    (settings, unknown)
}

fn looks_like_one_of(known: &[String], name: &str) -> bool {
    if name.len() < MIN_COMPARED_LENGTH || name == FILE_VARIABLE {
        return false;
    }
    let file_variable = FILE_VARIABLE.to_ascii_lowercase();
    let name = name.to_ascii_lowercase();
    known
        .iter()
        .chain([&file_variable])
        .any(|known| strsim::osa_distance(known, &name) <= MAX_EDIT_DISTANCE)
}

/// `HANDLERS_PDF_URL`, `HANDLER__PDF__URL` or `handlers__pdf__url`.
fn looks_like_a_handlers(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("handlers_") || name.starts_with("handler__")
}

pub(super) const PLAIN: &str = "expected UTF-8 without control characters";

pub(super) fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER)
}

fn plain(key: &str, text: String) -> Result<String, SettingError> {
    if is_plain(&text) {
        return Ok(text);
    }
    // Escaped: a control character could break the error into lines.
    Err(invalid(key, text.escape_debug().to_string(), PLAIN))
}

fn parsed<T, E: Display>(
    key: &str,
    value: String,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, SettingError> {
    parse(&value).map_err(|error| invalid(key, value, error.to_string()))
}

pub(super) fn invalid(key: &str, value: String, problem: impl Into<String>) -> SettingError {
    SettingError::Value {
        name: tables::setting_name(key),
        value,
        problem: problem.into(),
    }
}

/// The top-level names of a source, sorted.
fn keys(source: &Config) -> Result<Vec<String>, SettingError> {
    let table: HashMap<String, config::Value> = source.clone().try_deserialize()?;
    let mut keys: Vec<_> = table.into_keys().collect();
    keys.sort();
    Ok(keys)
}

#[cfg(test)]
mod tests;
