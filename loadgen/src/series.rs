//! A run as a time series: what was sent, answered and completed in each interval. No I/O, and no
//! clock: every event says when it was.
//!
//! * [`Recorder`]: takes events, and gives a [`Series`] of at most [`MAX_POINTS`] points.
//! * [`Recording`]: a recorder that tasks share.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    answers::RequestFailure,
    latency::{Percentiles, SmallLatencies},
};

/// The most points of a series. When a run gets longer, neighbours are merged and the interval
/// doubles, so that an hour takes no more memory than a minute.
pub const MAX_POINTS: usize = 240;

/// The interval of a run of up to 24 seconds.
const SHORTEST: Duration = Duration::from_millis(100);

/// A run in intervals of equal length. Those without an event are there, too; the last one ends
/// with the last event, and may be shorter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// The length of an interval.
    #[serde(rename = "interval_ms", serialize_with = "as_whole_millis")]
    pub interval: Duration,
    /// The intervals, from the run's start.
    pub points: Vec<Point>,
}

/// One interval of a run. Counts are those of the interval, not from the run's start.
///
/// An answer counts in the interval in which it arrived, as a completed job does: what a service
/// achieved in a second is what came out of it in that second. Its latency counts there, too,
/// though it is measured from the moment that the request was due, which may be several intervals
/// earlier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The interval's start, from the run's start.
    #[serde(rename = "at_ms", serialize_with = "as_whole_millis")]
    pub at: Duration,
    /// Requests that were due.
    pub offered: u64,
    /// Requests that were sent. One that was due and not sent was over the limit in flight.
    pub sent: u64,
    /// Successful answers.
    pub ok: u64,
    /// Answers of an API that sheds load: 503 or 429.
    pub refused: u64,
    /// Requests that failed otherwise, such as by a timeout.
    pub failed: u64,
    /// Requests that were sent and not yet answered, at the interval's end.
    pub in_flight: u64,
    /// The latencies of the successful answers; none without one.
    pub answer: Option<Percentiles>,
    /// Jobs that were found to be correctly completed.
    pub completed: u64,
    /// Their times to completion; none without one.
    pub completion: Option<Percentiles>,
}

/// How a request that was sent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a successful answer.
    Ok,
    /// With a 503 or 429.
    Refused,
    /// Otherwise.
    Failed,
}

impl Outcome {
    /// The outcome of a request; none if it was not sent.
    pub fn of<T>(answer: &Result<T, RequestFailure>) -> Option<Self> {
        match answer {
            Ok(_) => Some(Self::Ok),
            Err(RequestFailure::NotSent) => None,
            Err(RequestFailure::Refused(_)) => Some(Self::Refused),
            Err(_) => Some(Self::Failed),
        }
    }
}

/// Records the events of a run. An event costs an addition or two, and a latency an entry of a
/// small histogram. All times count from the run's start.
#[derive(Debug)]
pub struct Recorder {
    interval: Duration,
    intervals: Vec<Interval>,
    last_ok: Duration,
}

#[derive(Debug, Default)]
struct Interval {
    offered: u64,
    sent: u64,
    ok: u64,
    refused: u64,
    failed: u64,
    answer: SmallLatencies,
    completed: u64,
    completion: SmallLatencies,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            interval: SHORTEST,
            intervals: Vec::new(),
            last_ok: Duration::ZERO,
        }
    }
}

impl Recorder {
    /// A request was due at `at`.
    pub fn offered(&mut self, at: Duration) {
        self.interval_at(at).offered += 1;
    }

    /// A request was sent at `at`.
    pub fn sent(&mut self, at: Duration) {
        self.interval_at(at).sent += 1;
    }

    /// A request that had been sent ended at `at`, this long after it was due.
    pub fn answered(&mut self, at: Duration, outcome: Outcome, latency: Duration) {
        let interval = self.interval_at(at);
        match outcome {
            Outcome::Ok => {
                interval.ok += 1;
                interval.answer.record(latency);
                self.last_ok = self.last_ok.max(at);
            }
            Outcome::Refused => interval.refused += 1,
            Outcome::Failed => interval.failed += 1,
        }
    }

    /// A job was found to be correctly completed at `at`. It took this long.
    pub fn completed(&mut self, at: Duration, took: Duration) {
        let interval = self.interval_at(at);
        interval.completed += 1;
        interval.completion.record(took);
    }

