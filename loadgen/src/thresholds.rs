//! Thresholds: conditions such as `p99>50ms` under which a run fails. No I/O.
//!
//! * [`Threshold`]: parsed from the command line.
//! * [`Figures`]: what a run has measured, and the names of its figures.
//! * [`Judged`]: a threshold and what was measured.

mod figures;
mod judged;
#[cfg(test)]
mod tests;

use self::figures::{Named, Of, PROMOTION};
pub use self::{
    figures::{ChaosFigures, Figures, JobFigures, RecoveryFigures, RequestFigures},
    judged::{Judged, Measured, Unit, hold},
};
use crate::latency::{as_float, millis};

/// A command that takes thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Requests to one endpoint.
    Storm,
    /// Requests to both.
    Demo,
    /// Jobs under faults.
    Chaos,
}

/// Which requests figures are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Those of a storm. Their figures have short names: `p99`.
    Only,
    /// Those of a demo to `/sync`: `sync.p99`.
    Sync,
    /// Those of a demo to `/async`: `async.p99`.
    Async,
}

impl Side {
    fn prefix(self) -> &'static str {
        match self {
            Self::Only => "",
            Self::Sync => "sync.",
            Self::Async => "async.",
        }
    }
}

/// A condition under which a run fails: a figure, an operator and a bound.
#[derive(Clone, Debug)]
pub struct Threshold {
    text: String,
    figure: Figure,
    /// Whether what was measured, the first, meets the condition with the bound, the second.
    is_met: fn(f64, f64) -> bool,
    bound: Measured,
}

