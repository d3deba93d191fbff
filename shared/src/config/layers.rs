//! Where settings come from, and how one is read from its text.

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    fmt::Display,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use config::{Config, Environment, File, FileFormat};
use thiserror::Error;

pub(super) const DEFAULTS: &str = include_str!("default.toml");
const PRODUCTION: &str = include_str!("production.toml");
const FILE_VARIABLE: &str = "STORM_CONFIG";

/// A variable so near to a setting's name is probably a misspelled one, if it is not too short to tell.
const MISSPELLED_BY: usize = 2;
const LONG_ENOUGH: usize = 6;

/// A setting that can't be used. One line: the setting, its value, what is accepted.
#[derive(Debug, Error)]
pub enum SettingError {
    /// The value can't be read, or is out of bounds.
    #[error("{name}={value}: {problem}")]
    Value {
        /// The setting, in upper case.
        name: String,
        /// As it was given; `(hidden)` where it may hold a secret.
        value: String,
        /// What is wrong with it, or what is expected.
        problem: String,
    },
    /// A setting of that name does not exist.
    #[error("{}: `{name}` is no setting; the settings are: {}", file.display(), known.join(", "))]
    Unknown {
        /// The file that names it.
        file: PathBuf,
        /// As it was given.
        name: String,
        /// Every setting there is.
        known: Vec<String>,
    },
    /// The file can't be read, or is no TOML.
    #[error("{FILE_VARIABLE}: {0}")]
    File(String),
}

impl From<config::ConfigError> for SettingError {
    /// On one line, and without the file's own lines, which a parser quotes: they may hold secrets.
    fn from(error: config::ConfigError) -> Self {
        let error = error.to_string();
        let is_quote = |line: &&str| {
            let behind_number = line
                .trim_start()
                .trim_start_matches(|c: char| c.is_ascii_digit());
            behind_number.trim_start().starts_with('|')
        };
        let told = error.lines().filter(|line| !is_quote(line));
        let words: Vec<_> = told.flat_map(str::split_whitespace).collect();
        Self::File(words.join(" "))
    }
}

/// What an error shows of a value that may hold a secret.
const HIDDEN: &str = "(hidden)";

/// The layers of settings, merged.
pub(super) struct Layers {
    config: Config,
    unknown_variables: Vec<String>,
}

impl Layers {
    /// The defaults, the file that `STORM_CONFIG` names, the process' environment.
    pub(super) fn of_process() -> Result<Self, SettingError> {
        let file = env::var_os(FILE_VARIABLE)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        // What is no UTF-8 gets a character that no setting may have.
        let lossy = |text: OsString| text.to_string_lossy().into_owned();
        let variables = env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
        Self::new(file.as_deref(), variables)
    }

