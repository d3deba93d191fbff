//! What a report shows: promises, plots and tables, without any markup.

use serde::{Serialize, Serializer};

/// A whole report.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) title: String,
    /// What was measured, in one or two sentences.
    pub(super) lead: String,
    pub(super) outcome: Mark,
    /// The outcome in a few words.
    pub(super) verdict: String,
    pub(super) checks: Vec<Check>,
    /// What went wrong, as text: examples and violations.
    pub(super) remarks: Vec<String>,
    pub(super) sections: Vec<Section>,
    /// Every number that is not of a plot.
    pub(super) tables: Vec<Table>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) machine: Vec<(String, String)>,
}

impl Page {
    /// Adds the thresholds to the promises. One that is exceeded is the outcome, unless the run
    /// failed by itself.
    pub(super) fn add_thresholds(&mut self, thresholds: Vec<Check>) {
        let is_broken = |check: &Check| check.mark == Mark::Broken;
        let failed = self.outcome == Mark::Broken && self.checks.iter().any(is_broken);
        if thresholds.iter().any(is_broken) && !failed {
            self.outcome = Mark::Broken;
            "failed: a threshold was exceeded".clone_into(&mut self.verdict);
        }
        self.checks.extend(thresholds);
    }
}

/// Whether a promise was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Kept,
    Broken,
    /// The run does not tell.
    Open,
}

impl Mark {
    pub(super) const fn of(kept: bool) -> Self {
        if kept { Self::Kept } else { Self::Broken }
    }
}

/// A promise, and how the run judges it.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) mark: Mark,
    pub(super) promise: String,
    pub(super) detail: String,
}

impl Check {
    pub(super) fn new(mark: Mark, promise: &str, detail: impl Into<String>) -> Self {
        Self {
            mark,
            promise: promise.to_owned(),
            detail: detail.into(),
        }
    }
}

/// Plots under a common heading.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) heading: String,
    /// Whether the reader unfolds it. Of many similar sections, only the first is open.
    pub(super) folded: bool,
    pub(super) figures: Vec<Figure>,
}

/// A plot, and what it shows.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) title: String,
    /// One or two sentences, also for those who can't see the plot.
    pub(super) about: String,
    pub(super) plot: Plot,
}

/// A plot, or why there is none.
#[derive(Debug)]
pub(super) enum Plot {
    Lines(Lines),
    Lanes(Lanes),
    Missing(String),
}

/// Lines over a common axis.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the script reads these names")]
pub(super) struct Lines {
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// In ascending order, without repeats.
    #[serde(serialize_with = "rounded")]
    pub(super) at: Vec<f64>,
    pub(super) lines: Vec<Line>,
    pub(super) marks: Vec<Vertical>,
    /// Plots with the same word share the cursor and the range of x.
    pub(super) together: Option<&'static str>,
}

/// What was broken when: a lane for each kind of fault, a bar for each fault.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the script reads these names")]
pub(super) struct Lanes {
    pub(super) lanes: Vec<String>,
    pub(super) bars: Vec<Bar>,
    /// The end of the time axis, in seconds.
    pub(super) end: f64,
    pub(super) together: Option<&'static str>,
}

/// A fault, from its injection to its end, in seconds.
#[derive(Debug, Serialize)]
pub(super) struct Bar {
    pub(super) lane: usize,
    pub(super) from: f64,
    pub(super) to: f64,
    /// Whether a process was killed. Such bars have a mark of their own.
    pub(super) kill: bool,
    pub(super) jobs: u64,
}

/// An axis.
#[derive(Debug, Serialize)]
pub(super) struct Axis {
    pub(super) label: String,
    pub(super) unit: Unit,
    /// Whether its scale is logarithmic.
    pub(super) log: bool,
}

impl Axis {
    pub(super) fn new(label: &str, unit: Unit, log: bool) -> Self {
        Self {
            label: label.to_owned(),
            unit,
            log,
        }
    }
}

/// The unit of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    Milliseconds,
    Seconds,
    PerSecond,
    Percent,
    Count,
}

impl Unit {
    /// In the head of a table.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Milliseconds => ", ms",
            Self::Seconds => ", s",
            Self::PerSecond => ", /s",
            Self::Percent => ", %",
            Self::Count => "",
        }
    }
}

/// One line.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) ink: Ink,
    pub(super) weight: Weight,
    /// Whether it is drawn at first.
    pub(super) shown: bool,
    pub(super) cells: Vec<Cell>,
}

/// A colour and a dash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ink {
    Sync,
    Async,
    Callback,
    Bad,
    Neutral,
}

impl Ink {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Callback => "callback",
            Self::Bad => "bad",
            Self::Neutral => "neutral",
        }
    }

    /// The dash as lengths in pixels, because colours alone tell nothing to some readers.
    pub(super) const fn dash(self) -> &'static str {
        match self {
            Self::Async => "",
            Self::Sync => "8 3",
            Self::Callback => "2 3",
            Self::Bad => "8 3 2 3",
            Self::Neutral => "4 4",
        }
    }
}

