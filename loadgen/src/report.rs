//! Results as text and HTML for people, and as JSON and CSV for programs.

pub mod chaos;
pub mod demo;
pub mod export;
pub mod html;
pub mod storm;
mod thresholds;

use std::time::Duration;

use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle,
};
use jiff::SignedDuration;

use crate::{
    answers::{AnswerSummary, FailureCounts},
    latency::{Percentiles, millis},
    layout::one_line,
    ledger::JobSummary,
};

/// A line below the header and nothing else: each border would cost three columns.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A duration with a unit that fits its size, in at most 7 columns.
pub(crate) fn human(duration: Duration) -> String {
    // Each bound is where the rounded number would get one more digit.
    match millis(duration) {
        ms if ms < 9.995 => format!("{ms:.2} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms if ms < 99_995.0 => format!("{:.2} s", ms / 1000.0),
        ms => format!("{:.0} s", ms / 1000.0),
    }
}

/// How far jobs ended from the `expected_at` of their `202`, negative if before it; none if no job
/// had one.
fn deviation(jobs: &JobSummary) -> Option<String> {
    let deviation = jobs.deviation?;
    let [p50, p95, p99] = [deviation.p50, deviation.p95, deviation.p99].map(signed);
    let (late, all) = (deviation.late, deviation.jobs);
    Some(format!(
        "expected_at: off by {p50} (p50), {p95} (p95), {p99} (p99); {late} of {all} over 1 s late"
    ))
}

fn signed(duration: SignedDuration) -> String {
    let size = human(duration.unsigned_abs());
    if duration.is_negative() {
        format!("-{size}")
    } else {
        size
    }
}

/// The cell of a percentile; a dash if there are no percentiles.
fn time_cell(percentiles: Option<Percentiles>, of: impl Fn(Percentiles) -> Duration) -> String {
    percentiles.map_or_else(|| "-".to_owned(), |percentiles| human(of(percentiles)))
}

/// The kinds of failure that occurred, separated by commas; none if nothing failed.
fn kinds(failed: &FailureCounts) -> Option<String> {
    listed(failed.by_kind())
}

/// The counts above zero, separated by commas; none if there is none.
pub(crate) fn listed(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Option<String> {
    let counts: Vec<_> = counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    (!counts.is_empty()).then(|| counts.join(", "))
}

/// A table of at most `width` columns, one line of text for each row. The first column is text, the
/// others are numbers. In a narrow terminal the text wraps, and the numbers never do.
fn table<const COLUMNS: usize>(
    width: u16,
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let rows = rows.into_iter().map(Vec::from);
    table_of(width, header.map(str::to_owned).into(), rows)
}

/// The same for a number of columns that is known only at run time.
fn table_of(
    width: u16,
    header: Vec<String>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .set_header(header);
    for row in rows {
        table.add_row(row.into_iter().map(Cell::new));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        if index == 0 {
            column.set_padding((0, 0));
        } else {
            // One more column is between two cells, for a border that there is not.
            column.set_padding((1, 0));
            column.set_cell_alignment(CellAlignment::Right);
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt() + "\n"
}

/// The first failure of a set of answers, as a line of text.
fn first_failure(what: &str, answers: &AnswerSummary) -> Option<String> {
    let first = answers.first_failure.as_ref()?;
    Some(format!("first failure of {what}: {}", one_line(first)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{human, table};

    #[test]
    fn a_duration_has_a_unit_that_fits_it_and_at_most_7_columns() {
        for (micros, text) in [
            (0, "0.00 ms"),
            (1_234, "1.23 ms"),
            (9_996, "10 ms"),
            (12_345, "12 ms"),
            (999_400, "999 ms"),
            (999_600, "1.00 s"),
            (4_931_000, "4.93 s"),
            (99_994_000, "99.99 s"),
            (99_996_000, "100 s"),
            (3_600_000_000, "3600 s"),
        ] {
            assert_eq!(human(Duration::from_micros(micros)), text);
            assert!(text.len() <= 7, "{text}");
        }
    }

    #[test]
    fn the_widest_figures_fit_60_columns_in_one_line_for_each_row() {
        let row = |cells: [&str; 7]| cells.map(str::to_owned);
        let time = "99.99 s";
        let rows = [
            row(["sync", "1000", "1000", time, time, time, time]),
            row(["callback", "1000", "1000", "999 ms", time, time, "3600 s"]),
        ];
        let header = ["", "ok", "not ok", "p50", "p95", "p99", "max"];
        let text = table(60, header, rows);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 60),
            "{text}"
        );
    }

    #[test]
    fn a_narrow_table_wraps_its_text_and_never_a_number() {
        let row = [
            "a long text of several words".to_owned(),
            "12345.67 ms".to_owned(),
        ];
        let wide = table(60, ["", "p50"], [row.clone()]);
        assert_eq!(wide.lines().count(), 3, "{wide}");
        let narrow = table(30, ["", "p50"], [row]);
        assert!(narrow.contains("12345.67 ms"), "{narrow}");
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 30),
            "{narrow}"
        );
    }
}
