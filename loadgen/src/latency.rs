//! A latency histogram, and its percentiles. No I/O.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

/// The upper bound of the histogram; longer durations are recorded as this.
const LONGEST: Duration = Duration::from_hours(1);

/// Significant digits: three keep the error of a percentile within 0.1 %.
const DIGITS: u8 = 3;

/// A histogram of durations, in microseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, micros(LONGEST), DIGITS);
        #[expect(
            clippy::expect_used,
            reason = "the bounds are constants, and a test covers them"
        )]
        Self(histogram.expect("the constant bounds are valid"))
    }
}

impl Latencies {
    /// Records a duration. Durations above one hour count as one hour.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(micros(latency));
    }

    /// The number of recorded durations.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The one at this rank, from 1 for the shortest; zero if nothing was recorded.
    pub fn ranked(&self, rank: u64) -> Duration {
        // At most two million each, so a u32 is enough.
        let [rank, all] = [rank, self.count()].map(|it| u32::try_from(it).unwrap_or(u32::MAX));
        let quantile = f64::from(rank) / f64::from(all.max(1));
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    /// The percentiles; none if nothing was recorded.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let at = |quantile| Duration::from_micros(self.0.value_at_quantile(quantile));
        (!self.0.is_empty()).then(|| Percentiles {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_micros(self.0.max()),
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The percentiles of a set of durations, in milliseconds in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// The median.
    #[serde(rename = "p50_ms", serialize_with = "as_millis")]
    pub p50: Duration,
    /// The 95th percentile.
    #[serde(rename = "p95_ms", serialize_with = "as_millis")]
    pub p95: Duration,
    /// The 99th percentile.
    #[serde(rename = "p99_ms", serialize_with = "as_millis")]
    pub p99: Duration,
    /// The 99.9th percentile.
    #[serde(rename = "p99_9_ms", serialize_with = "as_millis")]
    pub p999: Duration,
    /// The maximum.
    #[serde(rename = "max_ms", serialize_with = "as_millis")]
    pub max: Duration,
}

impl Percentiles {
    /// Each percentile minus `duration`, but at least zero.
    pub fn beyond(&self, duration: Duration) -> Self {
        Self {
            p50: self.p50.saturating_sub(duration),
            p95: self.p95.saturating_sub(duration),
            p99: self.p99.saturating_sub(duration),
            p999: self.p999.saturating_sub(duration),
            max: self.max.saturating_sub(duration),
        }
    }
}

/// Serialises a duration as fractional milliseconds.
///
/// # Errors
/// The serialiser failed.
pub fn as_millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(millis(*duration))
}

/// A duration in milliseconds, to the microsecond.
pub fn millis(duration: Duration) -> f64 {
    // Round to the microsecond first; otherwise 0.1 ms can print as 0.09999999.
    Duration::from_micros(micros(duration)).as_secs_f64() * 1e6 / 1e3
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Latencies, millis};

    fn of(millis: impl IntoIterator<Item = u64>) -> Latencies {
        let mut latencies = Latencies::default();
        millis
            .into_iter()
            .for_each(|ms| latencies.record(Duration::from_millis(ms)));
        latencies
    }

    /// Allows for the histogram's error of 0.1 %.
    fn assert_near(actual: Duration, expected_ms: u32) {
        let ratio = millis(actual) / f64::from(expected_ms);
        assert!(
            (0.999..=1.001).contains(&ratio),
            "{actual:?} is not about {expected_ms} ms"
        );
    }

    #[test]
    fn a_percentile_is_the_smallest_value_that_covers_its_share() {
        let percentiles = of(1..=1000).percentiles().unwrap();
        assert_near(percentiles.p50, 500);
        assert_near(percentiles.p95, 950);
        assert_near(percentiles.p99, 990);
        assert_near(percentiles.p999, 999);
        assert_near(percentiles.max, 1000);
    }

    #[test]
    fn one_slow_answer_in_fifty_shows_in_the_maximum_and_not_in_the_95th_percentile() {
        let percentiles = of((0..50).map(|n| if n == 7 { 5000 } else { 10 }))
            .percentiles()
            .unwrap();
        assert_near(percentiles.p95, 10);
        assert_near(percentiles.p99, 5000);
        assert_near(percentiles.max, 5000);
    }

    #[test]
    fn an_empty_histogram_has_no_percentiles() {
        assert!(Latencies::default().percentiles().is_none());
    }

    #[test]
    fn a_duration_over_an_hour_is_recorded_as_an_hour() {
        let latencies = of([7_200_000]);
        assert_eq!(latencies.count(), 1);
        assert_near(latencies.percentiles().unwrap().max, 3_600_000);
    }

    #[test]
    fn lateness_is_never_negative() {
        let percentiles = of([90, 100, 1150]).percentiles().unwrap();
        let late = percentiles.beyond(Duration::from_millis(150));
        assert_eq!(late.p50, Duration::ZERO);
        assert!((999..=1001).contains(&late.max.as_millis()), "{late:?}");
    }
}