/// How thick a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Weight {
    Thin,
    Medium,
    Thick,
}

impl Weight {
    /// In pixels.
    pub(super) const fn width(self) -> &'static str {
        match self {
            Self::Thin => "1.25",
            Self::Medium => "2",
            Self::Thick => "3",
        }
    }
}

/// A value of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell {
    Value(f64),
    /// There is no value: the line is interrupted.
    Gap,
    /// The line has no point here, because it was measured at other moments than the others.
    Absent,
}

impl From<Option<f64>> for Cell {
    fn from(value: Option<f64>) -> Self {
        value.map_or(Self::Gap, Self::Value)
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => serializer.serialize_f64(round(*value)),
            Self::Gap => serializer.serialize_none(),
            Self::Absent => serializer.serialize_bool(false),
        }
    }
}

/// A vertical line with a few words.
#[derive(Debug, Serialize)]
pub(super) struct Vertical {
    pub(super) at: f64,
    pub(super) label: String,
    pub(super) ink: Ink,
}

/// A table. The first column names its rows.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Lines {
    /// Whether there is anything to draw.
    pub(super) fn is_empty(&self) -> bool {
        let has_value = |line: &Line| line.cells.iter().any(|it| matches!(it, Cell::Value(_)));
        !self.lines.iter().any(has_value)
    }

    /// The same numbers.
    pub(super) fn table(&self) -> Table {
        let name = |label: &str, unit: Unit| format!("{label}{}", unit.suffix());
        let lines = self.lines.iter();
        let header = std::iter::once(name(&self.x.label, self.x.unit));
        let header = header.chain(lines.map(|line| name(&line.name, self.y.unit)));
        let row = |(index, at): (usize, &f64)| {
            let cells = self.lines.iter().map(|line| match line.cells.get(index) {
                Some(Cell::Value(value)) => figure(*value),
                Some(Cell::Gap) => "–".to_owned(),
                Some(Cell::Absent) | None => String::new(),
            });
            std::iter::once(figure(*at)).chain(cells).collect()
        };
        Table {
            caption: self.y.label.clone(),
            header: header.collect(),
            rows: self.at.iter().enumerate().map(row).collect(),
        }
    }
}

impl Lanes {
    /// The same faults, in the order of their injection.
    pub(super) fn table(&self) -> Table {
        let header = ["fault", "injected, s", "healed, s", "jobs in flight"];
        let row = |bar: &Bar| {
            vec![
                self.lanes.get(bar.lane).cloned().unwrap_or_default(),
                figure(bar.from),
                figure(bar.to),
                bar.jobs.to_string(),
            ]
        };
        Table {
            caption: "faults".to_owned(),
            header: header.map(str::to_owned).into(),
            rows: self.bars.iter().map(row).collect(),
        }
    }
}

/// To a thousandth: a microsecond, if it is milliseconds.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A number to a thousandth, without zeros at its end.
pub(super) fn figure(value: f64) -> String {
    // Rust prints the shortest text of a number, and no exponent.
    round(value).to_string()
}

fn rounded<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|value| round(*value)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Axis, Cell, Ink, Line, Lines, Unit, Weight, figure};

    pub(in crate::report::html) fn lines(cells: Vec<Cell>) -> Lines {
        Lines {
            x: Axis::new("time", Unit::Seconds, false),
            y: Axis::new("answer", Unit::Milliseconds, true),
            at: (0_u8..).take(cells.len()).map(f64::from).collect(),
            lines: vec![Line {
                name: "p50".to_owned(),
                ink: Ink::Sync,
                weight: Weight::Thin,
                shown: true,
                cells,
            }],
            marks: Vec::new(),
            together: None,
        }
    }

    #[test]
    fn a_plot_has_a_table_with_the_same_numbers() {
        let table = lines(vec![Cell::Value(1.5), Cell::Gap, Cell::Absent]).table();
        assert_eq!(table.header, ["time, s", "p50, ms"]);
        assert_eq!(table.rows, [["0", "1.5"], ["1", "–"], ["2", ""]]);
    }

    #[test]
    fn lines_without_a_value_are_empty() {
        assert!(lines(vec![Cell::Gap, Cell::Absent]).is_empty());
        assert!(!lines(vec![Cell::Gap, Cell::Value(0.0)]).is_empty());
    }

    #[test]
    fn numbers_are_exact_to_a_thousandth_and_have_no_exponent() {
        for (value, text) in [
            (0.0, "0"),
            (0.1 + 0.2, "0.3"),
            (12.345_678, "12.346"),
            (3_600_000.0, "3600000"),
        ] {
            assert_eq!(figure(value), text);
        }
    }

    #[test]
    fn a_gap_and_a_missing_point_differ_in_the_data() {
        let json = serde_json::to_string(&[Cell::Value(0.1 + 0.2), Cell::Gap, Cell::Absent]);
        assert_eq!(json.unwrap(), "[0.3,null,false]");
    }
}
