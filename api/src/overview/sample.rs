//! The figures of one second, from what has grown since the last one.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use storm_shared::{durations::DurationCounts, models::WorkerReport, services::store::WorkerSeen};
use tokio::time::Instant;

use crate::metrics::LiveFigures;

/// A worker whose report has not changed for this long, by the clock of this process, has no rate
/// any more. It sends one a second.
const SILENT: Duration = Duration::from_secs(5);

/// The figures of about a second. A figure that is not known, or of which there was none, is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// When it was taken, in milliseconds since 1970, by the wall clock.
    pub at: i64,
    /// Jobs per second that this process has accepted.
    pub accepted: Option<f64>,
    /// Submissions of jobs per second that it has refused for the load.
    pub refused: Option<f64>,
    /// Jobs and redeliveries per second that all workers have ended `COMPLETED`.
    pub completed: Option<f64>,
    /// The same: `FAILED`.
    pub failed: Option<f64>,
    /// Requests to `/sync` per second that this process has answered with a report.
    pub sync: Option<f64>,
    /// Those that it has refused, or not finished in time.
    pub sync_refused: Option<f64>,
    /// The percentiles of the time to a `202` of this process.
    pub ack_ms: Option<Percentiles>,
    /// Those of the time that clients of `/sync` waited: for the report, or for the answer that it
    /// was not finished in time.
    pub sync_ms: Option<Percentiles>,
    /// Those of the time from the submission to the delivered callback, of all workers.
    pub callback_ms: Option<Percentiles>,
    /// Unfinished jobs.
    pub backlog: usize,
    /// Those of them that wait for a worker and are due.
    pub due: usize,
    /// For how long the oldest due job has been due, in milliseconds.
    pub oldest_due_ms: Option<u64>,
}

/// The 50th, 95th and 99th percentile, in milliseconds.
pub type Percentiles = [f64; 3];

/// What a worker has done per second, by its last two reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerRate {
    /// Jobs that it has ended `COMPLETED`.
    pub completed: f64,
    /// Jobs that it has ended `FAILED`.
    pub failed: f64,
    time_to_callback: DurationCounts,
}

/// Compares each second with the one before.
#[derive(Default)]
pub(super) struct Differences {
    figures: Option<LiveFigures>,
    workers: HashMap<String, Known>,
}

struct Known {
    report: WorkerReport,
    /// When it was read first.
    since: Instant,
    rate: Option<WorkerRate>,
}

impl Differences {
    /// The rates of the workers, in their order: each by its last two reports. `None` of a worker
    /// that has sent fewer, or none for a while.
    pub(super) fn of_workers(&mut self, workers: &[WorkerSeen]) -> Vec<Option<WorkerRate>> {
        let mut before = std::mem::take(&mut self.workers);
        let rates = workers.iter().map(|worker| {
            let report = worker.report.as_ref()?;
            let known = match before.remove(&worker.owner) {
                Some(known) => known.next(report),
                None => Known::first(report),
            };
            let rate = known.rate.clone();
            let is_silent = known.since.elapsed() > SILENT;
            self.workers.insert(worker.owner.clone(), known);
            rate.filter(|_| !is_silent)
        });
        rates.collect()
    }

    /// The sample of a moment at which this process has `figures`, the last one having been taken
    /// `elapsed` ago.
    pub(super) fn sample(
        &mut self,
        figures: LiveFigures,
        elapsed: Duration,
        workers: &[Option<WorkerRate>],
    ) -> Sample {
        let before = self.figures.as_ref();
        let rate = |of: fn(&LiveFigures) -> u64| {
            before.map(|before| per_second(of(&figures).saturating_sub(of(before)), elapsed))
        };
        let times = |of: fn(&LiveFigures) -> &DurationCounts| {
            before.and_then(|before| percentiles(&of(&figures).since(of(before))))
        };
        let known: Vec<_> = workers.iter().flatten().collect();
        let sum = |of: fn(&WorkerRate) -> f64| {
            (!known.is_empty()).then(|| rounded(known.iter().map(|it| of(it)).sum()))
        };
        let mut time_to_callback = DurationCounts::default();
        for worker in &known {
            time_to_callback.add(&worker.time_to_callback);
        }
        let sample = Sample {
            at: Timestamp::now().as_millisecond(),
            accepted: rate(|it| it.accepted),
            refused: rate(|it| it.refused),
            completed: sum(|it| it.completed),
            failed: sum(|it| it.failed),
            sync: rate(|it| it.sync_answered),
            sync_refused: rate(|it| it.sync_refused),
            ack_ms: times(|it| &it.ack),
            sync_ms: times(|it| &it.sync),
            callback_ms: percentiles(&time_to_callback),
            backlog: figures.unfinished,
            due: figures.due,
            oldest_due_ms: figures
                .oldest_due
                .and_then(|age| age.as_millis().try_into().ok()),
        };
        self.figures = Some(figures);
        sample
    }
}

