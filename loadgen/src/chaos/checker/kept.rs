//! Reads and checks a stored history: JSON, one record per line.

use std::io::BufRead;

use anyhow::{Context as _, Result};

use super::{Verdict, check};
use crate::chaos::history::Record;

/// A stored history and its verdict.
#[derive(Debug)]
pub struct Judged {
    /// The records of the file.
    pub records: Vec<Record>,
    /// The verdict.
    pub verdict: Verdict,
}

/// Checks a stored history with the limits that it contains.
///
/// # Errors
/// The history can't be read, or contains no [`Record::Limits`].
pub fn judge(history: impl BufRead) -> Result<Judged> {
    let records = read(history)?;
    // The limits of the recorded run. The current ones may differ, and would judge it wrongly.
    let limits = records.iter().find_map(|record| match record {
        Record::Limits(limits) => Some(limits),
        _ => None,
    });
    let limits = limits.context("the history contains no `limits` record")?;
    let verdict = check(&records, limits);
    Ok(Judged { records, verdict })
}

/// Reads a stored history.
///
/// # Errors
/// A line can't be read or is not a valid record. The message contains the line number.
pub fn read(history: impl BufRead) -> Result<Vec<Record>> {
    let lines = history.lines().zip(1..);
    lines
        .map(|(line, number)| {
            let record = line
                .map_err(anyhow::Error::from)
                .and_then(|line| serde_json::from_str(&line).map_err(anyhow::Error::from));
            record.with_context(|| format!("line {number} of the history is not a valid record"))
        })
        .collect()
}
