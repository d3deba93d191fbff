//! Result files: a JSON document with the whole result, and a CSV line for each storm of a series.
//!
//! Both are tried before the run, so that a wrong path costs no run, and both leave a file alone
//! that is not theirs. If a file can't be written at the end, its text goes to standard output.
//!
//! * [`JsonFile`]: replaced as a whole, by a rename.
//! * [`CsvFile`]: grows by one line.
//! * `place`: what both check before the run, and how both write to a stream.

mod csv;
mod json;
mod place;

use std::path::Path;

use anyhow::{Result, ensure};

pub use self::{
    csv::CsvFile,
    json::{JsonFile, write_json},
};
use crate::output;

/// Refuses one file for both results.
///
/// # Errors
/// Both options name the same file.
pub fn check_distinct(json: Option<&Path>, csv: Option<&Path>) -> Result<()> {
    if let Some((json, csv)) = json.zip(csv) {
        let same = place::absolute(json)? == place::absolute(csv)?;
        ensure!(
            !same,
            "--json and --csv name the same file, {}; give each its own",
            json.display()
        );
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
