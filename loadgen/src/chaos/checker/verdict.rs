//! What the rules found.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Write as _},
};

use serde::Serialize;
use storm_shared::models::RequestId;

use super::Summary;
use crate::chaos::{history::Record, timeline::timeline};

/// How many violations are printed; the first ones tell the story.
const SHOWN: usize = 20;
/// How many of the jobs concerned are printed with their timelines.
const TIMELINES: usize = 3;

/// The promises that a run is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Every job that was promised has a row, and every row has ended.
    Ended,
    /// One request, one job: no row without a request, and no request with two.
    Named,
    /// A job is `COMPLETED` when its receiver said so to the right bytes, and never otherwise.
    Delivered,
    /// A job that is `FAILED` has a true reason.
    Reasons,
    /// A receiver heard twice only of jobs with a recorded event that explains it.
    Repeats,
    /// Rows moved only as the contract allows.
    Moves,
    /// Nobody wrote under a claim that was over, and every claim that ended early is recorded.
    Fences,
    /// What clients saw of a job never went back.
    Seen,
    /// Files, Redis and memory are small again when all has settled.
    Sizes,
    /// Every promised fault happened, and in the midst of work.
    Faults,
}

impl Rule {
    /// Its word in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Named => "named",
            Self::Delivered => "delivered",
            Self::Reasons => "reasons",
            Self::Repeats => "repeats",
            Self::Moves => "moves",
            Self::Fences => "fences",
            Self::Seen => "seen",
            Self::Sizes => "sizes",
            Self::Faults => "faults",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// With which job, if it was with one.
    pub id: Option<RequestId>,
    /// One sentence for a person.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9} ", self.rule)?;
        if let Some(id) = self.id {
            write!(f, "{id}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// What a rule for the whole run found.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) id: Option<RequestId>,
    pub(super) what: String,
}

impl From<String> for Finding {
    fn from(what: String) -> Self {
        Self { id: None, what }
    }
}

/// What became of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Every promise that was not kept, job by job in the order of their acceptance.
    pub violations: Vec<Violation>,
    /// The figures.
    pub summary: Summary,
}

impl Verdict {
    /// Whether every promise was kept.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// How often each rule was broken; those that were not are left out.
    pub fn by_rule(&self) -> BTreeMap<Rule, usize> {
        let mut counts = BTreeMap::new();
        for violation in &self.violations {
            *counts.entry(violation.rule).or_default() += 1;
        }
        counts
    }

    /// The verdict in words: the violations, at most 20 of them, and the timelines of the first few
    /// jobs concerned, which are taken from `records`. Ends with a newline.
    pub fn render(&self, records: &[Record]) -> String {
        let jobs = self.summary.rows;
        if self.passed() {
            return format!("accepted: nothing stands against the history of {jobs} jobs\n");
        }
        let mut text = format!("refused: {} violations", self.violations.len());
        for (rule, count) in self.by_rule() {
            let _ = write!(text, ", {count} {rule}"); // writing to a String can't fail
        }
        text.push('\n');
        let shown = self.shown();
        for violation in &shown {
            let _ = writeln!(text, "  {violation}");
        }
        if shown.len() < self.violations.len() {
            let _ = writeln!(text, "  and {} more", self.violations.len() - shown.len());
        }
        for id in jobs_of(&shown) {
            let _ = write!(text, "\n{}", timeline(records, id));
        }
        text
    }

    /// The first ones of each rule, so that a rule broken a thousand times doesn't hide the others.
    fn shown(&self) -> Vec<&Violation> {
        let mut seen = HashMap::new();
        let mut ranked: Vec<(u64, &Violation)> = self
            .violations
            .iter()
            .map(|violation| {
                let rank = seen.entry(violation.rule).or_insert(0);
                *rank += 1;
                (*rank, violation)
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        let shown = ranked.into_iter().take(SHOWN);
        shown.map(|(_, violation)| violation).collect()
    }
}

fn jobs_of(violations: &[&Violation]) -> Vec<RequestId> {
    let mut ids = Vec::new();
    for id in violations.iter().filter_map(|violation| violation.id) {
        if ids.len() < TIMELINES && !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}
