//! Result files: a JSON document with the whole result, a CSV line for each of several storms, a
//! CSV of a run over time, and a report in HTML.
//!
//! All are tried before the run, so that a wrong path costs no run, and all leave a file alone that
//! is not theirs. If a JSON or CSV file can't be written at the end, its text goes to standard
//! output.
//!
//! * [`JsonFile`], [`SeriesFile`], [`HtmlFile`]: replaced as a whole, by a rename.
//! * [`CsvFile`]: grows by one line.
//! * `place`: what all check before the run, and how they write.

mod csv;
mod html;
mod json;
mod place;
mod series;

use std::path::Path;

use anyhow::{Context as _, Result, bail};

pub use self::{
    csv::CsvFile,
    html::HtmlFile,
    json::{JsonFile, document, write_json},
    series::SeriesFile,
};
use crate::output;

/// Refuses one file for two results. Each option is given with its file.
///
/// # Errors
/// Two options name the same file.
pub fn check_distinct(files: &[(&str, Option<&Path>)]) -> Result<()> {
    let mut earlier = Vec::new();
    for (option, file) in files {
        let Some(file) = file else { continue };
        let path = place::absolute(file);
        let path = path.with_context(|| format!("{option} {}", file.display()))?;
        if let Some((other, _)) = earlier.iter().find(|(_, it)| *it == path) {
            let file = file.display();
            bail!("{other} and {option} name the same file, {file}; give each its own");
        }
        earlier.push((option, path));
    }
    Ok(())
}

/// Returns `written`. If it is an error, prints the text that is not in the file.
fn or_print(written: Result<()>, text: &str) -> Result<()> {
    written.or_else(|error| {
        output::print_raw(text)?;
        Err(error.context("the text of this result file is on standard output instead"))
    })
}