    /// When the last successful answer arrived; zero without one.
    pub fn last_ok(&self) -> Duration {
        self.last_ok
    }

    /// The series so far.
    pub fn series(&self) -> Series {
        let (mut at, mut in_flight) = (Duration::ZERO, 0_u64);
        let mut points = Vec::with_capacity(self.intervals.len());
        for interval in &self.intervals {
            let ended = interval.ok + interval.refused + interval.failed;
            in_flight = (in_flight + interval.sent).saturating_sub(ended);
            points.push(interval.point(at, in_flight));
            at += self.interval;
        }
        Series {
            interval: self.interval,
            points,
        }
    }

    fn interval_at(&mut self, at: Duration) -> &mut Interval {
        let mut index = self.index(at);
        while index >= MAX_POINTS {
            self.merge();
            index = self.index(at);
        }
        if index >= self.intervals.len() {
            self.intervals.resize_with(index + 1, Interval::default);
        }
        &mut self.intervals[index]
    }

    fn index(&self, at: Duration) -> usize {
        usize::try_from(at.as_nanos() / self.interval.as_nanos()).unwrap_or(usize::MAX)
    }

    /// Merges each two neighbours.
    fn merge(&mut self) {
        self.interval *= 2;
        let mut merged = Vec::with_capacity(MAX_POINTS);
        let mut intervals = std::mem::take(&mut self.intervals).into_iter();
        while let Some(mut first) = intervals.next() {
            if let Some(second) = intervals.next() {
                first.add(&second);
            }
            merged.push(first);
        }
        self.intervals = merged;
    }
}

impl Interval {
    fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.sent += other.sent;
        self.ok += other.ok;
        self.refused += other.refused;
        self.failed += other.failed;
        self.answer.add(&other.answer);
        self.completed += other.completed;
        self.completion.add(&other.completion);
    }

    fn point(&self, at: Duration, in_flight: u64) -> Point {
        Point {
            at,
            offered: self.offered,
            sent: self.sent,
            ok: self.ok,
            refused: self.refused,
            failed: self.failed,
            in_flight,
            answer: self.answer.percentiles(),
            completed: self.completed,
            completion: self.completion.percentiles(),
        }
    }
}

/// The recorder of a run. Clones share it, and each event is given the time at which it was.
#[derive(Clone, Debug)]
pub struct Recording {
    shared: Arc<Mutex<Started>>,
}

#[derive(Debug)]
struct Started {
    at: Instant,
    recorder: Recorder,
}

impl Recording {
    /// A recording that starts at `at`.
    pub fn new(at: Instant) -> Self {
        let recorder = Recorder::default();
        Self {
            shared: Arc::new(Mutex::new(Started { at, recorder })),
        }
    }

    /// Discards all events. The run starts at `at`.
    pub fn start_over(&self, at: Instant) {
        let recorder = Recorder::default();
        *self.started() = Started { at, recorder };
    }

    /// A request was due at `due` and sent at `sent`, or not sent.
    pub fn offered(&self, due: Instant, sent: Option<Instant>) {
        let mut started = self.started();
        let due = started.since(due);
        started.recorder.offered(due);
        if let Some(sent) = sent {
            let sent = started.since(sent);
            started.recorder.sent(sent);
        }
    }

    /// A request that had been sent ended at `at`, this long after it was due.
    pub fn answered(&self, at: Instant, outcome: Outcome, latency: Duration) {
        let mut started = self.started();
        let at = started.since(at);
        started.recorder.answered(at, outcome, latency);
    }

    /// A job was found to be correctly completed at `at`. It took this long.
    pub fn completed(&self, at: Instant, took: Duration) {
        let mut started = self.started();
        let at = started.since(at);
        started.recorder.completed(at, took);
    }

    /// The time from the run's start to its last successful answer; zero without one.
    pub fn last_ok(&self) -> Duration {
        self.started().recorder.last_ok()
    }

    /// The series so far.
    pub fn series(&self) -> Series {
        self.started().recorder.series()
    }

    #[expect(clippy::expect_used, reason = "nothing panics while it holds the lock")]
    fn started(&self) -> MutexGuard<'_, Started> {
        let started = self.shared.lock();
        started.expect("nothing panics while it holds the lock")
    }
}

impl Started {
    fn since(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.at)
    }
}

