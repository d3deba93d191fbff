//! A history that was kept: JSON, one record a line.

use std::io::BufRead;

use anyhow::{Context as _, Result};

use super::{Verdict, check};
use crate::chaos::history::Record;

/// A kept history, and the judgement of it.
#[derive(Debug)]
pub struct Judged {
    /// What was read.
    pub records: Vec<Record>,
    /// What the rules say.
    pub verdict: Verdict,
}

/// Judges a kept history anew, by the limits that it carries.
///
/// # Errors
/// It can't be read, or holds no [`Record::Limits`].
pub fn judge(history: impl BufRead) -> Result<Judged> {
    let records = read(history)?;
    let limits = records.iter().find_map(|record| match record {
        Record::Limits(limits) => Some(limits),
        _ => None,
    });
    let limits = limits.context("the history doesn't say what its run was set to: no `limits`")?;
    let verdict = check(&records, limits);
    Ok(Judged { records, verdict })
}

/// Reads a kept history.
///
/// # Errors
/// A line can't be read, or is no record; the message has its number.
pub fn read(history: impl BufRead) -> Result<Vec<Record>> {
    let lines = history.lines().zip(1..);
    lines
        .map(|(line, number)| {
            let record = line
                .map_err(anyhow::Error::from)
                .and_then(|line| serde_json::from_str(&line).map_err(anyhow::Error::from));
            record.with_context(|| format!("line {number} of the history is no record"))
        })
        .collect()
}
