//! How fast the workers end jobs: pure arithmetic over counts of the store.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use storm_shared::services::store::OwnerId;
use tokio::time::Instant;

/// The rate is the mean over the newest part of the time in which the workers had work: at least
/// this long.
const WINDOW: Duration = Duration::from_secs(15);

/// So long that so many jobs have ended in it: if a job takes minutes, none ends in most seconds.
const ENOUGH: u64 = 100;

/// And at most this long.
const LONGEST_WINDOW: Duration = Duration::from_mins(10);

/// Jobs that the workers end each second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct DrainRate {
    /// 0 while it is unknown.
    per_second: f64,
    /// Whether the workers had enough work. If not, the rate is the least that they can do.
    is_measured: bool,
}

impl DrainRate {
    /// Jobs a second.
    pub(super) fn per_second(self) -> f64 {
        self.per_second
    }

    pub(super) fn is_known(self) -> bool {
        self.per_second > 0.0
    }

    /// Whether it is how fast they are, and not only the least.
    pub(super) fn is_measured(self) -> bool {
        self.is_measured
    }

    /// The jobs that end within `time`.
    pub(super) fn within(self, time: Duration) -> f64 {
        self.per_second * time.as_secs_f64()
    }

    /// The time in which so many jobs end, up to `most`; `None` while it is unknown.
    pub(super) fn time_for(self, jobs: f64, most: Duration) -> Option<Duration> {
        if !self.is_known() {
            return None;
        }
        let seconds = (jobs.max(0.0) / self.per_second).min(most.as_secs_f64());
        Some(Duration::from_secs_f64(seconds))
    }
}

/// A number of jobs to reckon with: exact up to four billion, which no count gets to.
pub(super) fn jobs(count: u64) -> f64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

/// Measures the rate from one count after another.
///
/// A worker that runs out of work could have ended more. So the time between two counts tells how
/// fast the backlog drains only if jobs waited throughout, or if the backlog was full: then that
/// time is part of the mean. Otherwise it raises the rate and never lowers it, until jobs wait
/// again. While all work is paused, or no worker is there, the rate stays what it was.
#[derive(Debug)]
pub(super) struct Drain {
    last: Option<(Instant, Sample)>,
    /// The newest parts of the measured time.
    measured: VecDeque<Part>,
    /// The last rate at which jobs ended.
    known: DrainRate,
}

/// What was counted at a moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// The jobs that wait for workers.
    pub(super) waiting: u64,
    /// Whether the backlog is full, so that workers should have work even if no job waits.
    pub(super) is_full: bool,
    /// Whether an operator has paused all work.
    pub(super) is_paused: bool,
    /// The jobs that each worker has ended since it registered.
    pub(super) ended: HashMap<OwnerId, u64>,
}

/// The time between two counts.
#[derive(Clone, Copy, Debug)]
struct Part {
    took: Duration,
    ended: u64,
    /// Whether the workers had work throughout.
    had_work: bool,
}

impl Drain {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self {
            last: None,
            measured: VecDeque::new(),
            known: DrainRate::default(),
        }
    }

    /// Takes what was counted at `at`. Returns the rate from then on.
    pub(super) fn counted(&mut self, at: Instant, sample: Sample) -> DrainRate {
        if let Some((last_at, last)) = self.last.take() {
            self.measure(at.duration_since(last_at), &last, &sample);
        }
        self.last = Some((at, sample));
        self.known
    }

    fn measure(&mut self, took: Duration, from: &Sample, to: &Sample) {
        let is_standing = from.is_paused || to.is_paused || to.ended.is_empty();
        if took.is_zero() || is_standing {
            return;
        }
        let ended = ended_between(&from.ended, &to.ended);
        let waited = from.waiting > 0 && to.waiting > 0 && from.waiting >= ended;
        let had_work = waited || from.is_full;
        if had_work {
            self.measured.retain(|part| part.had_work);
        }
        if had_work || jobs(ended) > self.known.within(took) {
            self.measured.push_back(Part {
                took,
                ended,
                had_work,
            });
        }
        while let Some(oldest) = self.measured.front()
            && self.is_window_without(oldest)
        {
            self.measured.pop_front();
        }
        self.known = self.rate().unwrap_or(self.known);
    }

    /// Whether the newer parts are enough.
    fn is_window_without(&self, oldest: &Part) -> bool {
        let time = self.measured_time().saturating_sub(oldest.took);
        let ended = self.measured_jobs() - oldest.ended;
        time >= LONGEST_WINDOW || time >= WINDOW && ended >= ENOUGH
    }

    fn measured_time(&self) -> Duration {
        self.measured.iter().map(|part| part.took).sum()
    }

    fn measured_jobs(&self) -> u64 {
        self.measured.iter().map(|part| part.ended).sum()
    }

    /// `None` if no job ended.
    fn rate(&self) -> Option<DrainRate> {
        let ended = self.measured_jobs();
        let rate = || DrainRate {
            per_second: jobs(ended) / self.measured_time().as_secs_f64(),
            is_measured: self.known.is_measured || self.measured.iter().any(|part| part.had_work),
        };
        (ended > 0).then(rate)
    }
}

