//! Storms as lines of a CSV file.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    or_print,
    place::{Place, Temporary, write_stream},
};
use crate::{
    answers::FailureCounts,
    latency::{Percentiles, millis},
    ledger::JobSummary,
    storm::StormResult,
};

/// A CSV file that grows by one line for each storm. A new or empty file also gets a header.
#[derive(Debug)]
pub struct CsvFile {
    path: PathBuf,
    place: Place,
}

impl CsvFile {
    /// Checks that a line can be appended to `path`.
    ///
    /// # Errors
    /// It can't, or the file has other columns, or its last line is incomplete. The error names the
    /// option `--csv`.
    pub fn prepare(path: &Path) -> Result<Self> {
        let place = Place::of(path).and_then(|place| {
            if let Place::Taken(path) = &place {
                check_earlier_lines(path)?;
                // A file can be appended to in a folder that accepts no other file, and then a full
                // disk is found only at the end.
                if let Ok(temporary) = Temporary::beside(path) {
                    temporary.try_room()?;
                }
            }
            Ok(place)
        });
        Ok(Self {
            place: place.with_context(|| format!("--csv {}", path.display()))?,
            path: path.to_owned(),
        })
    }

    /// Appends a storm. If that fails, prints its line.
    ///
    /// # Errors
    /// The file can't be written. It is as it was.
    pub fn append(&self, result: &StormResult) -> Result<()> {
        let (header, values) = (header(), line(&COLUMNS.map(|(_, value)| value(result))));
        let written = match &self.place {
            Place::Free(path) | Place::Taken(path) => append_to_file(path, &header, &values),
            Place::Stream(file) => write_stream(file, &format!("{header}{values}")),
        };
        let written = written.with_context(|| format!("can't write {}", self.path.display()));
        or_print(written, &(header + &values))
    }
}

/// The file must be empty or have this program's columns, and end with a whole line.
fn check_earlier_lines(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(());
    }
    let header = header();
    let mut beginning = Vec::new();
    (&file)
        .take(header.len() as u64)
        .read_to_end(&mut beginning)?;
    ensure!(
        beginning == header.as_bytes(),
        "the file exists and has other columns than this program writes; give another name"
    );
    let mut last = [0];
    file.seek(SeekFrom::Start(length - 1))?;
    file.read_exact(&mut last)?;
    ensure!(
        last == *b"\n",
        "the last line of the file is incomplete; complete or remove it"
    );
    Ok(())
}

fn append_to_file(path: &Path, header: &str, values: &str) -> Result<()> {
    let mut csv = File::options().create(true).append(true).open(path)?;
    // Several storms may append at once. Some file systems have no locks, and then it is up to the
    // one write below.
    let _ = csv.lock();
    let length = csv.metadata()?.len();
    let header = if length == 0 { header } else { "" };
    let written = csv.write_all(format!("{header}{values}").as_bytes());
    if written.is_err() {
        // A part of a line would spoil the file for later storms.
        let _ = csv.set_len(length);
    }
    Ok(written?)
}

fn header() -> String {
    line(&COLUMNS.map(|(name, _)| name.to_owned()))
}

fn line(cells: &[String; COLUMNS.len()]) -> String {
    cells.join(",") + "\n"
}

