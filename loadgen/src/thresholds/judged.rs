//! Thresholds after a run: what was measured, and whether it fails the run.

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// A threshold and what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The threshold, as it was given.
    pub fail_if: String,
    /// The name of its figure.
    pub figure: String,
    /// What was measured; none if nothing was.
    pub measured: Option<Measured>,
    /// Whether it fails the run: what was measured meets the condition, or nothing was measured.
    pub exceeded: bool,
}

/// A number and its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The number.
    pub number: f64,
    /// Its unit.
    pub unit: Unit,
}

/// The unit of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Millis,
    /// A count.
    Count,
    /// Percent of the requests that were due, or of the jobs that were accepted.
    Percent,
    /// Per second.
    PerSecond,
}

impl Unit {
    /// This number, in this unit.
    pub fn of(self, number: f64) -> Measured {
        Measured { number, unit: self }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::Millis => Some("ms"),
            Self::Count => None,
            Self::Percent => Some("%"),
            Self::PerSecond => Some("per_s"),
        }
    }
}

/// Whether no threshold fails the run.
pub fn hold(thresholds: &[Judged]) -> bool {
    thresholds.iter().all(|judged| !judged.exceeded)
}

/// In JSON, `measured` is a number, and `unit` is `ms`, `%`, `per_s`, or null for a count. Both are
/// null if nothing was measured.
impl Serialize for Judged {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = self.measured.map(|measured| measured.number);
        let unit = self.measured.and_then(|measured| measured.unit.name());
        let mut fields = serializer.serialize_struct("Judged", 5)?;
        fields.serialize_field("fail_if", &self.fail_if)?;
        fields.serialize_field("figure", &self.figure)?;
        fields.serialize_field("measured", &number)?;
        fields.serialize_field("unit", &unit)?;
        fields.serialize_field("exceeded", &self.exceeded)?;
        fields.end()
    }
}