/// The jobs that ended between two counts. A worker that was not there at the first one has
/// registered since, and counts from 0; of one that is gone, the last jobs are unknown.
fn ended_between(from: &HashMap<OwnerId, u64>, to: &HashMap<OwnerId, u64>) -> u64 {
    let by = |(owner, ended): (&OwnerId, &u64)| {
        let before = from.get(owner).copied().unwrap_or(0);
        ended.saturating_sub(before)
    };
    to.iter().map(by).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storm_shared::services::store::OwnerId;
    use tokio::time::Instant;

    use super::{Drain, DrainRate, Sample};

    const LIMIT: usize = 1000;
    const HOUR: Duration = Duration::from_hours(1);

    /// A drain that counts at these seconds, each with the jobs that wait and what each of some
    /// workers has ended. `None`: the worker is not registered.
    struct Counts {
        drain: Drain,
        begun: Instant,
        workers: [OwnerId; 3],
        rate: DrainRate,
        is_paused: bool,
    }

    impl Counts {
        fn new() -> Self {
            Self {
                drain: Drain::new(),
                begun: Instant::now(),
                workers: [(); 3].map(|()| OwnerId::generate()),
                rate: DrainRate::default(),
                is_paused: false,
            }
        }

        fn at(&mut self, second: u64, waiting: usize, ended: &[Option<u64>]) -> f64 {
            self.of(second, waiting, waiting, ended)
        }

        fn of(&mut self, at: u64, unfinished: usize, waiting: usize, ended: &[Option<u64>]) -> f64 {
            let workers = self.workers.iter().zip(ended);
            let ended = workers.filter_map(|(owner, ended)| Some((*owner, (*ended)?)));
            let sample = Sample {
                waiting: waiting as u64,
                is_full: unfinished >= LIMIT,
                is_paused: self.is_paused,
                ended: ended.collect(),
            };
            let at = self.begun + Duration::from_secs(at);
            self.rate = self.drain.counted(at, sample);
            self.rate.per_second()
        }
    }

    fn near(actual: f64, expected: f64) {
        assert!(
            (actual - expected).abs() < 1e-6,
            "{actual} is not {expected}"
        );
    }

    #[test]
    fn the_rate_is_what_all_workers_end_in_a_second() {
        let mut counts = Counts::new();
        near(counts.at(0, 900, &[Some(7000), Some(3)]), 0.0);
        near(counts.at(2, 800, &[Some(7080), Some(23)]), 50.0);
        near(counts.at(3, 700, &[Some(7130), Some(73)]), 200.0 / 3.0);
    }

    #[test]
    fn a_rate_that_changes_is_known_after_the_window() {
        let mut counts = Counts::new();
        let mut ended = 0;
        for second in 0..60 {
            counts.at(second, 900, &[Some(ended)]);
            ended += if second < 30 { 10 } else { 40 };
        }
        near(counts.rate.per_second(), 40.0);
    }

    #[test]
    fn workers_that_come_and_go_make_it_neither_jump_nor_negative() {
        let mut counts = Counts::new();
        near(counts.at(0, 900, &[Some(1_000_000), None, None]), 0.0);
        near(counts.at(1, 900, &[Some(1_000_010), None, None]), 10.0);
        // One starts; then the first one stops.
        near(counts.at(2, 900, &[Some(1_000_020), Some(4), None]), 12.0);
        near(counts.at(3, 900, &[None, Some(16), None]), 12.0);
        // A counter that goes back was edited by hand.
        near(counts.at(4, 900, &[None, Some(0), None]), 9.0);
        // Without a worker, nothing is known of how fast they are.
        near(counts.at(5, 900, &[None, None, None]), 9.0);
    }

    #[test]
    fn workers_without_work_say_nothing_about_how_fast_they_are() {
        let mut counts = Counts::new();
        counts.at(0, 900, &[Some(0)]);
        near(counts.at(1, 800, &[Some(100)]), 100.0);
        // The last ones, then idle.
        near(counts.at(2, 0, &[Some(150)]), 100.0);
        near(counts.at(600, 0, &[Some(150)]), 100.0);
        near(counts.at(601, 3, &[Some(170)]), 100.0);
        // They keep up with more than was measured before.
        near(counts.at(602, 900, &[Some(470)]), 200.0);
        // Jobs wait again.
        near(counts.at(603, 900, &[Some(520)]), 75.0);
    }

    #[test]
    fn a_standstill_lowers_the_rate_and_then_keeps_the_last_one() {
        let mut counts = Counts::new();
        counts.at(0, 900, &[Some(0)]);
        near(counts.at(1, 900, &[Some(50)]), 50.0);
        near(counts.at(10, 900, &[Some(50)]), 5.0);
        near(counts.at(100, 900, &[Some(50)]), 0.5);
        for minute in 2..60 {
            counts.at(60 * minute, 900, &[Some(50)]);
        }
        let known = counts.rate.per_second();
        assert!((0.05..0.2).contains(&known), "{known}");
    }

    #[test]
    fn jobs_longer_than_the_window_have_a_steady_rate() {
        let mut counts = Counts::new();
        // 4 jobs at a time, each of which takes 40 s.
        let mut rates = Vec::new();
        for second in 0..1800 {
            let rate = counts.at(second, 900, &[Some(second / 40 * 4)]);
            if second >= 600 {
                rates.push(rate);
            }
        }
        assert!(
            rates.iter().all(|rate| (rate - 0.1).abs() < 0.01),
            "{rates:?}"
        );
    }

    #[test]
    fn a_pause_of_everything_changes_no_rate() {
        let mut counts = Counts::new();
        for second in 0..20 {
            counts.at(second, 900, &[Some(second * 10)]);
        }
        near(counts.rate.per_second(), 10.0);
        counts.is_paused = true;
        for minute in 1..30 {
            near(counts.at(60 * minute, 900, &[Some(200)]), 10.0);
        }
        counts.is_paused = false;
        near(counts.at(1800, 900, &[Some(200)]), 10.0);
        for second in 1..20 {
            near(
                counts.at(1800 + second, 900, &[Some(200 + second * 10)]),
                10.0,
            );
        }
    }

    #[test]
    fn a_full_backlog_of_parked_jobs_drains_as_fast_as_it_does() {
        let mut counts = Counts::new();
        counts.of(0, LIMIT, 900, &[Some(0)]);
        near(counts.of(1, LIMIT, 900, &[Some(100)]), 100.0);
        for second in 2..=120 {
            counts.of(second, LIMIT, 0, &[Some(100 + second)]);
        }
        near(counts.rate.per_second(), 1.0);
    }

    #[test]
    fn the_time_for_some_jobs_follows_the_rate_and_is_bounded() {
        let rate = DrainRate {
            per_second: 20.0,
            is_measured: true,
        };
        assert_eq!(rate.time_for(100.0, HOUR), Some(Duration::from_secs(5)));
        assert_eq!(rate.time_for(1e30, HOUR), Some(HOUR));
        assert_eq!(rate.time_for(-1.0, HOUR), Some(Duration::ZERO));
        assert_eq!(DrainRate::default().time_for(1.0, HOUR), None);
        near(rate.within(Duration::from_millis(500)), 10.0);
    }
}