/// A column: its name, and its value for a storm. A missing value is empty. No value contains a
/// comma, so none needs quotes.
type Column = (&'static str, fn(&StormResult) -> String);

/// Scripts find the columns by name. New ones go to the end.
const COLUMNS: [Column; 40] = [
    ("mode", |storm| storm.mode.to_string()),
    ("rate", |storm| storm.rate.to_string()),
    ("duration_s", |storm| {
        storm.duration.as_secs_f64().to_string()
    }),
    ("records", |storm| optional(storm.records)),
    ("offered", |storm| storm.offered.to_string()),
    ("sent", |storm| storm.sent.to_string()),
    ("ok", |storm| storm.answers.ok.to_string()),
    ("refused", |storm| failed(storm, |failed| failed.refused)),
    ("timeout", |storm| failed(storm, |failed| failed.timeout)),
    ("other_status", |storm| {
        failed(storm, |failed| failed.other_status)
    }),
    ("connection", |storm| {
        failed(storm, |failed| failed.connection)
    }),
    ("wrong_answer", |storm| {
        failed(storm, |failed| failed.wrong_answer)
    }),
    ("not_sent", |storm| failed(storm, |failed| failed.not_sent)),
    ("p50_ms", |storm| {
        time(storm.answers.latency, |times| times.p50)
    }),
    ("p95_ms", |storm| {
        time(storm.answers.latency, |times| times.p95)
    }),
    ("p99_ms", |storm| {
        time(storm.answers.latency, |times| times.p99)
    }),
    ("p99_9_ms", |storm| {
        time(storm.answers.latency, |times| times.p999)
    }),
    ("max_ms", |storm| {
        time(storm.answers.latency, |times| times.max)
    }),
    ("accepted", |storm| jobs(storm, |jobs| jobs.accepted)),
    ("right", |storm| jobs(storm, |jobs| jobs.right)),
    ("lost", |storm| jobs(storm, |jobs| jobs.lost)),
    ("wrong", |storm| jobs(storm, |jobs| jobs.wrong)),
    ("failed", |storm| jobs(storm, |jobs| jobs.failed)),
    ("repeated", |storm| jobs(storm, |jobs| jobs.repeated)),
    ("completed_per_s", |storm| {
        of_jobs(storm, |jobs| format!("{:.1}", jobs.completed_per_s))
    }),
    ("ideal_ms", |storm| {
        of_jobs(storm, |jobs| format!("{:.0}", millis(jobs.ideal)))
    }),
    ("completion_p50_ms", |storm| {
        time(completion(storm), |times| times.p50)
    }),
    ("completion_p95_ms", |storm| {
        time(completion(storm), |times| times.p95)
    }),
    ("completion_p99_ms", |storm| {
        time(completion(storm), |times| times.p99)
    }),
    ("completion_max_ms", |storm| {
        time(completion(storm), |times| times.max)
    }),
    ("lateness_p50_ms", |storm| {
        time(lateness(storm), |times| times.p50)
    }),
    ("lateness_p99_ms", |storm| {
        time(lateness(storm), |times| times.p99)
    }),
    ("lateness_max_ms", |storm| {
        time(lateness(storm), |times| times.max)
    }),
    ("bad_signatures", bad_signatures),
    ("not_awaited", |storm| jobs(storm, |jobs| jobs.not_awaited)),
    ("unanswered", |storm| storm.unanswered.to_string()),
    ("interrupted", |storm| storm.interrupted.to_string()),
    ("outcome_unknown", |storm| {
        failed(storm, |failed| failed.outcome_unknown)
    }),
    ("handler", |storm| optional(storm.handler.as_deref())),
    ("payload_bytes", |storm| optional(storm.payload_bytes)),
];

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn failed(storm: &StormResult, count: fn(&FailureCounts) -> u64) -> String {
    count(&storm.answers.failed).to_string()
}

fn of_jobs(storm: &StormResult, of: impl Fn(&JobSummary) -> String) -> String {
    storm.jobs.as_ref().map_or_else(String::new, of)
}

fn jobs(storm: &StormResult, count: fn(&JobSummary) -> u64) -> String {
    of_jobs(storm, |jobs| count(jobs).to_string())
}

fn completion(storm: &StormResult) -> Option<Percentiles> {
    storm.jobs.as_ref()?.time_to_completion
}

fn lateness(storm: &StormResult) -> Option<Percentiles> {
    storm.jobs.as_ref()?.lateness
}

/// Empty if signatures were not checked.
fn bad_signatures(storm: &StormResult) -> String {
    of_jobs(storm, |jobs| {
        let signatures = Some(jobs.signatures).filter(|signatures| signatures.checked);
        signatures.map_or_else(String::new, |signatures| signatures.bad().to_string())
    })
}

fn time(times: Option<Percentiles>, of: fn(Percentiles) -> Duration) -> String {
    times.map_or_else(String::new, |times| format!("{:.3}", millis(of(times))))
}