    pub(super) fn new(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingError> {
        let defaults = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        let known = keys(&defaults.build_cloned()?)?;

        let mut set = Config::builder();
        if let Some(file) = file {
            let overrides = File::from(file).format(FileFormat::Toml);
            let named = keys(&Config::builder().add_source(overrides.clone()).build()?)?;
            if let Some(name) = named.into_iter().find(|name| !known.contains(name)) {
                return Err(SettingError::Unknown {
                    file: file.to_owned(),
                    name,
                    known,
                });
            }
            set = set.add_source(overrides);
        }

        let (ours, others): (HashMap<_, _>, HashMap<_, _>) = variables
            .into_iter()
            // One in any other case could stand beside the right one, and only one of them would count.
            .partition(|(name, _)| {
                known.contains(&name.to_ascii_lowercase()) && *name == name.to_ascii_uppercase()
            });
        let unknown_variables = others
            .into_keys()
            .filter(|name| looks_like_one_of(&known, name))
            .collect();
        let set = set
            .add_source(Environment::default().source(Some(ours)))
            .build()?;
        let chosen = Self {
            config: defaults.clone().add_source(set.clone()).build()?,
            unknown_variables,
        };
        // A profile is other defaults: what is set goes before it.
        let profile = chosen.parse(
            "callback_profile",
            "default or production",
            |word| match word {
                "default" => Some(""),
                "production" => Some(PRODUCTION),
                _ => None,
            },
        )?;
        let profile = File::from_str(profile, FileFormat::Toml);
        Ok(Self {
            config: defaults.add_source(profile).add_source(set).build()?,
            ..chosen
        })
    }

    pub(super) fn unknown_variables(&self) -> &[String] {
        &self.unknown_variables
    }

    /// The setting as text, without the spaces around it.
    pub(super) fn text(&self, key: &str) -> Result<String, SettingError> {
        let text = self.raw(key)?;
        if is_plain(&text) {
            Ok(text)
        } else {
            Err(refused(key, text.escape_debug().to_string(), PLAIN))
        }
    }

    fn raw(&self, key: &str) -> Result<String, SettingError> {
        Ok(self.config.get_string(key)?.trim().to_owned())
    }

    /// The setting as `parse` reads it; `accepted` says what that takes.
    pub(super) fn parse<T>(
        &self,
        key: &str,
        accepted: impl Display,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SettingError> {
        let value = self.text(key)?;
        parse(&value).ok_or_else(|| refused(key, value, format!("expected {accepted}")))
    }

    /// The same for a setting that may hold a secret, which no error repeats.
    pub(super) fn parse_secret<T>(
        &self,
        key: &str,
        accepted: impl Display,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SettingError> {
        let value = self.raw(key)?;
        if !is_plain(&value) {
            return Err(refused(key, HIDDEN.into(), PLAIN));
        }
        parse(&value).ok_or_else(|| refused(key, HIDDEN.into(), format!("expected {accepted}")))
    }

    /// The same, with an error of `parse` that says what is accepted, and repeats no secret either.
    /// Between secrets there may be line ends too.
    pub(super) fn try_parse_secret<T, E: Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, SettingError> {
        parse(&self.raw(key)?).map_err(|error| refused(key, HIDDEN.into(), error.to_string()))
    }

    /// The setting as `parse` reads it, whose error says what is accepted.
    pub(super) fn try_parse<T, E: Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, SettingError> {
        let value = self.text(key)?;
        parse(&value).map_err(|error| refused(key, value, error.to_string()))
    }

    pub(super) fn number<T: FromStr + PartialOrd + Display>(
        &self,
        key: &str,
        bounds: RangeInclusive<T>,
    ) -> Result<T, SettingError> {
        let accepted = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        self.parse(key, accepted, |text| {
            text.parse().ok().filter(|n| bounds.contains(n))
        })
    }

    pub(super) fn address(&self, key: &str) -> Result<SocketAddr, SettingError> {
        self.parse(key, "address:port, such as 127.0.0.1:8000", |text| {
            text.parse().ok()
        })
    }

    /// An address, or none in an empty text.
    pub(super) fn optional_address(&self, key: &str) -> Result<Option<SocketAddr>, SettingError> {
        self.parse(
            key,
            "nothing, or address:port, such as 127.0.0.1:8000",
            |text| {
                if text.is_empty() {
                    return Some(None);
                }
                text.parse().ok().map(Some)
            },
        )
    }

    pub(super) fn duration(&self, key: &str) -> Result<Duration, SettingError> {
        self.parse(
            key,
            "a duration above zero, up to 30d, such as 250ms, 10s or 5m",
            in_bounds,
        )
    }

    /// A duration that is of no use below `shortest`.
    pub(super) fn duration_from(
        &self,
        key: &str,
        shortest: Duration,
    ) -> Result<Duration, SettingError> {
        let accepted = format!(
            "a duration from {} to 30d, such as 250ms, 10s or 5m",
            humantime::format_duration(shortest)
        );
        self.parse(key, accepted, |text| {
            in_bounds(text).filter(|duration| *duration >= shortest)
        })
    }

    /// Durations between commas; none at all in an empty text.
    pub(super) fn durations(&self, key: &str) -> Result<Vec<Duration>, SettingError> {
        self.parse(
            key,
            "up to 100 durations between commas, each above zero and up to 30d, such as 2s,4s,8s",
            |text| {
                if text.is_empty() {
                    return Some(Vec::new());
                }
                let durations: Vec<_> = text.split(',').map(in_bounds).collect::<Option<_>>()?;
                (durations.len() <= 100).then_some(durations)
            },
        )
    }
}

/// No longer than anybody could mean: sums with the time of day must not overflow.
const LONGEST: Duration = Duration::from_hours(30 * 24);

fn in_bounds(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim())
        .ok()
        .filter(|duration| !duration.is_zero() && *duration <= LONGEST)
}

const PLAIN: &str = "expected UTF-8 without control characters";

fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER)
}