#[derive(Clone, Copy, Debug)]
enum Figure {
    Requests(Side, &'static Named<RequestFigures>),
    Jobs(&'static Named<JobFigures>),
    Chaos(&'static Named<ChaosFigures>),
}

type Operator = (&'static str, fn(f64, f64) -> bool);

/// The longer ones first: `>` is also the beginning of `>=`.
const OPERATORS: [Operator; 4] = [
    (">=", |measured, bound| measured >= bound),
    ("<=", |measured, bound| measured <= bound),
    (">", |measured, bound| measured > bound),
    ("<", |measured, bound| measured < bound),
];

/// Which figures a run can't have, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Every one of jobs: none are made.
    Jobs,
    /// How late jobs were: nobody knows how long they should take.
    Lateness,
    /// The recovery after a promotion: there is no standby.
    Promotion,
}

impl Threshold {
    /// Parses a threshold of this command.
    ///
    /// # Errors
    /// It is none. The error says what is accepted, and for an unknown figure lists all names.
    pub fn parse(text: &str, run: Run) -> Result<Self, String> {
        let parts = text.find(['>', '<', '=']).and_then(|at| {
            let (name, rest) = text.split_at(at);
            let found = OPERATORS
                .into_iter()
                .find_map(|(sign, is_met)| Some((is_met, rest.strip_prefix(sign)?)));
            found.map(|(is_met, bound)| (name.trim(), is_met, bound.trim()))
        });
        let (name, is_met, bound) = parts.ok_or_else(|| {
            format!(
                "it must be a figure, one of > >= < <=, and a bound, such as {}",
                run.example()
            )
        })?;
        let figure = Figure::parse(name, run)?;
        let bound = figure.bound(bound).map_err(|why| format!("{name} {why}"))?;
        Ok(Self {
            text: text.to_owned(),
            figure,
            is_met,
            bound,
        })
    }

    /// Checks that a run without `missing` has the figure.
    ///
    /// # Errors
    /// It has not. The error names the threshold.
    pub fn check(&self, missing: Missing) -> Result<(), String> {
        let why = match (missing, self.figure) {
            (Missing::Jobs, Figure::Jobs(_)) => "it is a figure of jobs, and /sync makes none",
            (Missing::Lateness, Figure::Jobs(it)) if it.name.starts_with("lateness.") => {
                "how late a job of a handler is, is not known; use callback and not lateness"
            }
            (Missing::Promotion, Figure::Chaos(it)) if it.name == PROMOTION => {
                "without --postgres no standby is promoted"
            }
            _ => return Ok(()),
        };
        Err(format!("--fail-if {}: {why}", self.text))
    }

    /// Compares with what was measured. A figure that was not measured fails the run, too: nothing
    /// shows that the condition was not met.
    fn judge(&self, figures: &Figures) -> Judged {
        let measured = self.figure.measure(figures, self.bound.unit);
        let is_met = |measured: Measured| (self.is_met)(measured.number, self.bound.number);
        Judged {
            fail_if: self.text.clone(),
            figure: self.figure.name(),
            exceeded: measured.is_none_or(is_met),
            measured,
        }
    }
}

impl Figures {
    /// Judges each threshold. Without one if the run was interrupted: it has not measured what it
    /// was to measure.
    pub fn judge(&self, thresholds: &[Threshold], interrupted: bool) -> Vec<Judged> {
        let thresholds = thresholds.iter().filter(|_| !interrupted);
        thresholds.map(|threshold| threshold.judge(self)).collect()
    }
}

impl Figure {
    fn parse(name: &str, run: Run) -> Result<Self, String> {
        run.figures().find(|it| it.name() == name).ok_or_else(|| {
            let names = run.figures().map(Self::name).collect::<Vec<_>>().join(", ");
            format!("there is no figure `{name}`; there are {names}")
        })
    }

    fn name(self) -> String {
        match self {
            Self::Requests(side, named) => format!("{}{}", side.prefix(), named.name),
            Self::Jobs(named) => named.name.to_owned(),
            Self::Chaos(named) => named.name.to_owned(),
        }
    }

    fn bound(self, text: &str) -> Result<Measured, &'static str> {
        match self {
            Self::Requests(_, named) => named.of.bound(text),
            Self::Jobs(named) => named.of.bound(text),
            Self::Chaos(named) => named.of.bound(text),
        }
    }

    fn measure(self, figures: &Figures, unit: Unit) -> Option<Measured> {
        match self {
            Self::Requests(side, named) => {
                let requests = match side {
                    Side::Only => &figures.requests,
                    Side::Sync => &figures.sync,
                    Side::Async => &figures.ack,
                };
                named.of.measure(requests.as_ref()?, unit)
            }
            Self::Jobs(named) => named.of.measure(figures.jobs.as_ref()?, unit),
            Self::Chaos(named) => named.of.measure(figures.chaos.as_ref()?, unit),
        }
    }
}

impl Run {
    fn example(self) -> &'static str {
        match self {
            Self::Storm => "p99>50ms or lost>0",
            Self::Demo => "async.p99>50ms or lost>0",
            Self::Chaos => "recovery.kill>5s or repeated>1%",
        }
    }

    /// All its figures.
    fn figures(self) -> impl Iterator<Item = Figure> {
        let sides: &[Side] = match self {
            Self::Storm => &[Side::Only],
            Self::Demo => &[Side::Sync, Side::Async],
            Self::Chaos => &[],
        };
        let (jobs, chaos) = match self {
            Self::Storm | Self::Demo => (JobFigures::NAMED, &[][..]),
            Self::Chaos => (&[][..], ChaosFigures::NAMED),
        };
        let requests = sides.iter().flat_map(|side| {
            let named = RequestFigures::NAMED.iter();
            named.map(|named| Figure::Requests(*side, named))
        });
        requests
            .chain(jobs.iter().map(Figure::Jobs))
            .chain(chaos.iter().map(Figure::Chaos))
    }
}

impl<T> Of<T> {
    /// Parses what the figure is compared with.
    fn bound(&self, text: &str) -> Result<Measured, &'static str> {
        match self {
            Self::Time(_) => storm_shared::duration::parse(text)
                .map(|time| Unit::Millis.of(millis(time)))
                .ok_or("is a time: compare it with a whole number and a unit, such as 50ms or 1s"),
            Self::Count { .. } => {
                let bound = match text.strip_suffix('%') {
                    Some(share) => number(share.trim_end())
                        .filter(|share| *share <= 100.0)
                        .map(|share| Unit::Percent.of(share)),
                    None => text.parse().ok().map(|it: u32| Unit::Count.of(it.into())),
                };
                bound.ok_or("is a count: compare it with a whole number, or a share such as 0.5%")
            }
            Self::Rate(_) => number(text)
                .map(|rate| Unit::PerSecond.of(rate))
                .ok_or("is a rate per second: compare it with a number, such as 1000"),
        }
    }

    /// Reads the figure in the unit of its bound.
    fn measure(&self, figures: &T, unit: Unit) -> Option<Measured> {
        let number = match *self {
            Self::Time(time) => millis(time(figures)?),
            Self::Rate(rate) => rate(figures),
            Self::Count { count, whole } => {
                let [count, whole] = [count, whole].map(|it| as_float(it(figures)));
                match unit {
                    // Nothing is no share of nothing.
                    Unit::Percent => (whole > 0.0).then_some(count * 100.0 / whole)?,
                    Unit::Millis | Unit::Count | Unit::PerSecond => count,
                }
            }
        };
        Some(unit.of(number))
    }
}

/// Digits, and a fraction if there is one. Rust also reads `inf`, `1e9` and `-0`.
fn number(text: &str) -> Option<f64> {
    let is_plain = text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    is_plain.then(|| text.parse().ok()).flatten()
}
