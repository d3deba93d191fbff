//! The tables of handlers as texts: `[handlers.NAME]` in the settings file and the variables
//! `HANDLERS__NAME__…`, merged.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use config::{Config, Value, ValueKind};

use super::{
    super::error::SettingError,
    sources::{Source, hidden_text},
};
use crate::models::HandlerName;

/// The table of all tables in the settings file.
pub(in crate::config) const ROOT: &str = "handlers";

/// What each variable of a handler begins with.
pub(in crate::config) const PREFIX: &str = "HANDLERS__";

/// The keys of a table whose value is a text, and their defaults.
pub(super) const DEFAULTS: [(&str, &str); 8] = [
    ("kind", "http"),
    ("url", ""),
    (SECRET, ""),
    ("concurrency", "100"),
    ("timeout", "30s"),
    ("retry_delays", "1s,5s,25s"),
    ("max_payload", "256KiB"),
    ("max_result", "1MiB"),
];

/// The key of the signing secrets.
const SECRET: &str = "secret";

/// The key of the table of fixed headers.
const HEADERS: &str = "headers";

/// The tables, merged. It holds secrets, so it has no `Debug`.
#[derive(Clone, Default)]
pub(in crate::config) struct Tables {
    by_name: BTreeMap<HandlerName, Table<String>>,
    /// The handlers of which the file and the environment set a key differently.
    overridden: BTreeSet<HandlerName>,
    /// The first key of the file that has a secret as its text, in upper case.
    secret_in_file: Option<String>,
}

/// The values of one table by key. A header's key is `headers.NAME`, in lower case.
type Table<T> = BTreeMap<String, T>;

/// The tables of one source.
type Sources = BTreeMap<HandlerName, Table<Source>>;

impl Tables {
    /// Merges the tables of the file with the variables, which override them, and reads the values
    /// that are in other files and variables.
    ///
    /// # Errors
    /// A name or key that does not exist, a value that is a table, or one that cannot be read.
    pub(in crate::config) fn read(
        file: Option<(&Path, &Config)>,
        variables: &HashMap<String, String>,
    ) -> Result<Self, SettingError> {
        let in_file = match file {
            Some((path, set)) => of_file(path, set)?,
            None => Sources::new(),
        };
        let secret_in_file = first_secret(&in_file);
        let (mut merged, mut overridden) = (in_file, BTreeSet::new());
        for (name, table) in of_variables(variables)? {
            let of_name = merged.entry(name.clone()).or_default();
            for (key, source) in table {
                let in_file = of_name.get(&key);
                if in_file.is_some_and(|in_file| *in_file != source) {
                    overridden.insert(name.clone());
                }
                of_name.insert(key, source);
            }
        }
        let mut by_name = BTreeMap::new();
        for (name, table) in merged {
            let mut texts = Table::new();
            for (key, source) in table {
                let text = source.read(&full_key(&name, &key), variables)?;
                texts.insert(key, text);
            }
            by_name.insert(name, texts);
        }
        Ok(Self {
            by_name,
            overridden,
            secret_in_file,
        })
    }

    /// The names of all handlers that have a table.
    pub(in crate::config) fn names(&self) -> impl ExactSizeIterator<Item = &HandlerName> {
        self.by_name.keys()
    }

    /// The text of `handlers.NAME.KEY`, or its default. `None` if there is no such key.
    pub(in crate::config) fn text(&self, key: &str) -> Option<&str> {
        let (name, key) = key.strip_prefix(ROOT)?.strip_prefix('.')?.split_once('.')?;
        let table = self.by_name.get(&name.parse::<HandlerName>().ok()?)?;
        let default = || DEFAULTS.iter().find(|(known, _)| *known == key);
        match table.get(key) {
            Some(text) => Some(text),
            None => default().map(|(_, text)| *text),
        }
    }

    /// The names of a handler's fixed headers.
    pub(super) fn headers(&self, name: &HandlerName) -> impl Iterator<Item = &str> {
        let keys = self.by_name.get(name).into_iter().flat_map(BTreeMap::keys);
        keys.filter_map(|key| key.strip_prefix(HEADERS)?.strip_prefix('.'))
    }

    /// The tables that are others in `other`, or are in one of the two only: `HANDLERS__NAME`.
    pub(in crate::config) fn differing_from(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.names().chain(other.names()).collect();
        let differing = names
            .into_iter()
            .filter(|name| self.by_name.get(name) != other.by_name.get(name));
        differing.map(variable).collect()
    }

    /// The tables with a key that the file sets, and the environment otherwise: `HANDLERS__NAME`.
    pub(in crate::config) fn overridden(&self) -> Vec<String> {
        self.overridden.iter().map(variable).collect()
    }

    pub(in crate::config) fn secret_in_file(&self) -> Option<&str> {
        self.secret_in_file.as_deref()
    }
}

/// The key `handlers.NAME.KEY`, as [`Tables::text`] takes it.
pub(in crate::config) fn full_key(name: &HandlerName, key: &str) -> String {
    format!("{ROOT}.{name}.{key}")
}

/// The name of a setting by its key: in upper case, as a variable has it.
pub(in crate::config) fn setting_name(key: &str) -> String {
    let name = key.to_ascii_uppercase();
    name.replace('.', "__").replace('-', "_")
}

/// What the variables of a handler begin with.
fn variable(name: &HandlerName) -> String {
    setting_name(&format!("{ROOT}.{name}"))
}

fn keys() -> Vec<String> {
    let texts = DEFAULTS.iter().map(|(key, _)| (*key).to_owned());
    texts.chain([HEADERS.to_owned()]).collect()
}

fn is_text_key(key: &str) -> bool {
    DEFAULTS.iter().any(|(known, _)| *known == key)
}

