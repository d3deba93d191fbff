//! Recovery times after faults, measured from the transitions.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use storm_shared::models::{RequestId, Status};

use super::{
    faults::{InjectedFaults, StoppedWorker},
    history::{Record, RowKind, Transition},
};
use crate::thresholds::RecoveryFigures;

/// The longest recovery time per kind of fault: from the fault to the job's next claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// From the kill of a worker to the last new claim of a job that it held, if the other worker
    /// was not disrupted for a lease plus [`GOAL`].
    pub after_kill: LongestWait,
    /// The same if the other worker was disrupted: a worker that has just started, or can write
    /// again, waits for one lease before it reclaims jobs of another.
    pub after_kills: LongestWait,
    /// The same, from the freeze of a worker.
    pub after_freeze: LongestWait,
    /// From `FLUSHALL` to the first claim of the last job that was pending then.
    pub after_flush: LongestWait,
    /// The same, from a failover of Redis.
    pub after_failover: LongestWait,
    /// The same, from the kill of the database's primary, whose standby is promoted.
    pub after_promotion: LongestWait,
}

/// The longest of several waiting times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LongestWait {
    /// The number of jobs that waited.
    pub jobs: u64,
    /// The longest wait.
    #[serde(rename = "longest_ms", serialize_with = "crate::latency::as_millis")]
    pub time: Duration,
}

impl Recovery {
    /// Those that were measured, for thresholds.
    pub(super) fn figures(&self) -> RecoveryFigures {
        RecoveryFigures {
            kill: self.after_kill.measured(),
            kills: self.after_kills.measured(),
            freeze: self.after_freeze.measured(),
            flush: self.after_flush.measured(),
            failover: self.after_failover.measured(),
            promotion: self.after_promotion.measured(),
        }
    }
}

impl LongestWait {
    fn measured(&self) -> Option<Duration> {
        (self.jobs > 0).then_some(self.time)
    }

    /// Adds a wait, unless everything was paused at some moment of it.
    fn add(&mut self, from: Timestamp, to: Timestamp, paused: &[(Timestamp, Timestamp)]) {
        if paused
            .iter()
            .any(|(begun, ended)| *begun <= to && from <= *ended)
        {
            return;
        }
        self.jobs += 1;
        self.time = self.time.max(to.duration_since(from).unsigned_abs());
    }
}

/// The project's goal: a killed worker's jobs are claimed again within a lease plus this.
pub const GOAL: Duration = Duration::from_secs(2);

/// Measures the recovery times. The transitions in `records` must be in commit order.
pub(super) fn measure(records: &[Record], injected: &InjectedFaults, lease: Duration) -> Recovery {
    let moves = || {
        records.iter().filter_map(|record| match record {
            Record::Transition(moved) => Some(moved),
            _ => None,
        })
    };
    let undisrupted =
        |stopped: &&StoppedWorker| others_undisrupted(stopped, injected, lease + GOAL);
    let paused = &pauses_of_everything(records);
    let (alone, among_others): (Vec<_>, Vec<_>) = injected.killed.iter().partition(undisrupted);
    Recovery {
        after_kill: after_stop(moves(), alone, paused),
        after_kills: after_stop(moves(), among_others, paused),
        after_freeze: after_stop(moves(), injected.frozen.iter(), paused),
        after_flush: after_loss(moves(), &injected.flushed, paused),
        after_failover: after_loss(moves(), &injected.failed_over, paused),
        after_promotion: after_loss(moves(), &injected.promoted, paused),
    }
}

/// Whether no other worker was disrupted for `time` after the stop.
fn others_undisrupted(stopped: &StoppedWorker, injected: &InjectedFaults, time: Duration) -> bool {
    let meanwhile = stopped.at..=stopped.at + time;
    !injected
        .disruptions
        .iter()
        .any(|it| it.worker != stopped.worker && meanwhile.contains(&it.at))
}

/// When everything was paused, from before each pause to after it.
fn pauses_of_everything(records: &[Record]) -> Vec<(Timestamp, Timestamp)> {
    let mut pauses = Vec::new();
    let mut begun = None;
    for record in records {
        match record {
            Record::PauseChanged(change) if change.origin.is_none() => {
                if change.paused {
                    begun = Some(change.not_before);
                } else if let Some(begun) = begun.take() {
                    pauses.push((begun, change.at));
                }
            }
            _ => {}
        }
    }
    pauses
}

fn after_stop<'a>(
    moves: impl Iterator<Item = &'a Transition>,
    stopped: impl IntoIterator<Item = &'a StoppedWorker>,
    paused: &[(Timestamp, Timestamp)],
) -> LongestWait {
    let stopped: HashMap<_, _> = stopped
        .into_iter()
        .map(|stopped| (stopped.owner.as_str(), stopped))
        .collect();
    let mut lost: HashMap<RequestId, Timestamp> = HashMap::new();
    let mut longest = LongestWait::default();
    for moved in moves {
        let Some(before) = &moved.before else {
            continue;
        };
        if let Some(owner) = before.owner.as_deref()
            && moved.after.lost_claims > before.lost_claims
            && let Some(stopped) = stopped.get(owner)
            && moved.at <= stopped.until
        {
            lost.insert(moved.id, stopped.at);
        } else if moved.after.status == Status::Processing
            && let Some(at) = lost.remove(&moved.id)
        {
            longest.add(at, moved.at, paused);
        }
    }
    longest
}

