//! What a worker says of itself with its heartbeats: the JSON in `workers.report`.

use std::{cmp::Reverse, collections::HashMap, hash::Hash};

use serde::{Deserialize, Serialize};

use crate::durations::DurationCounts;

/// The figures of a worker process since its start. They are for people: no code decides by them.
///
/// The format has a version. A worker of another release may write another one, and an edit by hand
/// anything: [`WorkerReport::parse`] takes for absent what it does not understand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// The version of the format.
    pub version: u32,
    /// The time since the start, in milliseconds, by a clock that is never set. Rates go by it: the
    /// reader does not know when a report was written.
    pub uptime_ms: u64,
    /// The jobs and redeliveries that it has ended: `COMPLETED`.
    pub completed: u64,
    /// The same: `FAILED`.
    pub failed: u64,
    /// The slots that jobs hold now.
    pub slots_used: u32,
    /// All slots: `WORKER_CONCURRENCY`.
    pub slots: u32,
    /// How long the lease lasts without a heartbeat, in milliseconds: `WORKER_LEASE`. `None` in a
    /// report of an earlier version.
    pub lease_ms: Option<u64>,
    /// The times from the submission to the delivered callback.
    pub time_to_callback: DurationCounts,
    /// Up to [`WorkerReport::RECEIVERS`] of those that the worker remembers, by
    /// [`choose_receivers`].
    pub receivers: Vec<ReceiverReport>,
}

/// A receiver of one tenant, as a worker sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverReport {
    /// The client's name, if there are tokens.
    pub tenant: Option<String>,
    /// Scheme, host and port.
    pub origin: String,
    /// Its circuit breaker in this worker.
    pub breaker: BreakerState,
    /// The jobs with an attempt under way, or that wait for a connection.
    pub jobs: u32,
}

/// The state of a circuit breaker. In the order in which they hold back jobs, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Attempts pass.
    Closed,
    /// The probe is under way.
    HalfOpen,
    /// No attempt passes until the probe is due.
    Open,
}

/// Up to [`WorkerReport::RECEIVERS`] of `all`: of each tenant in turn the one with the circuit
/// breaker that holds back most, then with the most jobs. So no tenant hides those of another.
pub fn choose_receivers<T, Tenant: Eq + Hash>(
    mut all: Vec<T>,
    tenant: impl Fn(&T) -> Tenant,
    rank: impl Fn(&T) -> (BreakerState, u32),
) -> Vec<T> {
    all.sort_by_key(|it| Reverse(rank(it)));
    let mut turns = HashMap::new();
    let turn_of = |it: &T| {
        let turn: &mut usize = turns.entry(tenant(it)).or_default();
        *turn += 1;
        *turn
    };
    let turn: Vec<_> = all.iter().map(turn_of).collect();
    let mut all: Vec<_> = turn.into_iter().zip(all).collect();
    // Stable: within a turn they stay in their order.
    all.sort_by_key(|(turn, _)| *turn);
    all.truncate(WorkerReport::RECEIVERS);
    all.into_iter().map(|(_, it)| it).collect()
}

impl WorkerReport {
    /// The most receivers in a report.
    pub const RECEIVERS: usize = 20;

    /// The longest text that is read as a report, in bytes.
    pub const MAX_BYTES: usize = 16 << 10;

    /// `https://`, the 253 characters that a name can have, and a port.
    const LONGEST_ORIGIN: usize = 8 + 253 + 6;

    /// The version of the format.
    const VERSION: u32 = 1;

    /// A report of a worker that has run for `uptime_ms` and done nothing.
    pub fn new(uptime_ms: u64) -> Self {
        Self {
            version: Self::VERSION,
            uptime_ms,
            completed: 0,
            failed: 0,
            slots_used: 0,
            slots: 0,
            lease_ms: None,
            time_to_callback: DurationCounts::default(),
            receivers: Vec::new(),
        }
    }

    /// Takes over up to [`WorkerReport::RECEIVERS`] of these.
    pub fn set_receivers(&mut self, mut receivers: Vec<ReceiverReport>) {
        // No host that exists has a longer name, and the report must fit.
        receivers.retain(|it| it.origin.len() <= Self::LONGEST_ORIGIN);
        let rank = |it: &ReceiverReport| (it.breaker, it.jobs);
        let mut receivers = choose_receivers(receivers, |it| it.tenant.clone(), rank);
        receivers.sort_unstable_by(|a, b| {
            let names = || (&a.origin, &a.tenant).cmp(&(&b.origin, &b.tenant));
            rank(b).cmp(&rank(a)).then_with(names)
        });
        self.receivers = receivers;
    }