fn of_file(path: &Path, set: &Config) -> Result<Sources, SettingError> {
    let mut root: HashMap<String, Value> = set.clone().try_deserialize()?;
    let Some(root) = root.remove(ROOT) else {
        return Ok(Sources::new());
    };
    let mut sources = Sources::new();
    for (name, table) in in_table(ROOT, root)? {
        let shown = format!("{ROOT}.{}", name.escape_debug());
        let name: HandlerName = name
            .parse()
            .map_err(|error| SettingError::no_value(&shown, format!("{error}")))?;
        let mut values = Table::new();
        for (key, value) in in_table(&shown, table)? {
            let full_key = full_key(&name, &key);
            match key.as_str() {
                HEADERS => add_headers(&mut values, &full_key, value)?,
                SECRET => drop(values.insert(key, hidden_text(&full_key, value)?)),
                known if is_text_key(known) => {
                    let text = Source::Text(text(&full_key, value)?);
                    values.insert(key, text);
                }
                _ => {
                    return Err(SettingError::Unknown {
                        place: path.display().to_string(),
                        name: full_key.escape_debug().to_string(),
                        known: keys(),
                    });
                }
            }
        }
        sources.insert(name, values);
    }
    Ok(sources)
}

fn add_headers(
    values: &mut Table<Source>,
    full_key: &str,
    headers: Value,
) -> Result<(), SettingError> {
    for (header, value) in in_table(full_key, headers)? {
        let header = header.escape_debug().to_string().to_ascii_lowercase();
        let full_key = format!("{full_key}.{header}");
        let source = hidden_text(&full_key, value)?;
        let earlier = values.insert(format!("{HEADERS}.{header}"), source);
        if earlier.is_some() {
            let problem = "it is there twice, in different cases; expected each header once";
            return Err(SettingError::no_value(setting_name(&full_key), problem));
        }
    }
    Ok(())
}

fn in_table(key: &str, value: Value) -> Result<BTreeMap<String, Value>, SettingError> {
    match value.kind {
        ValueKind::Table(table) => Ok(table.into_iter().collect()),
        _ => Err(SettingError::no_value(
            setting_name(key),
            format!("expected a table: [{key}]"),
        )),
    }
}

fn text(key: &str, value: Value) -> Result<String, SettingError> {
    match value.kind {
        ValueKind::Table(_) | ValueKind::Array(_) => Err(SettingError::no_value(
            setting_name(key),
            "expected a text or a number",
        )),
        _ => Ok(value.into_string()?),
    }
}

fn of_variables(variables: &HashMap<String, String>) -> Result<Sources, SettingError> {
    let mut sources = Sources::new();
    // In order, so that of several mistakes the same one is reported each time.
    let ours: BTreeMap<_, _> = variables
        .iter()
        .filter(|(variable, _)| variable.starts_with(PREFIX))
        .collect();
    for (variable, value) in ours {
        let (name, key, source) = parse_variable(variable, value)?;
        let full_key = full_key(&name, &key);
        if sources
            .entry(name)
            .or_default()
            .insert(key, source)
            .is_some()
        {
            return Err(SettingError::no_value(
                setting_name(&full_key),
                "several variables set it: it, …__FILE or …__ENV; expected one of them",
            ));
        }
    }
    Ok(sources)
}

fn parse_variable(
    variable: &str,
    value: &str,
) -> Result<(HandlerName, String, Source), SettingError> {
    let shown = variable.escape_debug().to_string();
    let refused = |problem: String| Err(SettingError::no_value(&shown, problem));
    if variable != variable.to_ascii_uppercase() {
        return refused("expected a name in upper case".to_owned());
    }
    let lower_case = variable[PREFIX.len()..].to_ascii_lowercase();
    // From the right: of three underscores, the first one belongs to the name before.
    let mut parts: Vec<_> = lower_case.rsplit("__").collect();
    parts.reverse();
    let value = value.to_owned();
    let (name, key, source) = match parts[..] {
        [name, key] if is_text_key(key) => (name, key.to_owned(), Source::Text(value)),
        [name, SECRET, "file"] => (name, SECRET.to_owned(), Source::File(value)),
        [name, SECRET, "env"] => (name, SECRET.to_owned(), Source::Variable(value)),
        [name, HEADERS, header] => (name, header_key(header), Source::Text(value)),
        [name, HEADERS, header, "file"] => (name, header_key(header), Source::File(value)),
        [name, HEADERS, header, "env"] => (name, header_key(header), Source::Variable(value)),
        [_] => return refused(format!("expected {PREFIX}NAME__URL, or another key")),
        [_, HEADERS] => {
            return refused(format!(
                "expected {shown}__X_API_KEY for the header x-api-key"
            ));
        }
        _ => {
            return Err(SettingError::Unknown {
                place: shown,
                name: format!("{ROOT}.{}", parts.join(".").escape_debug()),
                known: keys(),
            });
        }
    };
    match name.parse() {
        Ok(name) => Ok((name, key, source)),
        Err(error) => refused(format!("`{}` is no handler: {error}", name.escape_debug())),
    }
}

fn header_key(header: &str) -> String {
    format!("{HEADERS}.{}", header.replace('_', "-"))
}

/// The first secret that is in the file itself, in upper case.
fn first_secret(in_file: &Sources) -> Option<String> {
    let keys = in_file
        .iter()
        .flat_map(|(name, table)| table.iter().map(move |(key, source)| (name, key, source)));
    let mut secrets = keys.filter(|(_, key, source)| {
        let may_be_secret = *key == SECRET || key.starts_with(HEADERS);
        may_be_secret && source.is_text()
    });
    let (name, key, _) = secrets.next()?;
    Some(setting_name(&full_key(name, key)))
}
