//! A result as a JSON document.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use jiff::{Timestamp, Unit};
use serde::Serialize;

use super::{
    or_print,
    place::{Place, Temporary, beginning},
};
use crate::machine::Machine;

/// Enough for the first field of a document.
const BEGINNING: u64 = 64;

/// The commands that write a document.
const COMMANDS: [&str; 3] = ["demo", "storm", "chaos"];

#[derive(Serialize)]
struct Document<'a, T> {
    command: &'a str,
    passed: bool,
    /// When it was made, to the second.
    written_at: Timestamp,
    machine: Machine,
    #[serde(flatten)]
    result: &'a T,
}

/// A file that receives a JSON document. Until then an earlier result stays as it is.
#[derive(Debug)]
pub struct JsonFile {
    path: PathBuf,
    place: Place,
}

impl JsonFile {
    /// Checks that the document can be written to `path`.
    ///
    /// # Errors
    /// It can't, or the file holds something else than a result of this program. The error names
    /// the option `--json`.
    pub fn prepare(path: &Path) -> Result<Self> {
        let place = Place::of(path).and_then(|place| {
            if let Place::Taken(path) = &place {
                ensure!(
                    is_result(&beginning(path, BEGINNING)?),
                    "the file exists and is no result of storm-loadgen; give another name"
                );
                Temporary::beside(path)?.try_room()?;
            }
            Ok(place)
        });
        Ok(Self {
            place: place.with_context(|| format!("--json {}", path.display()))?,
            path: path.to_owned(),
        })
    }

    /// Writes the document. If that fails, prints it.
    ///
    /// # Errors
    /// The file can't be written. An earlier result is still there.
    pub fn write(&self, command: &str, passed: bool, result: &impl Serialize) -> Result<()> {
        let text = document(command, passed, result)?;
        let written = self.place.write(&text);
        let written = written.with_context(|| format!("can't write {}", self.path.display()));
        or_print(written, &text)
    }
}

/// Writes a document to `file`, and replaces an earlier one. If that fails, prints it.
///
/// # Errors
/// The file can't be written.
pub fn write_json(file: &Path, command: &str, passed: bool, result: &impl Serialize) -> Result<()> {
    let path = file.to_owned();
    let place = Place::Free(path.clone());
    JsonFile { path, place }.write(command, passed, result)
}

/// The JSON document of a result. Ends with a newline.
///
/// # Errors
/// The result can't be serialised.
pub fn document(command: &str, passed: bool, result: &impl Serialize) -> Result<String> {
    let now = Timestamp::now();
    let json = serde_json::to_string_pretty(&Document {
        command,
        passed,
        written_at: now.round(Unit::Second).unwrap_or(now),
        machine: Machine::read(),
        result,
    })?;
    Ok(json + "\n")
}

/// Whether a file that begins like this is empty or a document of this program.
fn is_result(beginning: &[u8]) -> bool {
    let text: String = String::from_utf8_lossy(beginning)
        .split_whitespace()
        .collect();
    let begins_with = |command| text.starts_with(&format!("{{\"command\":\"{command}\""));
    text.is_empty() || COMMANDS.into_iter().any(begins_with)
}

#[cfg(test)]
mod tests {
    use super::is_result;

    #[test]
    fn only_an_empty_file_and_a_result_may_be_replaced() {
        for (text, expected) in [
            ("", true),
            ("\n", true),
            ("{\n  \"command\": \"demo\",\n  \"passed\": tr", true),
            ("{\"command\":\"storm\",", true),
            ("{\"command\": \"other\",", false),
            ("{\"passed\": true}", false),
            ("[package]\n", false),
        ] {
            assert_eq!(is_result(text.as_bytes()), expected, "{text}");
        }
    }
}
