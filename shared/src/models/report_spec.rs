//! What a client asks for: a report's name and its number of records.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How long one record waits for its (simulated) database.
pub const WAIT_PER_RECORD: Duration = Duration::from_millis(10);

/// A name of 1 to 200 characters (Unicode scalar values).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReportName(String);

/// A report's name is empty or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("must have 1 to {} characters, not {length}", ReportName::MAX_CHARS)]
pub struct ReportNameError {
    length: usize,
}

impl ReportName {
    /// The longest name, in characters.
    pub const MAX_CHARS: usize = 200;

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ReportName {
    type Error = ReportNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let length = name.chars().count();
        if (1..=Self::MAX_CHARS).contains(&length) {
            Ok(Self(name))
        } else {
            Err(ReportNameError { length })
        }
    }
}

impl From<ReportName> for String {
    fn from(name: ReportName) -> Self {
        name.0
    }
}

/// A number of records, at least 1 and at most what the endpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Records(u32);

/// A number of records outside what the endpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("must be a whole number from 1 to {max}")]
pub struct RecordsError {
    max: u32,
}

impl Records {
    /// The most that `/sync` takes: what fits into a client's patience.
    pub const MAX_SYNC: u32 = 49;
    /// The most that `/async` takes.
    pub const MAX_ASYNC: u32 = 100_000;

    /// `count` records, if that is 1 to `max`.
    ///
    /// # Errors
    /// A count outside these bounds.
    pub fn new(count: u64, max: u32) -> Result<Self, RecordsError> {
        u32::try_from(count)
            .ok()
            .filter(|count| (1..=max).contains(count))
            .map(Self)
            .ok_or(RecordsError { max })
    }

    /// The number.
    pub const fn count(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Records {
    type Error = RecordsError;

    fn try_from(count: u32) -> Result<Self, Self::Error> {
        Self::new(count.into(), Self::MAX_ASYNC)
    }
}

impl From<Records> for u32 {
    fn from(records: Records) -> Self {
        records.0
    }
}

/// What a report is made of, and the JSON of the column `input_payload`. Equal specs give equal
/// reports on every machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportSpec {
    /// Its name.
    pub report_name: ReportName,
    /// How many records it sums up.
    pub records: Records,
}

impl ReportSpec {
    /// The time that the report's waits take on an idle machine.
    pub fn ideal_duration(&self) -> Duration {
        WAIT_PER_RECORD * self.records.count()
    }
}

#[cfg(test)]
mod tests {
    use super::{Records, ReportName};

    #[test]
    fn a_name_is_counted_in_characters_not_bytes() {
        assert!(ReportName::try_from("é".repeat(200)).is_ok());
        let error = ReportName::try_from("é".repeat(201)).unwrap_err();
        assert_eq!(error.to_string(), "must have 1 to 200 characters, not 201");
        assert!(ReportName::try_from(String::new()).is_err());
    }

    #[test]
    fn records_keep_to_their_endpoints_bounds() {
        assert!(Records::new(49, Records::MAX_SYNC).is_ok());
        assert!(Records::new(50, Records::MAX_SYNC).is_err());
        assert!(Records::new(0, Records::MAX_ASYNC).is_err());
        assert!(Records::new(100_000, Records::MAX_ASYNC).is_ok());
        let error = Records::new(u64::MAX, Records::MAX_ASYNC).unwrap_err();
        assert_eq!(error.to_string(), "must be a whole number from 1 to 100000");
    }
}
