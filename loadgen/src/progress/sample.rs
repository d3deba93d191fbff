//! A run while it runs: as the lines of a block that is drawn again and again, or as one line.
//! No I/O.

use std::time::Duration;

use crate::{
    answers::FailureCounts,
    latency::{Latencies, Percentiles, per_second},
    ledger::JobsSoFar,
    report::{human, listed},
};

/// What a run has done so far.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// What it is doing.
    pub(crate) stage: &'static str,
    /// How much of that is done.
    pub(crate) done: u64,
    /// And how much there is.
    pub(crate) total: u64,
    /// Requests that were due.
    pub(crate) offered: u64,
    /// The latencies of the successful answers.
    pub(crate) answers: Latencies,
    /// The requests that failed.
    pub(crate) failed: FailureCounts,
    /// The accepted jobs; none for `/sync`.
    pub(crate) jobs: Option<JobsSoFar>,
}

/// An earlier sample of the same run, and how long ago it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Earlier<'a> {
    pub(crate) sample: &'a Sample,
    pub(crate) ago: Duration,
}

impl Sample {
    /// The lines below the progress bar. Each is there from the start, so that nothing on the
    /// screen jumps; that of jobs from the first request that makes one. With an earlier sample,
    /// they tell rates and percentiles since then; otherwise, counts and percentiles so far.
    pub(crate) fn block(&self, earlier: Option<Earlier<'_>>) -> Vec<String> {
        let mut lines = vec![
            row("load", &self.load(earlier)),
            row("answers", &self.answers(earlier)),
        ];
        if let Some(jobs) = &self.jobs {
            lines.push(row("jobs", &jobs_text(jobs, earlier)));
        }
        lines.push(row("errors", &self.errors()));
        lines
    }

    /// The same in one line, which begins with `name` and the time since the run's start.
    pub(crate) fn line(
        &self,
        name: &str,
        elapsed: Duration,
        earlier: Option<Earlier<'_>>,
    ) -> String {
        let mut line = format!(
            "{name} {}s: {}, {}",
            elapsed.as_secs(),
            self.load(earlier),
            self.answers(earlier)
        );
        if let Some(jobs) = &self.jobs {
            line = format!("{line}; jobs {}", jobs_text(jobs, earlier));
        }
        format!("{line}; errors {}", self.errors())
    }

    fn load(&self, earlier: Option<Earlier<'_>>) -> String {
        let ended = self.answers.count() + self.failed.total();
        let in_flight = self.offered.saturating_sub(ended);
        match earlier {
            Some(Earlier { sample, ago }) => {
                let rate =
                    |of: fn(&Self) -> u64| per_second(of(self).saturating_sub(of(sample)), ago);
                let (due, sent) = (rate(|it| it.offered), rate(Self::sent));
                format!("{due:.0}/s due, {sent:.0}/s sent, {in_flight} in flight")
            }
            None => format!("{} sent, {in_flight} in flight", self.sent()),
        }
    }

    fn answers(&self, earlier: Option<Earlier<'_>>) -> String {
        match earlier {
            Some(Earlier { sample, ago }) => {
                let times = self.answers.since(&sample.answers);
                let ok = per_second(times.count(), ago);
                format!("{ok:.0}/s ok, {}", times_text(&times))
            }
            None => format!("{} ok, {}", self.answers.count(), times_text(&self.answers)),
        }
    }

    fn errors(&self) -> String {
        listed(self.failed.by_kind()).unwrap_or_else(|| "none".to_owned())
    }

    fn sent(&self) -> u64 {
        self.offered.saturating_sub(self.failed.not_sent)
    }
}

fn jobs_text(jobs: &JobsSoFar, earlier: Option<Earlier<'_>>) -> String {
    let before = earlier.and_then(|it| Some((it.sample.jobs.as_ref()?, it.ago)));
    let done = match before {
        Some((before, ago)) => {
            let times = jobs.times.since(&before.times);
            let rate = per_second(times.count(), ago);
            format!("{rate:.0}/s, {}", times_text(&times))
        }
        None => format!(
            "{} completed, {}",
            jobs.times.count(),
            times_text(&jobs.times)
        ),
    };
    let bad = listed([("failed", jobs.failed), ("wrong", jobs.wrong)]);
    let bad = bad.map_or_else(String::new, |bad| format!(", {bad}"));
    format!("{done}, {} open{bad}", jobs.open)
}

