//! A latency histogram, its percentiles and its distribution. No I/O.

use std::time::Duration;

use hdrhistogram::{Counter, Histogram};
use serde::{Serialize, Serializer, ser::SerializeTuple as _};

/// The upper bound of the histogram; longer durations are recorded as this.
const LONGEST: Duration = Duration::from_hours(1);

/// Significant digits: three keep the error of a percentile within 0.1 %.
const DIGITS: u8 = 3;

/// Significant digits of a small histogram: two keep the error of a percentile within 1 %.
const FEW_DIGITS: u8 = 2;

/// The buckets of a distribution for each factor of ten: each bound is 12 % above the one before.
const BUCKETS_PER_DECADE: f64 = 20.0;

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
        percentiles(&self.0)
    }

    /// The buckets that are not empty, from the shortest durations to the longest.
    pub fn buckets(&self) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = Vec::new();
        let mut bounds = bounds();
        let mut upper = Duration::ZERO;
        for step in self.0.iter_recorded() {
            let latency = Duration::from_micros(step.value_iterated_to());
            while upper < latency {
                upper = bounds.next().unwrap_or(Duration::MAX);
            }
            let count = step.count_since_last_iteration();
            match buckets.last_mut() {
                Some(last) if last.upper == upper => last.count += count,
                _ => buckets.push(Bucket { upper, count }),
            }
        }
        buckets
    }
}

/// The upper bounds of the buckets of every distribution, without end: 1 µs, and so on.
fn bounds() -> impl Iterator<Item = Duration> {
    (0_u32..).map(|number| {
        let micros = 10_f64.powf(f64::from(number) / BUCKETS_PER_DECADE);
        // Over an hour after 192 of them, so this is far from the largest duration.
        Duration::from_secs_f64(micros / 1e6)
    })
}

/// A histogram for short times, of which there are many: it takes some kilobytes and not some
/// hundred, and its percentiles are within 1 %.
#[derive(Clone, Debug)]
pub struct SmallLatencies(Histogram<u32>);

impl Default for SmallLatencies {
    fn default() -> Self {
        #[expect(
            clippy::expect_used,
            reason = "the number of digits is a constant, and a test covers it"
        )]
        // It grows with the longest duration.
        Self(Histogram::new(FEW_DIGITS).expect("the constant number of digits is valid"))
    }
}

impl SmallLatencies {
    /// Records a duration. Durations above one hour count as one hour.
    pub fn record(&mut self, latency: Duration) {
        // `saturating_record` would not let it grow. An hour always fits, so this never fails.
        let _ = self.0.record(micros(latency.min(LONGEST)));
    }

    /// Adds all that the other has recorded.
    pub fn add(&mut self, other: &Self) {
        // It grows as it needs to, up to an hour, so this never fails.
        let _ = self.0.add(&other.0);
    }

    /// The percentiles; none if nothing was recorded.
    pub fn percentiles(&self) -> Option<Percentiles> {
        percentiles(&self.0)
    }
}

fn percentiles<C: Counter>(histogram: &Histogram<C>) -> Option<Percentiles> {
    let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
    (!histogram.is_empty()).then(|| Percentiles {
        p50: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        max: Duration::from_micros(histogram.max()),
    })
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

/// How many durations lie up to `upper`, and above the bound before it. In JSON, a pair of the
/// bound in milliseconds and the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The upper bound, inclusive.
    pub upper: Duration,
    /// The number of durations.
    pub count: u64,
}

impl Serialize for Bucket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut pair = serializer.serialize_tuple(2)?;
        pair.serialize_element(&millis(self.upper))?;
        pair.serialize_element(&self.count)?;
        pair.end()
    }
}

/// The distributions of a run: buckets whose bounds grow by 12 % each, without those that are
/// empty. The bounds are the same in every run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Distribution {
    /// The latencies of successful requests.
    pub answer: Vec<Bucket>,
    /// The times to completion of correct jobs.
    pub completion: Vec<Bucket>,
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

    use super::{Bucket, Latencies, SmallLatencies, millis};

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
    fn an_empty_histogram_has_no_percentiles_and_no_buckets() {
        assert!(Latencies::default().percentiles().is_none());
        assert!(SmallLatencies::default().percentiles().is_none());
        assert!(Latencies::default().buckets().is_empty());
    }

    #[test]
    fn the_buckets_of_a_distribution_hold_every_duration_below_their_bounds() {
        let latencies = of([1, 1, 1, 40, 40, 41, 3_600_000, 7_200_000]);
        let buckets = latencies.buckets();
        let counts: Vec<_> = buckets.iter().map(|bucket| bucket.count).collect();
        assert_eq!(counts, [3, 3, 2]);
        for (bucket, ms) in buckets.iter().zip([1, 41, 3_600_000]) {
            // Above the duration, and at most the 12 % of one bucket and the histogram's error.
            let ratio = millis(bucket.upper) / f64::from(ms);
            assert!((1.0..1.14).contains(&ratio), "{bucket:?} for {ms} ms");
        }
    }

    #[test]
    fn a_bucket_is_a_pair_in_json() {
        let (upper, count) = (Duration::from_micros(1122), 7);
        let json = serde_json::to_string(&Bucket { upper, count }).unwrap();
        assert_eq!(json, "[1.122,7]");
    }

    #[test]
    fn small_histograms_add_up_and_grow_up_to_an_hour() {
        let small = |range: std::ops::RangeInclusive<u64>| {
            let mut small = SmallLatencies::default();
            range.for_each(|ms| small.record(Duration::from_millis(ms)));
            small
        };
        let mut all = small(1..=500);
        all.add(&small(501..=1000));
        let percentiles = all.percentiles().unwrap();
        for (found, expected) in [(percentiles.p50, 500.0), (percentiles.max, 1000.0)] {
            let ratio = millis(found) / expected;
            assert!((0.99..=1.01).contains(&ratio), "{found:?}");
        }
        all.record(Duration::from_hours(2));
        let ratio = millis(all.percentiles().unwrap().max) / 3_600_000.0;
        assert!((0.99..=1.01).contains(&ratio), "{ratio}");
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