impl Known {
    fn first(report: &WorkerReport) -> Self {
        Self {
            report: report.clone(),
            since: Instant::now(),
            rate: None,
        }
    }

    /// The rate up to `report`; the last one, if it is the same.
    fn next(self, report: &WorkerReport) -> Self {
        let before = &self.report;
        let millis = report.uptime_ms.checked_sub(before.uptime_ms);
        let elapsed = match millis {
            Some(0) => return self,
            // The process has begun anew.
            None => return Self::first(report),
            Some(millis) => Duration::from_millis(millis),
        };
        let rate = |now: u64, before: u64| per_second(now.saturating_sub(before), elapsed);
        Self {
            rate: Some(WorkerRate {
                completed: rate(report.completed, before.completed),
                failed: rate(report.failed, before.failed),
                time_to_callback: report.time_to_callback.since(&before.time_to_callback),
            }),
            ..Self::first(report)
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count of 2^53 in a second is never reached"
)]
fn per_second(count: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 {
        rounded(count as f64 / seconds)
    } else {
        0.0
    }
}

fn percentiles(counts: &DurationCounts) -> Option<Percentiles> {
    let millis = |share| Some(rounded(counts.percentile(share)?.as_secs_f64() * 1000.0));
    Some([millis(0.5)?, millis(0.95)?, millis(0.99)?])
}

/// To hundredths, so that the text is short.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storm_shared::{
        durations::DurationRecorder, models::WorkerReport, services::store::WorkerSeen,
    };

    use tokio::time::advance;

    use super::{Differences, SILENT};
    use crate::metrics::LiveFigures;

    const SECOND: Duration = Duration::from_secs(1);

    fn worker(owner: &str, uptime_ms: u64, completed: u64) -> WorkerSeen {
        let report = WorkerReport {
            completed,
            ..WorkerReport::new(uptime_ms)
        };
        WorkerSeen {
            owner: owner.to_owned(),
            heartbeat_age_ms: Some(0),
            report: Some(report),
        }
    }

    fn completed(differences: &mut Differences, workers: &[WorkerSeen]) -> Vec<Option<f64>> {
        let rates = differences.of_workers(workers);
        let of = |rate: Option<super::WorkerRate>| rate.map(|rate| rate.completed);
        rates.into_iter().map(of).collect()
    }

    #[test]
    fn a_worker_has_a_rate_from_its_second_report_on_by_its_own_clock() {
        let mut it = Differences::default();
        assert_eq!(completed(&mut it, &[worker("a", 1000, 10)]), [None]);
        assert_eq!(completed(&mut it, &[worker("a", 3000, 50)]), [Some(20.0)]);
        // The same report again: the last rate.
        assert_eq!(completed(&mut it, &[worker("a", 3000, 50)]), [Some(20.0)]);
        // Begun anew, under the same id.
        assert_eq!(completed(&mut it, &[worker("a", 500, 1)]), [None]);
        assert_eq!(completed(&mut it, &[worker("a", 1500, 2)]), [Some(1.0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_has_died_and_one_without_a_report_have_no_rate() {
        let mut it = Differences::default();
        let mut mute = worker("b", 1, 1);
        mute.report = None;
        let seen = |at| [worker("a", at, at), mute.clone()];
        completed(&mut it, &seen(1000));
        assert_eq!(completed(&mut it, &seen(2000)), [Some(1000.0), None]);
        advance(SILENT).await;
        assert_eq!(completed(&mut it, &seen(2000)), [Some(1000.0), None]);
        advance(SECOND).await;
        assert_eq!(completed(&mut it, &seen(2000)), [None, None]);
        assert_eq!(completed(&mut it, &seen(3000)), [Some(1000.0), None]);
    }

    #[test]
    fn a_sample_is_what_has_grown_since_the_one_before() {
        let mut it = Differences::default();
        let recorder = DurationRecorder::default();
        recorder.record(Duration::from_hours(1));
        let mut figures = LiveFigures {
            accepted: 100,
            ack: recorder.counts(),
            unfinished: 7,
            due: 3,
            ..LiveFigures::default()
        };
        let first = it.sample(figures.clone(), SECOND, &[]);
        assert_eq!(
            (first.accepted, first.ack_ms, first.completed),
            (None, None, None)
        );
        assert_eq!((first.backlog, first.due), (7, 3));

        figures.accepted = 150;
        figures.oldest_due = Some(SECOND);
        recorder.record(Duration::from_millis(10));
        figures.ack = recorder.counts();
        let second = it.sample(figures, SECOND / 2, &[None]);
        assert_eq!((second.accepted, second.refused), (Some(100.0), Some(0.0)));
        let [median, _, last] = second.ack_ms.unwrap();
        assert!(
            (9.0..11.0).contains(&median) && last < 11.0,
            "{median} {last}"
        );
        assert_eq!((second.sync_ms, second.oldest_due_ms), (None, Some(1000)));
    }
}
