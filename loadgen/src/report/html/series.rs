//! Plots of time series and distributions, of one run or of several over the same axes.

use super::{
    input::{Distribution, Point, Series, Times},
    model::{Axis, Cell, Figure, Ink, Line, Lines, Plot, Unit, Weight},
};

/// What one run contributes to a plot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// The endpoint, as readers know it.
    pub(super) name: &'a str,
    pub(super) ink: Ink,
    /// How the ends of its jobs were seen: `callback` or `completion`; none if it has no jobs.
    pub(super) end: Option<&'a str>,
    pub(super) series: Option<&'a Series>,
    pub(super) distribution: Option<&'a Distribution>,
}

/// A percentile: its name, its value, how thick its line is, and whether it is drawn at first.
type Percentile = (&'static str, fn(&Times) -> f64, Weight, bool);

const PERCENTILES: [Percentile; 4] = [
    ("p50", |times| times.p50_ms, Weight::Thin, true),
    ("p95", |times| times.p95_ms, Weight::Medium, false),
    ("p99", |times| times.p99_ms, Weight::Thick, true),
    ("max", |times| times.max_ms, Weight::Thin, false),
];

/// A name, its look, and how many took so long.
type Buckets<'a> = (String, Ink, &'a [(f64, u64)]);

/// A histogram of this many bars for each factor of ten: bars are as wide as they look.
const BARS_PER_DECADE: f64 = 10.0;

/// Why results of earlier versions have no plot.
const NO_SERIES: &str = "This result has no time series: an earlier version has written it.";

/// At most so many points, each of several of `series`. Counts are summed up. Percentiles can't be,
/// so that the highest stands for all.
pub(super) fn thin(series: &Series, most: usize) -> Series {
    let group = series.points.len().div_ceil(most.max(1)).max(1);
    let points = series.points.chunks(group);
    Series {
        interval_ms: series.interval_ms * to_f64(group),
        points: points.filter_map(merged).collect(),
    }
}

fn merged(points: &[Point]) -> Option<Point> {
    let (first, others) = points.split_first()?;
    let merge = |all: Point, next: &Point| Point {
        at_ms: all.at_ms,
        offered: all.offered + next.offered,
        sent: all.sent + next.sent,
        ok: all.ok + next.ok,
        refused: all.refused + next.refused,
        failed: all.failed + next.failed,
        in_flight: all.in_flight.max(next.in_flight),
        answer: highest(all.answer, next.answer),
        completed: all.completed + next.completed,
        completion: highest(all.completion, next.completion),
    };
    Some(others.iter().fold(first.clone(), merge))
}

fn highest(one: Option<Times>, other: Option<Times>) -> Option<Times> {
    let (Some(a), Some(b)) = (one, other) else {
        return one.or(other);
    };
    Some(Times {
        p50_ms: a.p50_ms.max(b.p50_ms),
        p95_ms: a.p95_ms.max(b.p95_ms),
        p99_ms: a.p99_ms.max(b.p99_ms),
        p99_9_ms: a.p99_9_ms.max(b.p99_9_ms),
        max_ms: a.max_ms.max(b.max_ms),
    })
}

