//! How far jobs ended from the `expected_at` of their `202`. No I/O.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};

use crate::latency::{Latencies, millis};

/// A job that ended by more than this after it was expected is late.
const LATE: Duration = Duration::from_secs(1);

/// The differences between the actual and the expected end of jobs.
#[derive(Clone, Debug, Default)]
pub struct Deviations {
    early: Latencies,
    late: Latencies,
    more_than_late: u64,
}

impl Deviations {
    /// Records a job. Differences above one hour count as one hour.
    pub fn record(&mut self, expected: Timestamp, actual: Timestamp) {
        let difference = actual.duration_since(expected);
        let size = difference.unsigned_abs();
        if difference.is_negative() {
            self.early.record(size);
        } else {
            self.late.record(size);
            self.more_than_late += u64::from(size > LATE);
        }
    }

    /// Their distribution; none if nothing was recorded.
    pub fn summary(&self) -> Option<Deviation> {
        let jobs = self.early.count() + self.late.count();
        (jobs > 0).then(|| Deviation {
            jobs,
            late: self.more_than_late,
            p5: self.at(50),
            p50: self.at(500),
            p95: self.at(950),
            p99: self.at(990),
            max: self.at(1000),
        })
    }

    /// The smallest difference that covers so many thousandths of the jobs.
    fn at(&self, thousandths: u64) -> SignedDuration {
        let (early, late) = (self.early.count(), self.late.count());
        let rank = ((early + late) * thousandths).div_ceil(1000).max(1);
        // The earliest job comes first.
        if rank <= early {
            -signed(self.early.ranked(early - rank + 1))
        } else {
            signed(self.late.ranked(rank - early))
        }
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// The distribution of the actual minus the expected end, in milliseconds in JSON: negative where
/// a job ended before it was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Deviation {
    /// The jobs with an `expected_at` and a correct end.
    pub jobs: u64,
    /// Those that ended more than 1 s later than expected.
    pub late: u64,
    /// The 5th percentile.
    #[serde(rename = "p5_ms", serialize_with = "as_millis")]
    pub p5: SignedDuration,
    /// The median.
    #[serde(rename = "p50_ms", serialize_with = "as_millis")]
    pub p50: SignedDuration,
    /// The 95th percentile.
    #[serde(rename = "p95_ms", serialize_with = "as_millis")]
    pub p95: SignedDuration,
    /// The 99th percentile.
    #[serde(rename = "p99_ms", serialize_with = "as_millis")]
    pub p99: SignedDuration,
    /// The maximum.
    #[serde(rename = "max_ms", serialize_with = "as_millis")]
    pub max: SignedDuration,
}

fn as_millis<S: Serializer>(duration: &SignedDuration, serializer: S) -> Result<S::Ok, S::Error> {
    let size = millis(duration.unsigned_abs());
    serializer.serialize_f64(if duration.is_negative() { -size } else { size })
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::Deviations;

    fn of(millis: impl IntoIterator<Item = i64>) -> Deviations {
        let mut deviations = Deviations::default();
        let expected: Timestamp = "2026-11-24T08:00:00Z".parse().unwrap();
        for ms in millis {
            deviations.record(expected, expected + SignedDuration::from_millis(ms));
        }
        deviations
    }

    /// Allows for the histogram's error of 0.1 %.
    fn assert_near(actual: SignedDuration, expected_ms: i64) {
        let (actual, expected) = (actual.as_micros(), i128::from(expected_ms) * 1000);
        let error = (actual - expected).abs();
        assert!(
            error <= expected.abs() / 1000,
            "{actual} us is not {expected_ms} ms"
        );
    }

    #[test]
    fn percentiles_run_from_the_earliest_to_the_latest_job() {
        let summary = of(-300..700).summary().unwrap();
        assert_eq!((summary.jobs, summary.late), (1000, 0));
        assert_near(summary.p5, -251);
        assert_near(summary.p50, 199);
        assert_near(summary.p95, 649);
        assert_near(summary.p99, 689);
        assert_near(summary.max, 699);
        let early = of([-10, -20, -4000]).summary().unwrap();
        assert_near(early.p5, -4000);
        assert_near(early.p50, -20);
        assert_near(early.max, -10);
    }

    #[test]
    fn a_job_is_late_by_more_than_a_second() {
        let summary = of([-5000, 0, 1000, 1001, 9_999_999]).summary().unwrap();
        assert_eq!((summary.jobs, summary.late), (5, 2));
        assert_near(summary.max, 3_600_000);
        assert_eq!(of([]).summary(), None);
    }

    #[test]
    fn json_has_signed_milliseconds() {
        let json = serde_json::to_value(of([-250]).summary()).unwrap();
        assert!(
            (json["p50_ms"].as_f64().unwrap() + 250.0).abs() < 0.5,
            "{json}"
        );
    }
}
