//! Results as text for people, and as JSON and CSV for programs.

pub mod chaos;
pub mod demo;
pub mod export;
pub mod storm;

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::{
    answers::{AnswerSummary, FailureCounts},
    latency::{Percentiles, millis},
};

/// A duration with a unit that fits its size.
fn human(duration: Duration) -> String {
    match millis(duration) {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}

/// The cell of a percentile; a dash if there are no percentiles.
fn time_cell(percentiles: Option<Percentiles>, of: impl Fn(Percentiles) -> Duration) -> Cell {
    number_cell(percentiles.map_or_else(|| "-".to_owned(), |percentiles| human(of(percentiles))))
}

fn number_cell(value: impl ToString) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

/// The kinds of failure that occurred, one per line.
fn kinds(failed: &FailureCounts) -> String {
    let lines: Vec<_> = failed
        .by_kind()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    if lines.is_empty() {
        "0".to_owned()
    } else {
        lines.join("\n")
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// The first failure of a set of answers, as a line of text.
fn first_failure(what: &str, answers: &AnswerSummary) -> Option<String> {
    let first = answers.first_failure.as_ref()?;
    Some(format!("first failure of {what}: {first}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::human;

    #[test]
    fn a_duration_has_a_unit_that_fits_it() {
        for (micros, text) in [
            (0, "0.00 ms"),
            (1_234, "1.23 ms"),
            (12_345, "12 ms"),
            (999_400, "999 ms"),
            (4_931_000, "4.93 s"),
        ] {
            assert_eq!(human(Duration::from_micros(micros)), text);
        }
    }
}