/// Percentiles of the answers, and of the ends of jobs, over time.
pub(super) fn times(runs: &[Run<'_>]) -> Figure {
    let mut lines = Vec::new();
    let at = moments(runs);
    for run in runs {
        for (name, of, weight, shown) in PERCENTILES {
            let cells = cells(&at, run, |point, _| point.answer.as_ref().map(of).into());
            let name = format!("{} {name}", run.name);
            lines.push(line(name, run.ink, weight, shown, cells));
        }
        let Some(end) = run.end else { continue };
        for (name, of, weight, _) in PERCENTILES {
            let shown = name == "p99";
            let cells = cells(&at, run, |point, _| {
                point.completion.as_ref().map(of).into()
            });
            lines.push(line(
                format!("{end} {name}"),
                Ink::Callback,
                weight,
                shown,
                cells,
            ));
        }
    }
    Figure {
        title: "Latency over time".to_owned(),
        about: format!(
            "How long successful requests took, counted from the moment when each was due, in \
             intervals of {}. The scale is logarithmic.",
            interval(runs)
        ),
        plot: over_time(
            runs,
            at,
            lines,
            Axis::new("latency", Unit::Milliseconds, true),
            "No request succeeded, so there is no latency.",
        ),
    }
}

/// What happened to requests, each second.
pub(super) fn rates(runs: &[Run<'_>]) -> Figure {
    let at = moments(runs);
    let mut lines = Vec::new();
    let mut add = |run: &Run<'_>, name: String, ink, weight, of: fn(&Point) -> u64| {
        let cells = cells(&at, run, |point, interval_ms| {
            Cell::Value(to_f64(of(point)) * 1000.0 / interval_ms)
        });
        let nothing = cells
            .iter()
            .all(|it| !matches!(it, Cell::Value(rate) if *rate > 0.0));
        // All are in the table.
        lines.push(line(name, ink, weight, !nothing, cells));
    };
    if let Some(first) = runs.first() {
        add(
            first,
            "offered".to_owned(),
            Ink::Neutral,
            Weight::Medium,
            |it| it.offered,
        );
    }
    for run in runs {
        let name = |what: &str| format!("{} {what}", run.name);
        add(run, name("ok"), run.ink, Weight::Thick, |it| it.ok);
        let refused = |it: &Point| it.refused;
        add(run, name("refused"), Ink::Bad, Weight::Medium, refused);
        add(run, name("failed"), Ink::Bad, Weight::Thin, |it| it.failed);
        if let Some(end) = run.end {
            add(
                run,
                format!("{end}s"),
                Ink::Callback,
                Weight::Medium,
                |it| it.completed,
            );
        }
    }
    Figure {
        title: "Throughput over time".to_owned(),
        about:
            "Requests that were due, answers and ended jobs, each second. A refusal is a 503 or \
                a 429; failed are timeouts and all other failures."
                .to_owned(),
        plot: over_time(
            runs,
            at,
            lines,
            Axis::new("requests", Unit::PerSecond, false),
            "Nothing was sent.",
        ),
    }
}

/// Requests without an answer so far.
pub(super) fn in_flight(runs: &[Run<'_>]) -> Figure {
    let at = moments(runs);
    let line = |run: &Run<'_>| {
        let cells = cells(&at, run, |point, _| Cell::Value(to_f64(point.in_flight)));
        line(run.name.to_owned(), run.ink, Weight::Thick, true, cells)
    };
    let lines = runs.iter().map(line).collect();
    Figure {
        title: "Requests in flight".to_owned(),
        about: "Requests that wait for their answer: what piles up when answers come more slowly \
                than requests."
            .to_owned(),
        plot: over_time(
            runs,
            at,
            lines,
            Axis::new("in flight", Unit::Count, false),
            "Nothing was sent.",
        ),
    }
}

/// How many requests took how long.
pub(super) fn distribution(runs: &[Run<'_>]) -> Figure {
    let title = "Distribution of latency".to_owned();
    let about = "The share of successful requests that took so long. Every hump has the same area, \
                 however many requests there are; the scale of time is logarithmic.";
    let mut all: Vec<Buckets<'_>> = Vec::new();
    for run in runs {
        let Some(distribution) = run.distribution else {
            continue;
        };
        all.push((run.name.to_owned(), run.ink, &distribution.answer));
        if let Some(end) = run.end {
            all.push((end.to_owned(), Ink::Callback, &distribution.completion));
        }
    }
    let some = all.iter().flat_map(|(.., buckets)| buckets.iter());
    let bars = some.filter(|(_, count)| *count > 0).map(|(ms, _)| bar(*ms));
    let (Some(least), Some(most)) = (bars.clone().min(), bars.max()) else {
        let why = if runs.iter().any(|run| run.distribution.is_some()) {
            "No request succeeded, so there is no latency."
        } else {
            "This result has no distribution: an earlier version has written it."
        };
        return missing(title, about, why);
    };
    // An empty bar on both sides, where the line begins and ends at zero.
    let bars: Vec<i32> = (least - 1..=most + 1).collect();
    let lines = all.iter().map(|(name, ink, buckets)| {
        let total: u64 = buckets.iter().map(|(_, count)| count).sum();
        let share = |index: &i32| {
            let inside = buckets.iter().filter(|(ms, _)| bar(*ms) == *index);
            let count: u64 = inside.map(|(_, count)| count).sum();
            match total {
                0 => Cell::Gap,
                _ => Cell::Value(to_f64(count) * 100.0 / to_f64(total)),
            }
        };
        let cells = bars.iter().map(share).collect();
        line(name.clone(), *ink, Weight::Medium, true, cells)
    });
    Figure {
        title,
        about: about.to_owned(),
        plot: Plot::Lines(Lines {
            x: Axis::new("latency", Unit::Milliseconds, true),
            y: Axis::new("share of requests", Unit::Percent, false),
            lines: lines.collect(),
            at: bars.iter().map(|bar| upper(*bar)).collect(),
            marks: Vec::new(),
            together: None,
        }),
    }
}

/// The number of the bar with this time in it; bar 0 ends at 1 ms.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a duration of hours is bar 71"
)]
fn bar(ms: f64) -> i32 {
    // A result's bounds are those of these bars and of their middles, rounded to a microsecond.
    // Less a little, so that none is rounded into the next bar.
    (ms.max(1e-3).log10() * BARS_PER_DECADE - 0.1).ceil() as i32
}

