//! The specification of a report: its name and its number of records.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The simulated database wait of one record.
pub const WAIT_PER_RECORD: Duration = Duration::from_millis(10);

/// A report's name: 1 to 200 characters (Unicode scalar values).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReportName(String);

/// The name is empty or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("must have 1 to {} characters, not {length}", ReportName::MAX_CHARS)]
pub struct ReportNameError {
    length: usize,
}

impl ReportName {
    /// The longest name, in characters.
    pub const MAX_CHARS: usize = 200;

    /// The name as text.
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

/// A number of records within the bounds of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Records(u32);

/// The number of records is out of the endpoint's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("must be a whole number from 1 to {max}")]
pub struct RecordsError {
    max: u32,
}

impl Records {
    /// The most that `/sync` accepts: a client waits for the report, 10 ms a record.
    pub const MAX_SYNC: u32 = 49;
    /// The most that `/async` accepts.
    pub const MAX_ASYNC: u32 = 100_000;

    /// `count` records.
    ///
    /// # Errors
    /// `count` is not from 1 to `max`.
    pub fn new(count: u64, max: u32) -> Result<Self, RecordsError> {
        u32::try_from(count)
            .ok()
            .filter(|count| (1..=max).contains(count))
            .map(Self)
            .ok_or(RecordsError { max })
    }

    /// The number of records.
    pub const fn count(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Records {
    type Error = RecordsError;

    fn try_from(count: u32) -> Result<Self, Self::Error> {
        // The wider bound: this reads stored rows, of either endpoint.
        Self::new(count.into(), Self::MAX_ASYNC)
    }
}

impl From<Records> for u32 {
    fn from(records: Records) -> Self {
        records.0
    }
}

/// The specification of a report, and the JSON of the column `input_payload`. Equal specifications
/// give equal reports on every machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportSpec {
    /// The report's name.
    pub report_name: ReportName,
    /// The number of records that it covers.
    pub records: Records,
}

impl ReportSpec {
    /// The duration of the report on an idle machine: the sum of its waits.
    pub fn ideal_duration(&self) -> Duration {
        WAIT_PER_RECORD * self.records.count()
    }
}

#[cfg(test)]
mod tests {
    use super::{Records, ReportName};

    #[test]
    fn a_names_length_is_counted_in_characters_not_bytes() {
        assert!(ReportName::try_from("é".repeat(200)).is_ok());
        let error = ReportName::try_from("é".repeat(201)).unwrap_err();
        assert_eq!(error.to_string(), "must have 1 to 200 characters, not 201");
        assert!(ReportName::try_from(String::new()).is_err());
    }

    #[test]
    fn the_number_of_records_is_bounded_by_the_endpoint() {
        assert!(Records::new(49, Records::MAX_SYNC).is_ok());
        assert!(Records::new(50, Records::MAX_SYNC).is_err());
        assert!(Records::new(0, Records::MAX_ASYNC).is_err());
        assert!(Records::new(100_000, Records::MAX_ASYNC).is_ok());
        let error = Records::new(u64::MAX, Records::MAX_ASYNC).unwrap_err();
        assert_eq!(error.to_string(), "must be a whole number from 1 to 100000");
    }
}
