//! A run over time as a CSV file: a line for each interval.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    or_print,
    place::{Place, Temporary, beginning},
};
use crate::{
    latency::{Percentiles, millis},
    series::{Point, Series},
};

/// The columns. Counts are those of the interval, times are milliseconds, and percentiles without
/// an answer or a completed job are empty. New columns go to the end.
const HEADER: &str = "mode,at_ms,interval_ms,offered,sent,ok,refused,failed,in_flight,\
                      p50_ms,p95_ms,p99_ms,p99_9_ms,max_ms,completed,completion_p50_ms,\
                      completion_p95_ms,completion_p99_ms,completion_p99_9_ms,completion_max_ms\n";

/// A CSV file with a run over time. Until it is written, an earlier one stays as it is.
#[derive(Debug)]
pub struct SeriesFile {
    path: PathBuf,
    place: Place,
}

impl SeriesFile {
    /// Checks that a series can be written to `path`.
    ///
    /// # Errors
    /// It can't, or the file holds something else than a series. The error names the option
    /// `--series`.
    pub fn prepare(path: &Path) -> Result<Self> {
        let place = Place::of(path).and_then(|place| {
            if let Place::Taken(path) = &place {
                let found = beginning(path, HEADER.len() as u64)?;
                ensure!(
                    found.is_empty() || found == HEADER.as_bytes(),
                    "the file exists and has other columns than this program writes; give another \
                     name"
                );
                Temporary::beside(path)?.try_room()?;
            }
            Ok(place)
        });
        Ok(Self {
            place: place.with_context(|| format!("--series {}", path.display()))?,
            path: path.to_owned(),
        })
    }

    /// Writes the series of each mode. If that fails, prints them.
    ///
    /// # Errors
    /// The file can't be written. An earlier series is still there.
    pub fn write(&self, modes: &[(&str, &Series)]) -> Result<()> {
        let text = text(modes);
        let written = self.place.write(&text);
        let written = written.with_context(|| format!("can't write {}", self.path.display()));
        or_print(written, &text)
    }
}

fn text(modes: &[(&str, &Series)]) -> String {
    let mut text = HEADER.to_owned();
    for (mode, series) in modes {
        for point in &series.points {
            line(&mut text, mode, series.interval, point);
        }
    }
    text
}

fn line(text: &mut String, mode: &str, interval: Duration, point: &Point) {
    let _ = write!(
        text,
        "{mode},{},{},{},{},{},{},{},{},{},{},{}",
        point.at.as_millis(),
        interval.as_millis(),
        point.offered,
        point.sent,
        point.ok,
        point.refused,
        point.failed,
        point.in_flight,
        cells(point.answer),
        point.completed,
        cells(point.completion)
    ); // writing to a String never fails
    text.push('\n');
}

fn cells(times: Option<Percentiles>) -> String {
    let Some(times) = times else {
        return ",,,,".to_owned();
    };
    let times = [times.p50, times.p95, times.p99, times.p999, times.max];
    times.map(|time| format!("{:.3}", millis(time))).join(",")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{HEADER, text};
    use crate::series::{Outcome, Recorder};

    #[test]
    fn each_interval_is_a_line_with_a_cell_for_each_column() {
        let mut recorder = Recorder::default();
        let ms = Duration::from_millis;
        for _ in 0..2 {
            recorder.offered(ms(20));
            recorder.sent(ms(20));
        }
        recorder.answered(ms(250), Outcome::Ok, ms(230));
        recorder.completed(ms(290), ms(270));
        let series = recorder.series();
        let text = text(&[("sync", &series), ("async", &series)]);
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 1 + 2 * 3, "{text}");
        let columns = HEADER.trim_end().split(',').count();
        assert!(lines.iter().all(|line| line.len() == columns), "{text}");
        assert_eq!(
            lines[1][..9],
            ["sync", "0", "100", "2", "2", "0", "0", "0", "2"]
        );
        let of = |name| lines[0].iter().position(|it| *it == name).unwrap();
        assert_eq!(lines[1][of("p99_ms")], "");
        let last = &lines[6];
        assert_eq!(last[..6], ["async", "200", "100", "0", "0", "1"]);
        let [answer, completion] =
            ["max_ms", "completion_max_ms"].map(|name| last[of(name)].parse::<f64>().unwrap());
        assert!((229.0..233.0).contains(&answer), "{answer}");
        assert!((269.0..273.0).contains(&completion), "{completion}");
    }
}