fn upper(bar: i32) -> f64 {
    10_f64.powf(f64::from(bar) / BARS_PER_DECADE)
}

fn over_time(runs: &[Run<'_>], at: Vec<f64>, lines: Vec<Line>, y: Axis, empty: &str) -> Plot {
    if runs.iter().all(|run| run.series.is_none()) {
        return Plot::Missing(NO_SERIES.to_owned());
    }
    let lines = Lines {
        x: Axis::new("time", Unit::Seconds, false),
        y,
        at,
        lines,
        marks: Vec::new(),
        together: None,
    };
    if lines.is_empty() {
        return Plot::Missing(empty.to_owned());
    }
    Plot::Lines(lines)
}

pub(super) fn missing(title: String, about: &str, why: &str) -> Figure {
    Figure {
        title,
        about: about.to_owned(),
        plot: Plot::Missing(why.to_owned()),
    }
}

pub(super) fn line(name: String, ink: Ink, weight: Weight, shown: bool, cells: Vec<Cell>) -> Line {
    Line {
        name,
        ink,
        weight,
        shown,
        cells,
    }
}

/// All moments of all runs, in seconds.
fn moments(runs: &[Run<'_>]) -> Vec<f64> {
    let points = runs.iter().filter_map(|run| run.series);
    let points = points.flat_map(|series| series.points.iter());
    let mut at: Vec<f64> = points.map(|point| point.at_ms / 1000.0).collect();
    at.sort_by(f64::total_cmp);
    at.dedup();
    at
}

/// The values of a run at each of `at`, which contains all its moments.
fn cells(at: &[f64], run: &Run<'_>, of: impl Fn(&Point, f64) -> Cell) -> Vec<Cell> {
    let Some(series) = run.series else {
        return vec![Cell::Absent; at.len()];
    };
    let mut points = series.points.iter().peekable();
    let cell = |at: &f64| {
        let is_now = |point: &&Point| point.at_ms / 1000.0 <= *at;
        points
            .next_if(is_now)
            .map_or(Cell::Absent, |point| of(point, series.interval_ms))
    };
    at.iter().map(cell).collect()
}

fn interval(runs: &[Run<'_>]) -> String {
    let series = runs.iter().filter_map(|run| run.series);
    let longest = series.map(|it| it.interval_ms).fold(0.0, f64::max);
    super::time(longest)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(super) fn to_f64(count: impl TryInto<u64>) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

#[cfg(test)]
mod tests {
    use super::{Lines, Run, bar, distribution, rates, thin, times, upper};
    use crate::report::html::{
        input::{Distribution, Point, Series, Times},
        model::{Cell, Ink, Plot},
    };

    fn at(ms: f64) -> Times {
        Times {
            p50_ms: ms,
            p95_ms: ms * 2.0,
            p99_ms: ms * 3.0,
            p99_9_ms: ms * 4.0,
            max_ms: ms * 5.0,
        }
    }

    fn point(at_ms: f64, answer: Option<Times>) -> Point {
        Point {
            at_ms,
            offered: 10,
            sent: 10,
            ok: if answer.is_some() { 10 } else { 0 },
            refused: if answer.is_some() { 0 } else { 10 },
            failed: 0,
            in_flight: 3,
            answer,
            completed: 0,
            completion: None,
        }
    }

    fn series(interval_ms: f64, points: Vec<Point>) -> Series {
        Series {
            interval_ms,
            points,
        }
    }

    fn run<'a>(name: &'a str, series: Option<&'a Series>) -> Run<'a> {
        Run {
            name,
            ink: Ink::Sync,
            end: None,
            series,
            distribution: None,
        }
    }

    fn lines(plot: &Plot) -> &Lines {
        let Plot::Lines(lines) = plot else {
            panic!("no lines: {plot:?}")
        };
        lines
    }

    #[test]
    fn runs_with_other_intervals_share_an_axis() {
        let slow = series(1000.0, vec![point(0.0, Some(at(5.0))), point(1000.0, None)]);
        let fast = series(
            500.0,
            vec![point(0.0, Some(at(1.0))), point(500.0, Some(at(2.0)))],
        );
        let figure = times(&[run("/sync", Some(&slow)), run("/async", Some(&fast))]);
        let lines = lines(&figure.plot);
        assert_eq!(lines.at, [0.0, 0.5, 1.0]);
        let p50 = |name: &str| &lines.lines.iter().find(|it| it.name == name).unwrap().cells;
        assert_eq!(
            p50("/sync p50")[..],
            [Cell::Value(5.0), Cell::Absent, Cell::Gap]
        );
        assert_eq!(
            p50("/async p50")[..],
            [Cell::Value(1.0), Cell::Value(2.0), Cell::Absent]
        );
    }

    #[test]
    fn counts_become_rates_of_a_second() {
        let series = series(500.0, vec![point(0.0, Some(at(5.0)))]);
        let figure = rates(&[run("/sync", Some(&series))]);
        assert_eq!(lines(&figure.plot).lines[0].cells, [Cell::Value(20.0)]);
    }

    #[test]
    fn without_a_single_answer_the_plot_says_so() {
        let refused = series(1000.0, vec![point(0.0, None), point(1000.0, None)]);
        let figure = times(&[run("/sync", Some(&refused))]);
        assert!(matches!(&figure.plot, Plot::Missing(why) if why.contains("No request succeeded")));
        let figure = times(&[run("/sync", None)]);
        assert!(matches!(&figure.plot, Plot::Missing(why) if why.contains("no time series")));
        let figure = distribution(&[run("/sync", None)]);
        assert!(matches!(&figure.plot, Plot::Missing(why) if why.contains("no distribution")));
    }

    #[test]
    fn a_long_series_is_thinned_without_losing_a_request_or_the_worst_moment() {
        let points = (0..3600_u32).map(|second| {
            let slow = if second == 1234 { 900.0 } else { 1.0 };
            point(f64::from(second) * 1000.0, Some(at(slow)))
        });
        let thinned = thin(&series(1000.0, points.collect()), 600);
        assert_eq!((thinned.points.len(), thinned.interval_ms), (600, 6000.0));
        let ok: u64 = thinned.points.iter().map(|point| point.ok).sum();
        assert_eq!(ok, 36_000);
        let worst = thinned.points.iter().filter_map(|it| it.answer);
        let worst = worst.map(|it| it.max_ms).fold(0.0, f64::max);
        assert!((worst - 4500.0).abs() < 1e-9);
        let few = thin(&series(1000.0, vec![point(0.0, None)]), 600);
        assert_eq!(few.points.len(), 1);
    }

    #[test]
    fn the_distribution_has_bars_of_equal_width_and_no_bar_is_left_out() {
        let shares = Distribution {
            answer: vec![(1.0, 30), (100.0, 10)],
            completion: Vec::new(),
        };
        let mut run = run("/sync", None);
        run.distribution = Some(&shares);
        let figure = distribution(&[run]);
        let lines = lines(&figure.plot);
        // From the bar before 1 ms to that after 100 ms.
        assert_eq!(lines.at.len(), 23);
        let cells = &lines.lines[0].cells;
        assert_eq!(cells[1], Cell::Value(75.0));
        assert_eq!(cells[21], Cell::Value(25.0));
        assert_eq!(cells[0], Cell::Value(0.0));
        assert_eq!(cells[10], Cell::Value(0.0));
    }

    #[test]
    fn a_time_is_in_the_bar_that_ends_at_it() {
        for (ms, expected) in [
            (1.0, 0),
            (1.122, 1),
            (1.259, 1),
            (1.413, 2),
            (10.0, 10),
            (0.0, -30),
        ] {
            assert_eq!(bar(ms), expected, "{ms}");
        }
        assert!((upper(10) - 10.0).abs() < 1e-9);
    }
}
