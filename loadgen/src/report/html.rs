//! A result, or several storms, as one HTML file with plots. It loads nothing, so that it can be
//! mailed, kept and opened without a network.
//!
//! * [`page`]: the document. [`is_report`]: whether a file is one.
//! * `input`: the results, as JSON has them.
//! * `demo`, `storms`, `chaos`: what each shows.
//! * `series`, `rates`: plots over time, and over the offered rate. `promises`, `tables`: the rest
//!   that they share.
//! * `model`, `write`: promises, plots and tables, and their markup.

mod chaos;
mod demo;
mod input;
mod model;
mod promises;
mod rates;
mod series;
mod storms;
mod tables;
mod write;

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use self::{
    input::{Document, Outcome},
    model::Page,
};
use crate::machine::Machine;

/// How every report begins. The version of the program follows.
const BEGINNING: &str = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
                         <meta name=\"generator\" content=\"storm-loadgen ";

/// Enough of a file to know a report, in bytes.
pub const BEGINNING_BYTES: u64 = 256;

/// The report of results in JSON, each as `--json` writes it: one, or several storms.
///
/// # Errors
/// A text is no result, or they are not all storms.
pub fn page(results: &[String]) -> Result<String> {
    let documents: Result<Vec<_>> = results.iter().map(|text| input::parse(text)).collect();
    of(documents?)
}

/// The same, of files.
///
/// # Errors
/// A file can't be read or is no result, or they are not all storms.
pub fn page_of_files<P: AsRef<Path>>(files: &[P]) -> Result<String> {
    let documents: Result<Vec<_>> = files.iter().map(|it| input::read(it.as_ref())).collect();
    of(documents?)
}

/// Whether a file that begins like this is empty or a report of this program.
pub fn is_report(beginning: &[u8]) -> bool {
    beginning.trim_ascii().is_empty() || beginning.starts_with(BEGINNING.as_bytes())
}

fn of(documents: Vec<Document>) -> Result<String> {
    let last = documents.last().context("a report needs a result")?;
    let machine = machine(last);
    let is_one = documents.len() == 1;
    let thresholds = documents.iter().flat_map(|document| {
        let run = match &document.result {
            Outcome::Storm(storm) if !is_one => Some(storms::name(storm)),
            _ => None,
        };
        let of_run = move |it| promises::of_threshold(it, run.as_deref());
        document.thresholds.iter().map(of_run)
    });
    let thresholds: Vec<_> = thresholds.collect();
    let mut page = content(documents)?;
    page.machine = machine;
    page.add_thresholds(thresholds);
    Ok(write::document(&page))
}

fn content(mut documents: Vec<Document>) -> Result<Page> {
    if documents.len() == 1
        && let Some(document) = documents.pop()
    {
        return Ok(match document.result {
            Outcome::Demo(demo) => demo::page(&demo),
            Outcome::Storm(storm) => storms::page(vec![*storm]),
            Outcome::Chaos(chaos) => chaos::page(&chaos, document.passed),
        });
    }
    let mut storms = Vec::new();
    for document in documents {
        match document.result {
            Outcome::Storm(storm) => storms.push(*storm),
            Outcome::Demo(_) | Outcome::Chaos(_) => {
                bail!("only storms can share a report: give a demo or a chaos run alone")
            }
        }
    }
    ensure!(!storms.is_empty(), "a report needs a result");
    Ok(storms::page(storms))
}

fn machine(document: &Document) -> Vec<(String, String)> {
    let unknown = || "unknown".to_owned();
    let Machine {
        cores,
        cpu,
        architecture,
        memory_bytes,
        kernel,
        system,
        program,
    } = document.machine.clone().unwrap_or_default();
    let memory = memory_bytes.map(|bytes| {
        let mebibytes = bytes / (1 << 20);
        let tenths = (mebibytes * 10 + 512) / 1024;
        format!("{}.{} GiB", tenths / 10, tenths % 10)
    });
    let known = |text: String| if text.is_empty() { unknown() } else { text };
    [
        ("CPU", cpu.unwrap_or_else(unknown)),
        ("cores", cores.map_or_else(unknown, |it| it.to_string())),
        ("architecture", known(architecture)),
        ("memory", memory.unwrap_or_else(unknown)),
        ("system", system.unwrap_or_else(unknown)),
        ("kernel", kernel.unwrap_or_else(unknown)),
        ("measured with", known(program)),
        ("at", document.written_at.clone().unwrap_or_else(unknown)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// A time of so many milliseconds, with a unit that fits its size.
fn time(ms: f64) -> String {
    super::human(std::time::Duration::from_secs_f64((ms / 1000.0).max(0.0)))
}

/// A value as `text` shows it. Results of earlier versions lack some.
fn known<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "unknown".to_owned(), text)
}

#[cfg(test)]
mod tests;
