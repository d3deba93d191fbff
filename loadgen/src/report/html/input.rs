//! The JSON results that a report is made from: what `--json` writes, as far as a report needs it.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::{chaos::course::Course, machine::Machine};

/// A result of this program.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub(super) enum Outcome {
    Demo(Box<Demo>),
    Storm(Box<Storm>),
    Chaos(Box<Chaos>),
}

/// A result, and what every result says.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Document {
    pub(super) passed: bool,
    /// Results of earlier versions have none, here and below.
    pub(super) machine: Option<Machine>,
    pub(super) written_at: Option<String>,
    /// The conditions of `--fail-if`.
    #[serde(default)]
    pub(super) thresholds: Vec<Threshold>,
    #[serde(flatten)]
    pub(super) result: Outcome,
}

/// A condition under which a run fails, and what was measured.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Threshold {
    pub(super) fail_if: String,
    pub(super) measured: Option<f64>,
    pub(super) unit: Option<String>,
    pub(super) exceeded: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Demo {
    pub(super) api: String,
    pub(super) callback_url: String,
    pub(super) interrupted: bool,
    pub(super) requests: u64,
    pub(super) records: u64,
    /// Results of earlier versions have none.
    pub(super) timeout_ms: Option<f64>,
    pub(super) patience_ms: Option<f64>,
    pub(super) sync: Answers,
    #[serde(rename = "async")]
    pub(super) ack: Answers,
    pub(super) jobs: Jobs,
    pub(super) why_lost: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Storm {
    pub(super) api: String,
    pub(super) mode: String,
    pub(super) rate: f64,
    pub(super) duration_ms: f64,
    pub(super) handler: Option<String>,
    pub(super) records: Option<u64>,
    pub(super) payload_bytes: Option<u64>,
    /// Results of earlier versions have none, as of the others.
    pub(super) max_in_flight: Option<u32>,
    pub(super) timeout_ms: Option<f64>,
    pub(super) patience_ms: Option<f64>,
    pub(super) interrupted: bool,
    pub(super) offered: u64,
    pub(super) sent: u64,
    pub(super) unanswered: u64,
    pub(super) answers: Answers,
    pub(super) completion: Option<CompletedBy>,
    pub(super) jobs: Option<Jobs>,
    pub(super) series: Option<Series>,
    pub(super) distribution: Option<Distribution>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct CompletedBy {
    pub(super) by: String,
    pub(super) why: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answers {
    pub(super) requests: u64,
    pub(super) ok: u64,
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) latency: Option<Times>,
    pub(super) first_failure: Option<String>,
    /// Of a side of a demo.
    pub(super) series: Option<Series>,
    pub(super) distribution: Option<Distribution>,
}

impl Answers {
    pub(super) fn failed(&self, kind: &str) -> u64 {
        self.failed.get(kind).copied().unwrap_or_default()
    }

    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Jobs {
    pub(super) accepted: u64,
    pub(super) right: u64,
    pub(super) lost: u64,
    pub(super) not_awaited: u64,
    pub(super) repeated: u64,
    pub(super) wrong: u64,
    pub(super) failed: u64,
    pub(super) unexpected: u64,
    pub(super) signatures: Signed,
    pub(super) ideal_ms: f64,
    pub(super) time_to_completion: Option<Times>,
    pub(super) lateness: Option<Times>,
    pub(super) completed_per_s: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Signed {
    pub(super) checked: bool,
    pub(super) right: u64,
    pub(super) headers: u64,
    pub(super) id: u64,
    pub(super) stale: u64,
    pub(super) wrong: u64,
}

impl Signed {
    pub(super) fn bad(&self) -> u64 {
        self.headers + self.id + self.stale + self.wrong
    }
}

/// Percentiles, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[expect(clippy::struct_field_names, reason = "results have these names")]
pub(super) struct Times {
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p99_9_ms: f64,
    pub(super) max_ms: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Series {
    pub(super) interval_ms: f64,
    pub(super) points: Vec<Point>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Point {
    pub(super) at_ms: f64,
    pub(super) offered: u64,
    pub(super) sent: u64,
    pub(super) ok: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    pub(super) in_flight: u64,
    pub(super) answer: Option<Times>,
    pub(super) completed: u64,
    pub(super) completion: Option<Times>,
}

/// How many took so long: the upper bound of a bucket in milliseconds, and its count.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Distribution {
    pub(super) answer: Vec<(f64, u64)>,
    pub(super) completion: Vec<(f64, u64)>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Chaos {
    pub(super) seed: u64,
    pub(super) store: String,
    pub(super) duration_ms: f64,
    pub(super) jobs: u64,
    pub(super) lease_ms: f64,
    pub(super) took_ms: f64,
    pub(super) kills: u64,
    pub(super) clock_steps: Option<u64>,
    pub(super) not_sent: u64,
    pub(super) recovery: BTreeMap<String, Wait>,
    pub(super) footprints: Vec<Footprint>,
    pub(super) interrupted: bool,
    pub(super) violations: Vec<String>,
    pub(super) verdict: Verdict,
    pub(super) course: Option<Course>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Wait {
    pub(super) jobs: u64,
    pub(super) longest_ms: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Footprint {
    pub(super) moment: String,
    pub(super) database: u64,
    pub(super) log: u64,
    pub(super) redis_memory: u64,
    pub(super) redis_entries: u64,
    pub(super) resident: Vec<(String, u64)>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Verdict {
    pub(super) violations: Vec<Violation>,
    /// Counts, and maps of counts.
    pub(super) summary: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Violation {
    pub(super) rule: String,
    pub(super) id: Option<String>,
    pub(super) what: String,
}

/// Reads a result.
///
/// # Errors
/// The file can't be read, or it is none.
pub(super) fn read(path: &Path) -> Result<Document> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    parse(&text).with_context(|| {
        format!(
            "{} is no result of storm-loadgen: give files that --json has written",
            path.display()
        )
    })
}

/// Parses a result.
///
/// # Errors
/// It is none.
pub(super) fn parse(text: &str) -> Result<Document> {
    Ok(serde_json::from_str(text)?)
}
