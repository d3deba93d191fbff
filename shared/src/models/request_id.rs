//! The id of a request.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The id of a row in `requests`: a `UUIDv7` (RFC 9562), which begins with the time in
/// milliseconds.
///
/// Ids of one process increase, so new rows are appended to the index instead of being inserted all
/// over it. That is what the time is for: it stays ahead when the wall clock is set back, so no age
/// is inferred from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A new id from the wall clock and random bits.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id as a UUID.
    #[cfg(feature = "postgres")]
    pub(crate) fn uuid(self) -> Uuid {
        self.0
    }

    /// The id that a UUID is.
    #[cfg(feature = "postgres")]
    pub(crate) fn of(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The time in the id, in whole milliseconds.
    ///
    /// Returns the epoch for an id that is not a `UUIDv7`. Only a row that was written by hand has
    /// such an id.
    pub fn time(self) -> Timestamp {
        let (seconds, nanos) = self.0.get_timestamp().map_or((0, 0), |at| at.to_unix());
        // The casts are lossless: a UUIDv7 has 48 bits of milliseconds. Its last years are beyond
        // jiff's range (year 9999).
        Timestamp::new(seconds.cast_signed(), nanos.cast_signed()).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The id as a number, and its second half, which is random and never zero.
    pub(super) fn as_numbers(self) -> (u128, u64) {
        // Never zero in a UUIDv7, whose second half begins with the variant bits `10` (RFC 9562).
        (self.0.as_u128(), self.0.as_u64_pair().1)
    }

    /// The smallest id with the time `moment` or a later one.
    pub fn floor(moment: Timestamp) -> Self {
        // Before 1970 there are no ids, so every id is later.
        let millis = u64::try_from(moment.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RequestId {
    type Err = uuid::Error;

    /// Parses the hyphenated form in either case, and the other forms of a UUID.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::RequestId;

    #[test]
    fn an_id_lies_between_the_floors_before_and_after_its_generation() {
        let before = RequestId::floor(Timestamp::now());
        let id = RequestId::generate();
        let after = RequestId::floor(Timestamp::now() + Duration::from_millis(2));
        assert!(before <= id && id < after, "{before} <= {id} < {after}");
    }

    #[test]
    fn ids_sort_as_their_text_does() {
        let mut ids: Vec<_> = (0..1000).map(|_| RequestId::generate()).collect();
        ids.sort_by_key(ToString::to_string);
        assert!(ids.is_sorted());
    }

    #[test]
    fn an_id_contains_its_creation_time() {
        let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        assert_eq!(
            format!("{:.3}", RequestId::floor(at).time()),
            "2023-11-14T22:13:20.123Z"
        );
    }
}
