//! The rules and the verdict.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Write as _},
};

use serde::Serialize;
use storm_shared::models::RequestId;

use super::Summary;
use crate::chaos::{history::Record, timeline::timeline};

/// Maximum number of violations that are printed.
const SHOWN: usize = 20;
/// Maximum number of timelines that are printed.
const TIMELINES: usize = 3;

/// The rules that a history must satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckRule {
    /// No lost job: every job accepted with `202` has a row, and every row reaches a final status.
    /// The same holds for redeliveries.
    Ended,
    /// One request, one job: no row without a request, and no request with two rows. The same holds
    /// for redeliveries.
    Named,
    /// A job, or a redelivery, is `COMPLETED` only after its receiver answered `2xx` to the correct
    /// body, under the claim that completed it.
    Delivered,
    /// The failure reason of a `FAILED` job, or redelivery, is supported by the history.
    Reasons,
    /// At-least-once: every duplicate delivery is explained by a recorded event or a redelivery.
    Repeats,
    /// Rows change only by the transitions of the contract. The end of a redelivery, and nothing
    /// else, changes a job that has ended.
    Moves,
    /// No write with a stale fencing token, and one event for each claim that ended without ending
    /// its job or redelivery.
    Fences,
    /// Polls of a job are linearizable: a final status is stable, unless a redelivery changes it.
    /// The reason for which a redelivery was refused is true.
    Seen,
    /// What was answered as cancelled is, nothing else is, and no callback of it follows.
    Cancels,
    /// What an operator's filter matched is cancelled or redelivered, and nothing else; a dry run
    /// changes nothing; the counts are true, and each page has one record in the audit.
    Filters,
    /// What was answered as erased is, nothing else is, and its contents are never seen again.
    Erased,
    /// While everything is paused, nothing is claimed; while an origin is paused, no callback to it
    /// begins.
    Pauses,
    /// A request is deleted only when it had ended long enough ago, and not during a redelivery.
    Retention,
    /// What came of the work of a handler's job is what its endpoint answered. It is stored before
    /// the first callback, never replaced, and the work is not asked for again.
    Work,
    /// No wait is cut short or drawn out, whatever the wall clock says, and no job ends before it
    /// was created.
    Waits,
    /// The WAL, Redis and memory shrink to their limits after the run has settled.
    Sizes,
    /// Every planned kind of fault was injected, and each fault while jobs were in flight.
    Faults,
}

impl CheckRule {
    /// Its name in reports.
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
            Self::Cancels => "cancels",
            Self::Filters => "filters",
            Self::Erased => "erased",
            Self::Pauses => "pauses",
            Self::Retention => "retention",
            Self::Work => "work",
            Self::Waits => "waits",
            Self::Sizes => "sizes",
            Self::Faults => "faults",
        }
    }
}

impl CheckRule {
    /// All rules, as they are declared.
    pub const ALL: [Self; 17] = [
        Self::Ended,
        Self::Named,
        Self::Delivered,
        Self::Reasons,
        Self::Repeats,
        Self::Moves,
        Self::Fences,
        Self::Seen,
        Self::Cancels,
        Self::Filters,
        Self::Erased,
        Self::Pauses,
        Self::Retention,
        Self::Work,
        Self::Waits,
        Self::Sizes,
        Self::Faults,
    ];

    /// What it demands, in one sentence for readers of a report.
    pub const fn statement(self) -> &'static str {
        match self {
            Self::Ended => "every accepted job and redelivery reaches a final status",
            Self::Named => "one request makes one job, and no job is without a request",
            Self::Delivered => "what is COMPLETED was delivered: a receiver answered 2xx",
            Self::Reasons => "the reason of every failure is true",
            Self::Repeats => "every duplicate delivery has a recorded cause",
            Self::Moves => "rows change by legal transitions only",
            Self::Fences => "no write with a stale fencing token",
            Self::Seen => "a final status, once seen, stays",
            Self::Cancels => "what was cancelled is, and no callback of it follows",
            Self::Filters => "actions by filter change what they match, and nothing else",
            Self::Erased => "what was erased is never seen again",
            Self::Pauses => "while paused, nothing is claimed or called back",
            Self::Retention => "a request is deleted only when it is old enough",
            Self::Work => "a handler's result is stored before its callback, and stays",
            Self::Waits => "no wait is cut short or drawn out, whatever the clock says",
            Self::Sizes => "database, Redis and memory shrink to their limits again",
            Self::Faults => "every planned kind of fault was injected under load",
        }
    }
}

impl fmt::Display for CheckRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` honours the width that `Violation` asks for. `write_str` would ignore it.
        f.pad(self.as_str())
    }
}

/// One violation of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The rule.
    pub rule: CheckRule,
    /// The job, if the violation concerns one.
    pub id: Option<RequestId>,
    /// One sentence that describes it.
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

/// A violation found by a rule for the whole run.
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

/// The result of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// All violations, by job in the order of ids, then those of the whole run.
    pub violations: Vec<Violation>,
    /// The counts.
    pub summary: Summary,
}

impl Verdict {
    /// Whether there is no violation.
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// Violations per rule, without the rules that hold.
    pub fn by_rule(&self) -> BTreeMap<CheckRule, usize> {
        let mut counts = BTreeMap::new();
        for violation in &self.violations {
            *counts.entry(violation.rule).or_default() += 1;
        }
        counts
    }

    /// Renders the verdict: at most 20 violations, and the timelines of the first few jobs
    /// concerned, taken from `records`. Ends with a newline.
    pub fn render(&self, records: &[Record]) -> String {
        let jobs = self.summary.rows;
        if self.passed() {
            return format!("passed: no violations in the history of {jobs} jobs\n");
        }
        let mut text = format!("failed: {} violations", self.violations.len());
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

    /// The first violations of each rule in turn, so that a frequent one does not hide the others.
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
        // The sort is stable: within a rank, violations keep the order of `self.violations`.
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

#[cfg(test)]
mod tests {
    use super::CheckRule;

    #[test]
    fn a_report_can_name_every_rule_as_a_result_does() {
        for (index, rule) in CheckRule::ALL.into_iter().enumerate() {
            assert_eq!(
                rule as usize, index,
                "{rule}: in the order of its declaration"
            );
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.as_str());
        }
        let last = CheckRule::ALL.len() - 1;
        assert_eq!(
            CheckRule::Faults as usize,
            last,
            "the last one is the last of all"
        );
    }
}
