//! Typed settings: numbers, addresses, durations.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use super::{error::SettingError, layers::Layers};

/// The longest duration. Longer ones are mistakes, and adding them to the current time could
/// overflow.
const MAX_DURATION: Duration = Duration::from_hours(30 * 24);

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

    pub(super) fn duration(&self, key: &str) -> Result<Duration, SettingError> {
        let accepted = "a duration above zero, up to 30d, such as 250ms, 10s or 5m";
        self.parse(key, accepted, parse_duration)
    }

    /// A duration of at least `shortest`.
    pub(super) fn duration_from(
        &self,
        key: &str,
        shortest: Duration,
    ) -> Result<Duration, SettingError> {
        let accepted = format!(
            "a duration from {} to 30d, such as 250ms, 10s or 5m",
            humantime::format_duration(shortest)
        );
        self.parse(key, accepted, |text| {
            parse_duration(text).filter(|duration| *duration >= shortest)
        })
    }

    /// Comma-separated durations. An empty text is an empty list.
    pub(super) fn durations(&self, key: &str) -> Result<Vec<Duration>, SettingError> {
        let accepted = format!(
            "up to {MAX_DURATIONS} comma-separated durations, each above zero and up to 30d, such \
             as 2s,4s,8s"
        );
        self.parse(key, accepted, |text| {
            // Splitting an empty text would give one empty duration.
            if text.is_empty() {
                return Some(Vec::new());
            }
            let durations = text.split(',').map(parse_duration);
            let durations: Vec<_> = durations.collect::<Option<_>>()?;
            (durations.len() <= MAX_DURATIONS).then_some(durations)
        })
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim())
        .ok()
        .filter(|duration| !duration.is_zero() && *duration <= MAX_DURATION)
}