fn looks_like_one_of(known: &[String], name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.len() >= LONG_ENOUGH
        && known
            .iter()
            .any(|known| strsim::osa_distance(known, &name) <= MISSPELLED_BY)
}

fn refused(key: &str, value: String, problem: impl Into<String>) -> SettingError {
    SettingError::Value {
        name: key.to_ascii_uppercase(),
        value,
        problem: problem.into(),
    }
}

/// The names at the top of a layer, sorted.
fn keys(layer: &Config) -> Result<Vec<String>, SettingError> {
    let table: HashMap<String, config::Value> = layer.clone().try_deserialize()?;
    let mut keys: Vec<_> = table.into_keys().collect();
    keys.sort();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, path::Path};

    use super::Layers;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn variable(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        let file = file("sync_threads = 2\nsync_queue = 3");
        let layers = Layers::new(Some(file.path()), [variable("SYNC_QUEUE", "5")]).unwrap();
        assert_eq!(layers.number("sync_threads", 1..=9).unwrap(), 2);
        assert_eq!(layers.number("sync_queue", 1..=9).unwrap(), 5);
        assert_eq!(layers.text("sync_timeout").unwrap(), "5s");
    }

    #[test]
    fn an_unknown_setting_in_the_file_is_refused_by_name() {
        let file = file("sync_treads = 2");
        let error = Layers::new(Some(file.path()), [])
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("`sync_treads` is no setting") && error.contains("sync_threads"));
    }

    #[test]
    fn an_error_in_the_file_is_told_without_its_lines_for_they_may_hold_secrets() {
        for (text, told) in [
            (
                "callback_signing_secrets = whsec_c2VjcmV0",
                "line 1, column 28",
            ),
            (
                "log = 'info'\ncallback_signing_secrets = \"whsec_c2VjcmV0",
                "line 2",
            ),
            (
                "callback_signing_secrets = '''\n\nwhsec_c2VjcmV0\n''' x",
                "line 4",
            ),
            (
                "callback_signing_secrets = ['whsec_c2VjcmV0']",
                "callback_signing_secrets",
            ),
        ] {
            let file = file(text);
            let read = |layers: Layers| {
                layers.try_parse_secret("callback_signing_secrets", |_| Ok::<_, String>(()))
            };
            let error = Layers::new(Some(file.path()), [])
                .and_then(read)
                .unwrap_err();
            let shown = error.to_string();
            assert!(shown.contains(told) && !shown.contains('\n'), "{shown}");
            assert!(
                !format!("{shown} {error:?}").contains("c2VjcmV0"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_missing_file_is_an_error_that_names_it() {
        let error = Layers::new(Some(Path::new("/nowhere.toml")), [])
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("STORM_CONFIG") && error.contains("/nowhere.toml"),
            "{error}"
        );
    }

    #[test]
    fn a_setting_in_lower_case_is_none_and_is_noticed() {
        let both = [variable("sync_queue", "3"), variable("SYNC_QUEUE", "5")];
        let layers = Layers::new(None, both).unwrap();
        assert_eq!(layers.number("sync_queue", 1..=9).unwrap(), 5);
        assert_eq!(layers.unknown_variables(), ["sync_queue"]);
    }

    #[test]
    fn a_misspelled_variable_is_noticed_and_a_strangers_is_not() {
        let strangers = ["PATH", "LANG", "HTTP_PROXY", "DB_HOST", "API_KEY"];
        let misspelled = [variable("CALLBACK_ALOW", "x")];
        let variables = misspelled
            .into_iter()
            .chain(strangers.map(|name| variable(name, "x")));
        assert_eq!(
            Layers::new(None, variables).unwrap().unknown_variables(),
            ["CALLBACK_ALOW"]
        );
    }
}