/// From each moment at which notifications were lost.
fn after_loss<'a>(
    moves: impl Iterator<Item = &'a Transition>,
    lost: &[Timestamp],
    paused: &[(Timestamp, Timestamp)],
) -> LongestWait {
    let mut accepted: HashMap<RequestId, Timestamp> = HashMap::new();
    let mut longest = LongestWait::default();
    for moved in moves {
        // No notification is sent for a redelivery, so none can be lost.
        if moved.kind == RowKind::Redelivery {
            continue;
        }
        if moved.before.is_none() {
            accepted.insert(moved.id, moved.earliest());
        } else if let Some(since) = accepted.remove(&moved.id) {
            // The first transition of a pending job is its claim. `lost` is in time order, so the
            // first match gives the longest wait.
            let meanwhile = lost.iter().find(|at| (since..moved.at).contains(at));
            if let Some(at) = meanwhile {
                longest.add(*at, moved.at, paused);
            }
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use storm_shared::models::{RequestId, Status};

    use super::{LongestWait, Recovery, measure};
    use crate::chaos::{
        faults::{Disruption, InjectedFaults, StoppedWorker},
        history::{PauseChanged, Record, RowKind, RowState, Transition},
    };

    const LEASE: Duration = Duration::from_secs(3);

    fn disruption((worker, millis): (usize, i64)) -> Disruption {
        Disruption {
            worker,
            at: at(millis),
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_767_600_000_000 + millis).unwrap()
    }

    fn row_state(status: Status, owner: Option<&str>, lost_claims: i64) -> RowState {
        RowState {
            status,
            claim: 1,
            owner: owner.map(str::to_owned),
            attempts: 0,
            lost_claims,
            result: None,
            parks: 0,
        }
    }

    /// The transitions of one job through these states.
    fn moves(states: &[(i64, RowState)]) -> Vec<Record> {
        let id = RequestId::generate();
        let mut before = None;
        let moved = states.iter().map(|(millis, after)| {
            Record::Transition(Transition {
                kind: RowKind::Job,
                at: at(*millis),
                not_before: None,
                id,
                before: before.replace(after.clone()),
                after: after.clone(),
                was_due: None,
                due: None,
                erases: false,
                reason: None,
                by_filter: false,
            })
        });
        moved.collect()
    }

    #[test]
    fn a_killed_workers_jobs_are_timed_until_their_next_claim() {
        use Status::{Pending, Processing};
        let job = |claimed, taken| {
            moves(&[
                (0, row_state(Pending, None, 0)),
                (10, row_state(Processing, Some("dead"), 0)),
                (3100, row_state(Pending, None, 1)),
                (claimed, row_state(Processing, Some("other"), 1)),
                (taken, row_state(Pending, None, 2)),
                (9000, row_state(Processing, Some("third"), 2)),
            ])
        };
        let records: Vec<_> = [job(3200, 5000), job(3150, 5000)].concat();
        let mut injected = InjectedFaults {
            killed: vec![StoppedWorker {
                at: at(100),
                until: Timestamp::MAX,
                worker: 0,
                owner: "dead".to_owned(),
            }],
            ..InjectedFaults::default()
        };
        let longest = LongestWait {
            jobs: 2,
            time: Duration::from_millis(3100),
        };
        let alone = Recovery {
            after_kill: longest,
            ..Recovery::default()
        };
        assert_eq!(measure(&records, &injected, LEASE), alone);

        // No wait in which everything was paused counts.
        for (from, to, jobs) in [
            (50, 99, 2),
            (3120, 3160, 0),
            (3160, 3170, 1),
            (3201, 5000, 2),
        ] {
            let pause = [(from, true), (to, false)].map(|(millis, paused)| {
                Record::PauseChanged(PauseChanged {
                    at: at(millis),
                    not_before: at(millis),
                    origin: None,
                    paused,
                    audited: 1,
                })
            });
            let records = [records.clone(), pause.into()].concat();
            let recovery = measure(&records, &injected, LEASE);
            assert_eq!(recovery.after_kill.jobs, jobs, "{from}");
        }

        injected
            .disruptions
            .extend([(0, 200), (1, 99), (1, 5200)].map(disruption));
        assert_eq!(measure(&records, &injected, LEASE), alone);
        injected.disruptions.push(disruption((1, 4000)));
        let among_others = Recovery {
            after_kills: longest,
            ..Recovery::default()
        };
        assert_eq!(measure(&records, &injected, LEASE), among_others);
    }

    #[test]
    fn only_jobs_pending_at_a_flush_are_timed_from_it() {
        use Status::{Pending, Processing};
        let job = |accepted, claimed| {
            moves(&[
                (accepted, row_state(Pending, None, 0)),
                (claimed, row_state(Processing, Some("one"), 0)),
            ])
        };
        let records: Vec<_> = [job(0, 20), job(50, 1100), job(60, 700), job(200, 9000)].concat();
        let injected = InjectedFaults {
            flushed: vec![at(100)],
            ..InjectedFaults::default()
        };
        let after_flush = LongestWait {
            jobs: 2,
            time: Duration::from_secs(1),
        };
        let measured = measure(&records, &injected, LEASE);
        assert_eq!(
            measured,
            Recovery {
                after_flush,
                ..Recovery::default()
            }
        );
    }
}