/// Serialises a duration as whole milliseconds.
fn as_whole_millis<S: serde::Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{MAX_POINTS, Outcome, Recorder, SHORTEST};
    use crate::latency::millis;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_answer_counts_in_the_interval_in_which_it_arrived() {
        let mut recorder = Recorder::default();
        for _ in 0..3 {
            recorder.offered(ms(10));
        }
        recorder.sent(ms(11));
        recorder.sent(ms(120));
        recorder.answered(ms(350), Outcome::Ok, ms(340));
        recorder.completed(ms(351), ms(341));
        let series = recorder.series();
        assert_eq!(series.interval, SHORTEST);
        let counts: Vec<_> = series
            .points
            .iter()
            .map(|it| (it.offered, it.sent, it.ok, it.in_flight, it.completed))
            .collect();
        let expected = [
            (3, 1, 0, 1, 0),
            (0, 1, 0, 2, 0),
            (0, 0, 0, 2, 0),
            (0, 0, 1, 1, 1),
        ];
        assert_eq!(counts, expected);
        assert!(series.points[0].answer.is_none() && series.points[0].completion.is_none());
        let p50 = series.points[3].answer.unwrap().p50;
        assert!((337..=344).contains(&p50.as_millis()), "{p50:?}");
        assert_eq!(recorder.last_ok(), ms(350));
    }

    #[test]
    fn each_outcome_has_its_count_and_only_success_has_a_latency() {
        let mut recorder = Recorder::default();
        for outcome in [Outcome::Ok, Outcome::Refused, Outcome::Failed] {
            recorder.sent(ms(0));
            recorder.answered(
                ms(50),
                outcome,
                ms(if outcome == Outcome::Ok { 50 } else { 9 }),
            );
        }
        let point = recorder.series().points.remove(0);
        assert_eq!((point.ok, point.refused, point.failed), (1, 1, 1));
        assert_eq!(point.in_flight, 0);
        assert!(millis(point.answer.unwrap().p50) > 49.0);
    }

    #[test]
    fn a_long_run_has_no_more_points_than_a_short_one_and_loses_no_event() {
        for seconds in [1, 24, 25, 100, 3_600, 90_000] {
            let mut recorder = Recorder::default();
            for second in 0..seconds {
                let at = Duration::from_secs(second);
                recorder.offered(at);
                recorder.sent(at);
                recorder.answered(at, Outcome::Ok, ms(second + 1));
                recorder.completed(at, ms(1));
            }
            let series = recorder.series();
            let points = &series.points;
            assert!(points.len() <= MAX_POINTS, "{seconds}: {}", points.len());
            let total = |of: fn(&super::Point) -> u64| points.iter().map(of).sum::<u64>();
            assert_eq!(total(|point| point.offered), seconds);
            assert_eq!(total(|point| point.sent), seconds);
            assert_eq!(total(|point| point.ok), seconds);
            assert_eq!(total(|point| point.completed), seconds);
            assert!(points.iter().all(|point| point.in_flight == 0));
            // The last event is in the last interval, whose start is known.
            let last = points.last().unwrap();
            let until = last.at + series.interval;
            assert!((last.at..until).contains(&Duration::from_secs(seconds - 1)));
            let slowest = millis(last.answer.unwrap().max);
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let ratio = slowest / seconds as f64;
            assert!((0.99..=1.01).contains(&ratio), "{seconds}: {slowest}");
        }
    }

    #[test]
    fn an_event_after_a_long_silence_takes_few_intervals() {
        let mut recorder = Recorder::default();
        recorder.offered(ms(0));
        recorder.completed(Duration::from_hours(24), ms(1));
        let series = recorder.series();
        assert!(series.points.len() <= MAX_POINTS);
        assert_eq!(series.points[0].offered, 1);
        assert_eq!(series.points.last().unwrap().completed, 1);
    }

    #[test]
    fn in_json_times_are_whole_milliseconds() {
        let mut recorder = Recorder::default();
        recorder.offered(ms(100));
        let json = serde_json::to_value(recorder.series()).unwrap();
        assert_eq!(json["interval_ms"], 100);
        assert_eq!(
            json["points"][1],
            json!({"at_ms": 100, "offered": 1, "sent": 0, "ok": 0, "refused": 0, "failed": 0,
                "in_flight": 0, "answer": null, "completed": 0, "completion": null})
        );
    }
}
