//! How quickly jobs went on after what held them was gone: measured from the moves.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use storm_shared::models::{RequestId, Status};

use super::{
    faults::{Done, Stopped},
    history::{Moved, Record},
};

/// The longest times that jobs waited for somebody to go on with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// From a worker's kill to the last new claim of a job that it held, where the other worker was
    /// left in peace for a lease and two seconds more.
    pub after_kill: Longest,
    /// The same where it was not: whoever has only just begun to live, or to write again, lets a
    /// lease go by before it declares another dead.
    pub after_kills: Longest,
    /// From a worker's freeze, the same.
    pub after_freeze: Longest,
    /// From `FLUSHALL` to the first claim of the last job that waited then.
    pub after_flush: Longest,
}

/// The longest of some times, and what they are times of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Longest {
    /// Jobs that waited.
    pub jobs: u64,
    /// How long the last of them waited.
    #[serde(rename = "longest_ms", serialize_with = "crate::latency::as_millis")]
    pub time: Duration,
}

impl Longest {
    fn add(&mut self, from: Timestamp, to: Timestamp) {
        self.jobs += 1;
        self.time = self.time.max(to.duration_since(from).unsigned_abs());
    }
}

/// How long after a lease a killed worker's jobs may wait, by the project's own goal.
pub const GOAL: Duration = Duration::from_secs(2);

/// Measures them; `records` holds the moves in the order in which they were made.
pub(super) fn measure(records: &[Record], done: &Done, lease: Duration) -> Recovery {
    let moves = || {
        records.iter().filter_map(|record| match record {
            Record::Moved(moved) => Some(moved),
            _ => None,
        })
    };
    let in_peace = |stopped: &&Stopped| left_in_peace(stopped, done, lease + GOAL);
    let (alone, among_others): (Vec<_>, Vec<_>) = done.killed.iter().partition(in_peace);
    Recovery {
        after_kill: after_stop(moves(), alone),
        after_kills: after_stop(moves(), among_others),
        after_freeze: after_stop(moves(), done.frozen.iter()),
        after_flush: after_flush(moves(), &done.flushed),
    }
}

/// Whether the other workers had no trouble of their own for so long.
fn left_in_peace(stopped: &Stopped, done: &Done, time: Duration) -> bool {
    let meanwhile = stopped.at..=stopped.at + time;
    !done
        .troubles
        .iter()
        .any(|trouble| trouble.worker != stopped.worker && meanwhile.contains(&trouble.at))
}

fn after_stop<'a>(
    moves: impl Iterator<Item = &'a Moved>,
    stopped: impl IntoIterator<Item = &'a Stopped>,
) -> Longest {
    let stopped: HashMap<_, _> = stopped
        .into_iter()
        .map(|stopped| (stopped.owner.as_str(), stopped))
        .collect();
    let mut lost: HashMap<RequestId, Timestamp> = HashMap::new();
    let mut longest = Longest::default();
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
            longest.add(at, moved.at);
        }
    }
    longest
}

fn after_flush<'a>(moves: impl Iterator<Item = &'a Moved>, flushed: &[Timestamp]) -> Longest {
    let mut accepted: HashMap<RequestId, Timestamp> = HashMap::new();
    let mut longest = Longest::default();
    for moved in moves {
        if moved.before.is_none() {
            accepted.insert(moved.id, moved.at);
        } else if let Some(since) = accepted.remove(&moved.id) {
            let meanwhile = flushed.iter().find(|at| (since..moved.at).contains(at));
            if let Some(at) = meanwhile {
                longest.add(*at, moved.at);
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

    use super::{Longest, Recovery, measure};
    use crate::chaos::{
        faults::{Done, Stopped, Trouble},
        history::{Held, Moved, Record},
    };

    const LEASE: Duration = Duration::from_secs(3);

    fn trouble((worker, millis): (usize, i64)) -> Trouble {
        Trouble {
            worker,
            at: at(millis),
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_767_600_000_000 + millis).unwrap()
    }

    fn held(status: Status, owner: Option<&str>, lost_claims: i64) -> Held {
        Held {
            status,
            claim: 1,
            owner: owner.map(str::to_owned),
            attempts: 0,
            lost_claims,
            result: None,
            parks: 0,
        }
    }

    /// A job's states, one after the other.
    fn moves(states: &[(i64, Held)]) -> Vec<Record> {
        let id = RequestId::generate();
        let mut before = None;
        let moved = states.iter().map(|(millis, after)| {
            Record::Moved(Moved {
                at: at(*millis),
                id,
                before: before.replace(after.clone()),
                after: after.clone(),
            })
        });
        moved.collect()
    }

    #[test]
    fn a_killed_workers_jobs_are_timed_until_somebody_goes_on_with_them() {
        use Status::{Pending, Processing};
        let job = |claimed, taken| {
            moves(&[
                (0, held(Pending, None, 0)),
                (10, held(Processing, Some("dead"), 0)),
                (3100, held(Pending, None, 1)),
                (claimed, held(Processing, Some("other"), 1)),
                (taken, held(Pending, None, 2)),
                (9000, held(Processing, Some("third"), 2)),
            ])
        };
        let records: Vec<_> = [job(3200, 5000), job(3150, 5000)].concat();
        let mut done = Done {
            killed: vec![Stopped {
                at: at(100),
                until: Timestamp::MAX,
                worker: 0,
                owner: "dead".to_owned(),
            }],
            ..Done::default()
        };
        let longest = Longest {
            jobs: 2,
            time: Duration::from_millis(3100),
        };
        let alone = Recovery {
            after_kill: longest,
            ..Recovery::default()
        };
        assert_eq!(measure(&records, &done, LEASE), alone);

        done.troubles
            .extend([(0, 200), (1, 99), (1, 5200)].map(trouble));
        assert_eq!(measure(&records, &done, LEASE), alone);
        done.troubles.push(trouble((1, 4000)));
        let among_others = Recovery {
            after_kills: longest,
            ..Recovery::default()
        };
        assert_eq!(measure(&records, &done, LEASE), among_others);
    }

    #[test]
    fn only_jobs_that_waited_at_a_flush_are_timed_from_it() {
        use Status::{Pending, Processing};
        let job = |accepted, claimed| {
            moves(&[
                (accepted, held(Pending, None, 0)),
                (claimed, held(Processing, Some("one"), 0)),
            ])
        };
        let records: Vec<_> = [job(0, 20), job(50, 1100), job(60, 700), job(200, 9000)].concat();
        let done = Done {
            flushed: vec![at(100)],
            ..Done::default()
        };
        let after_flush = Longest {
            jobs: 2,
            time: Duration::from_secs(1),
        };
        let measured = measure(&records, &done, LEASE);
        assert_eq!(
            measured,
            Recovery {
                after_flush,
                ..Recovery::default()
            }
        );
    }
}
