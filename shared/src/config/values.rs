//! Typed settings: numbers, addresses, durations.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use super::{error::SettingError, layers::Layers};
use crate::{duration, list, size};

/// The longest duration. Longer ones are mistakes, and adding them to the current time could
/// overflow.
const MAX_DURATION: Duration = Duration::from_hours(30 * 24);

/// The longest retention.
const MAX_RETENTION: Duration = Duration::from_hours(3650 * 24);

/// The most durations in a list.
const MAX_DURATIONS: usize = 100;

impl Layers {
    pub(super) fn number<T: FromStr + PartialOrd + Display>(
        &self,
        key: &str,
        bounds: RangeInclusive<T>,
    ) -> Result<T, SettingError> {
        let accepted = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        self.parse(key, accepted, |text| {
            text.parse().ok().filter(|n| bounds.contains(n))
        })
    }

    pub(super) fn address(&self, key: &str) -> Result<SocketAddr, SettingError> {
        let accepted = "address:port, such as 127.0.0.1:8000";
        self.parse(key, accepted, |text| text.parse().ok())
    }

    /// An address. An empty text means that there is none.
    pub(super) fn optional_address(&self, key: &str) -> Result<Option<SocketAddr>, SettingError> {
        let accepted = "nothing, or address:port, such as 127.0.0.1:8000";
        self.parse(key, accepted, |text| {
            if text.is_empty() {
                return Some(None);
            }
            text.parse().ok().map(Some)
        })
    }

    /// A size in bytes: one number and one unit.
    pub(super) fn size(
        &self,
        key: &str,
        bounds: RangeInclusive<usize>,
    ) -> Result<usize, SettingError> {
        let accepted = format!(
            "a number and a unit, from {} to {}",
            size::format(*bounds.start()),
            size::format(*bounds.end())
        );
        self.parse(key, accepted, |text| {
            size::parse(text).filter(|size| bounds.contains(size))
        })
    }

    /// A duration: one number and one unit.
    pub(super) fn duration(&self, key: &str) -> Result<Duration, SettingError> {
        let accepted = "a number and a unit, above zero and up to 30d, such as 250ms, 10s or 90m";
        self.parse(key, accepted, parse_duration)
    }

    /// A duration of at least `shortest`, which may be zero.
    pub(super) fn duration_from(
        &self,
        key: &str,
        shortest: Duration,
    ) -> Result<Duration, SettingError> {
        let bounds = format!("{} to 30d", humantime::format_duration(shortest));
        self.duration_within(key, shortest..=MAX_DURATION, &bounds)
    }

    /// A duration in `bounds`, which `shown` gives as a text.
    pub(super) fn duration_within(
        &self,
        key: &str,
        bounds: RangeInclusive<Duration>,
        shown: &str,
    ) -> Result<Duration, SettingError> {
        let accepted = format!("a number and a unit, from {shown}, such as 250ms, 10s or 90m");
        self.parse(key, accepted, |text| {
            duration::parse(text).filter(|duration| bounds.contains(duration))
        })
    }

    /// A duration that may be years long. Zero is none.
    pub(super) fn retention(&self, key: &str) -> Result<Option<Duration>, SettingError> {
        let accepted = "0 (for ever), or a number and a unit up to 3650d, such as 90m or 7d";
        self.parse(key, accepted, |text| {
            if text == "0" {
                return Some(None);
            }
            duration::parse(text)
                .filter(|duration| *duration <= MAX_RETENTION && !duration.is_zero())
                .map(Some)
        })
    }

    /// Durations, separated by commas or white space. An empty text is an empty list.
    pub(super) fn durations(&self, key: &str) -> Result<Vec<Duration>, SettingError> {
        let accepted = format!(
            "up to {MAX_DURATIONS} durations, separated by commas or white space, each a number \
             and a unit, above zero and up to 30d, such as 2s,4s,8s"
        );
        self.try_parse_list(key, |text| {
            let durations = list::entries(text)
                .filter(|entries| entries.len() <= MAX_DURATIONS)
                .and_then(|entries| entries.into_iter().map(parse_duration).collect());
            durations.ok_or_else(|| format!("expected {accepted}"))
        })
    }
}

/// A duration above zero.
fn parse_duration(text: &str) -> Option<Duration> {
    duration::parse(text)
        .filter(|duration| *duration <= MAX_DURATION)
        .filter(|duration| !duration.is_zero())
}