    /// The text for the database; `None` if it would be too long to be read.
    pub fn to_text(&self) -> Option<String> {
        let text = serde_json::to_string(self).ok()?;
        (text.len() <= Self::MAX_BYTES).then_some(text)
    }

    /// The report in a text from the database; `None` if it is none of this version.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > Self::MAX_BYTES {
            return None;
        }
        let report: Self = serde_json::from_str(text).ok()?;
        let is_known = report.version == Self::VERSION && report.receivers.len() <= Self::RECEIVERS;
        is_known.then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BreakerState, ReceiverReport, WorkerReport};
    use crate::durations::DurationRecorder;

    fn receiver(number: u32, breaker: BreakerState, jobs: u32) -> ReceiverReport {
        ReceiverReport {
            tenant: Some("t".repeat(64)),
            origin: format!("https://{}:{number:05}", "r".repeat(253)),
            breaker,
            jobs,
        }
    }

    #[test]
    fn the_largest_report_is_read_as_it_was_written() {
        let recorder = DurationRecorder::default();
        for exponent in 0..4000 {
            recorder.record(Duration::from_secs_f64(1e-5 * 1.007_f64.powi(exponent)));
        }
        let mut report = WorkerReport::new(u64::MAX);
        report.time_to_callback = recorder.counts();
        report.set_receivers(
            (0..10_000)
                .map(|it| receiver(it, BreakerState::HalfOpen, it))
                .collect(),
        );
        let text = report.to_text().unwrap();
        assert_eq!(WorkerReport::parse(&text), Some(report));
    }

    #[test]
    fn troubled_receivers_come_first_then_busy_ones() {
        let mut all: Vec<_> = (0..100)
            .map(|it| receiver(it, BreakerState::Closed, it))
            .collect();
        all.push(receiver(100, BreakerState::Open, 0));
        all.push(receiver(101, BreakerState::HalfOpen, 0));
        let mut report = WorkerReport::new(0);
        report.set_receivers(all);
        let first: Vec<_> = report
            .receivers
            .iter()
            .map(|it| (it.breaker, it.jobs))
            .collect();
        assert_eq!(first.len(), WorkerReport::RECEIVERS);
        assert_eq!(first[0], (BreakerState::Open, 0));
        assert_eq!(first[1], (BreakerState::HalfOpen, 0));
        assert_eq!(first[2], (BreakerState::Closed, 99));
        assert_eq!(first[19], (BreakerState::Closed, 82));
    }

    #[test]
    fn a_tenant_with_many_troubled_receivers_hides_none_of_anothers() {
        let mut all: Vec<_> = (0..100)
            .map(|it| receiver(it, BreakerState::Open, 9))
            .collect();
        let other = ReceiverReport {
            tenant: None,
            ..receiver(100, BreakerState::Closed, 1)
        };
        all.push(other.clone());
        let mut report = WorkerReport::new(0);
        report.set_receivers(all);
        assert_eq!(report.receivers.len(), WorkerReport::RECEIVERS);
        assert_eq!(report.receivers.last(), Some(&other));
    }

    #[test]
    fn a_report_of_another_version_and_any_other_text_are_none() {
        let text = WorkerReport::new(7).to_text().unwrap();
        assert!(WorkerReport::parse(&text).is_some());
        // A field that a later release adds is no other version.
        let more = text.replacen('{', "{\"more\":1,", 1);
        assert!(WorkerReport::parse(&more).is_some());
        for other in [
            text.replace("\"version\":1", "\"version\":2"),
            text.replace("\"uptime_ms\":7", "\"uptime_ms\":-7"),
            text.replace("\"slots\":0,", ""),
            format!("{text}{}", " ".repeat(WorkerReport::MAX_BYTES)),
            String::new(),
            "null".to_owned(),
            "[]".to_owned(),
        ] {
            assert_eq!(WorkerReport::parse(&other), None, "{other}");
        }
    }
}