fn row(name: &str, text: &str) -> String {
    format!("{name:11} {text}")
}

fn times_text(times: &Latencies) -> String {
    match times.percentiles() {
        Some(Percentiles { p50, p99, .. }) => format!("p50 {}, p99 {}", human(p50), human(p99)),
        None => "p50 -, p99 -".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Earlier, Sample};
    use crate::{answers::FailureCounts, latency::Latencies, ledger::JobsSoFar};

    fn latencies(each: &[(u64, u64)]) -> Latencies {
        let mut latencies = Latencies::default();
        for (count, ms) in each {
            (0..*count).for_each(|_| latencies.record(Duration::from_millis(*ms)));
        }
        latencies
    }

    /// 100 requests and jobs; those of the next second were slower.
    fn first() -> Sample {
        Sample {
            stage: "requests",
            done: 120,
            total: 1000,
            offered: 120,
            failed: FailureCounts {
                refused: 3,
                ..FailureCounts::default()
            },
            answers: latencies(&[(100, 2)]),
            jobs: Some(JobsSoFar {
                accepted: 100,
                open: 60,
                wrong: 0,
                failed: 0,
                times: latencies(&[(40, 20)]),
            }),
        }
    }

    fn second() -> Sample {
        Sample {
            done: 420,
            offered: 420,
            failed: FailureCounts {
                refused: 3,
                timeout: 2,
                not_sent: 10,
                ..FailureCounts::default()
            },
            answers: latencies(&[(100, 2), (200, 7)]),
            jobs: Some(JobsSoFar {
                accepted: 200,
                open: 58,
                wrong: 1,
                failed: 1,
                times: latencies(&[(40, 20), (100, 50)]),
            }),
            ..first()
        }
    }

    #[test]
    fn rates_and_percentiles_are_those_since_the_earlier_sample() {
        let (earlier, now) = (first(), second());
        let earlier = Earlier {
            sample: &earlier,
            ago: Duration::from_secs(2),
        };
        let expected = [
            "load        150/s due, 145/s sent, 105 in flight",
            "answers     100/s ok, p50 7.00 ms, p99 7.00 ms",
            "jobs        50/s, p50 50 ms, p99 50 ms, 58 open, 1 failed, 1 wrong",
            "errors      3 refused (503), 2 timeout, 10 not sent",
        ];
        assert_eq!(now.block(Some(earlier)), expected);
        assert_eq!(
            now.line("storm", Duration::from_millis(12_345), Some(earlier)),
            "storm 12s: 150/s due, 145/s sent, 105 in flight, 100/s ok, p50 7.00 ms, p99 7.00 ms; \
             jobs 50/s, p50 50 ms, p99 50 ms, 58 open, 1 failed, 1 wrong; \
             errors 3 refused (503), 2 timeout, 10 not sent"
        );
    }

    #[test]
    fn without_an_earlier_sample_everything_is_told_so_far() {
        let expected = [
            "load        120 sent, 17 in flight",
            "answers     100 ok, p50 2.00 ms, p99 2.00 ms",
            "jobs        40 completed, p50 20 ms, p99 20 ms, 60 open",
            "errors      3 refused (503)",
        ];
        assert_eq!(first().block(None), expected);
    }

    #[test]
    fn the_block_of_a_run_without_jobs_answers_and_errors_says_so_in_as_many_lines() {
        let nothing = Sample {
            failed: FailureCounts::default(),
            answers: Latencies::default(),
            jobs: None,
            ..first()
        };
        let expected = [
            "load        120 sent, 120 in flight",
            "answers     0 ok, p50 -, p99 -",
            "errors      none",
        ];
        assert_eq!(nothing.block(None), expected);
    }
}
