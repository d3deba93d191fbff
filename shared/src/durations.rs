//! Durations, counted by size: from such counts come the percentiles of a moment.
//!
//! Counts only grow, so that the difference of two is what happened in between, and the counts of
//! several processes add up. Each bucket is an eighth of an octave wide: a percentile is off by a
//! tenth at most.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// From 0.1 ms to four days.
const BUCKETS: usize = 256;

/// The upper bound of the first bucket, in seconds.
const FIRST: f64 = 0.000_1;

/// The buckets of one octave: of durations up to the double.
const PER_OCTAVE: f64 = 8.0;

/// Counts durations as they happen.
#[derive(Debug)]
pub struct DurationRecorder([AtomicU64; BUCKETS]);

/// How many durations there were of each size. Its JSON has a pair for each size that occurs: the
/// number of its bucket, and the count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationCounts([u64; BUCKETS]);

impl Default for DurationRecorder {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Default for DurationCounts {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl DurationRecorder {
    /// Counts one.
    pub fn record(&self, duration: Duration) {
        self.0[bucket(duration)].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts so far.
    pub fn counts(&self) -> DurationCounts {
        DurationCounts(array::from_fn(|it| self.0[it].load(Ordering::Relaxed)))
    }
}

impl DurationCounts {
    /// What was counted after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self(array::from_fn(|it| {
            self.0[it].saturating_sub(earlier.0[it])
        }))
    }

    /// Adds the counts of another process.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum = sum.saturating_add(count);
        }
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, it| sum.saturating_add(*it))
    }

    /// The duration that this share of all does not exceed, of 0 to 1. `None` if there are none.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of 2^53 is never reached, and an estimate may be off"
    )]
    pub fn percentile(&self, share: f64) -> Option<Duration> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = (share * total as f64).max(1.0);
        let mut below = 0.0;
        for (number, count) in self.0.iter().enumerate() {
            let count = *count as f64;
            if below + count >= rank {
                // Within the bucket, as if its durations were spread evenly.
                let part = (rank - below) / count;
                let exponent = (number as f64 - 1.0 + part) / PER_OCTAVE;
                return Duration::try_from_secs_f64(FIRST * exponent.exp2()).ok();
            }
            below += count;
        }
        None
    }
}

/// The number of the bucket that counts this duration.
fn bucket(duration: Duration) -> usize {
    let octaves = (duration.as_secs_f64() / FIRST).log2();
    let number = (octaves * PER_OCTAVE).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates: a shorter one is in the first bucket, and none is negative"
    )]
    let number = number.max(0.0) as usize;
    number.min(BUCKETS - 1)
}

impl Serialize for DurationCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = self.0.iter().enumerate();
        serializer.collect_seq(counts.filter(|(_, count)| **count > 0))
    }
}

impl<'de> Deserialize<'de> for DurationCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut counts = Self::default();
        for (number, count) in Vec::<(usize, u64)>::deserialize(deserializer)? {
            let slot = counts.0.get_mut(number);
            *slot.ok_or_else(|| D::Error::custom("no such bucket"))? = count;
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BUCKETS, DurationCounts, DurationRecorder};

    fn counts(durations: impl IntoIterator<Item = Duration>) -> DurationCounts {
        let recorder = DurationRecorder::default();
        for duration in durations {
            recorder.record(duration);
        }
        recorder.counts()
    }

    #[test]
    fn a_percentile_is_off_by_a_tenth_at_most() {
        let millis = (1..=1000).map(Duration::from_millis);
        let counts = counts(millis);
        assert_eq!(counts.total(), 1000);
        for (share, exact) in [(0.5, 0.5), (0.95, 0.95), (0.99, 0.99), (0.01, 0.01)] {
            let found = counts.percentile(share).unwrap().as_secs_f64();
            assert!((found / exact - 1.0).abs() < 0.1, "{share}: {found}");
        }
        // Equal ones are anywhere in their bucket.
        for millis in 1..=200 {
            let exact = Duration::from_millis(millis).as_secs_f64();
            let all = self::counts([Duration::from_millis(millis); 3]);
            for share in [0.0, 0.5, 0.99, 1.0] {
                let found = all.percentile(share).unwrap().as_secs_f64();
                assert!(
                    (found / exact - 1.0).abs() < 0.1,
                    "{share} of {millis}: {found}"
                );
            }
        }
    }

    #[test]
    fn none_have_no_percentile_and_the_shortest_and_the_longest_are_counted() {
        assert_eq!(DurationCounts::default().percentile(0.5), None);
        let both = counts([Duration::ZERO, Duration::MAX]);
        assert_eq!((both.0[0], both.0[BUCKETS - 1]), (1, 1));
        assert!(both.percentile(0.5).unwrap() <= Duration::from_micros(100));
        assert!(both.percentile(1.0).unwrap() > Duration::from_hours(24 * 4));
    }

    #[test]
    fn counts_add_up_and_their_difference_is_what_came_between() {
        let [early, late] = [1, 5].map(|ms| counts([Duration::from_millis(ms)]));
        let mut sum = early.clone();
        sum.add(&late);
        assert_eq!(sum.total(), 2);
        assert_eq!(sum.since(&early), late);
        // A process that has begun anew counts from zero.
        assert_eq!(early.since(&late), early);
    }

    #[test]
    fn the_json_has_what_occurs_and_no_other_bucket_is_read() {
        let counts = counts([Duration::ZERO, Duration::ZERO, Duration::MAX]);
        let json = serde_json::to_string(&counts).unwrap();
        assert_eq!(json, "[[0,2],[255,1]]");
        assert_eq!(
            serde_json::from_str::<DurationCounts>(&json).unwrap(),
            counts
        );
        for broken in ["[[256,1]]", "[[0,-1]]", "[[0]]", "{}", "[1]"] {
            assert!(
                serde_json::from_str::<DurationCounts>(broken).is_err(),
                "{broken}"
            );
        }
    }
}
