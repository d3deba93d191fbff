//! When the auditor saw the commit of each transaction: which ones were over, at each reading.

use std::str::FromStr;

use anyhow::Context as _;
use jiff::Timestamp;

/// The transactions that were over at one moment: `pg_current_snapshot()`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// All before this one were over.
    least: u64,
    /// Neither this one was over, nor any after it.
    end: u64,
    /// Those between them that were not.
    running: Vec<u64>,
}

impl Snapshot {
    /// Whether this transaction was over. If it has logged something, it was committed.
    fn shows(&self, transaction: u64) -> bool {
        transaction < self.least
            || (transaction < self.end && self.running.binary_search(&transaction).is_err())
    }
}

impl FromStr for Snapshot {
    type Err = anyhow::Error;

    /// Parses `10:20:10,14,15`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || -> Option<Self> {
            let mut parts = text.split(':');
            let (least, end, running) = (parts.next()?, parts.next()?, parts.next()?);
            let running = running.split(',').filter(|it| !it.is_empty());
            let mut running: Vec<u64> = running.map(str::parse).collect::<Result<_, _>>().ok()?;
            running.sort_unstable();
            Some(Self {
                least: least.parse().ok()?,
                end: end.parse().ok()?,
                running,
            })
        };
        parse().with_context(|| format!("`{text}` is no snapshot"))
    }
}

/// The readings, in order.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    readings: Vec<Reading>,
    /// The first reading of each server after a failover.
    eras: Vec<usize>,
}

/// Readings of the same snapshot.
#[derive(Debug)]
struct Reading {
    snapshot: Snapshot,
    /// When the first of them was complete: what it shows was committed by then.
    seen: Timestamp,
    /// When the last of them began: nothing else was committed yet.
    nothing_later: Timestamp,
}

impl Snapshots {
    /// Adds a reading that began and ended at these moments.
    pub(super) fn add(&mut self, began: Timestamp, snapshot: Snapshot, ended: Timestamp) {
        let is_first = self.eras.last() == Some(&self.readings.len());
        match self.readings.last_mut() {
            Some(last) if last.snapshot == snapshot && !is_first => last.nothing_later = began,
            _ => self.readings.push(Reading {
                snapshot,
                seen: ended,
                nothing_later: began,
            }),
        }
    }

    /// The next readings are of another server.
    pub(super) fn begin_era(&mut self) {
        self.eras.push(self.readings.len());
    }

    /// The earliest and the latest moment at which this transaction was committed; none if no
    /// reading shows both. It must be one that has logged something.
    pub(super) fn of(&self, transaction: u64) -> Option<(Timestamp, Timestamp)> {
        // A transaction of the old primary that was rolled back may not have reached the standby,
        // which then gives its number to another one. What the old one showed does not count.
        let is_later = |first: &&usize| {
            let first = self.readings.get(**first);
            first.is_some_and(|first| transaction >= first.snapshot.end)
        };
        let from = self.eras.iter().rev().find(is_later).map_or(0, |it| *it);
        let later = &self.readings[from..];
        let first = from + later.partition_point(|it| !it.snapshot.shows(transaction));
        let before = self.readings.get(first.checked_sub(1)?)?;
        Some((before.nothing_later, self.readings.get(first)?.seen))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Snapshot, Snapshots};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn snapshots(readings: &[(i64, &str, i64)]) -> Snapshots {
        let mut snapshots = Snapshots::default();
        add(&mut snapshots, readings);
        snapshots
    }

    fn add(snapshots: &mut Snapshots, readings: &[(i64, &str, i64)]) {
        for (began, snapshot, ended) in readings {
            snapshots.add(at(*began), snapshot.parse().unwrap(), at(*ended));
        }
    }

    #[test]
    fn a_snapshot_shows_what_was_over() {
        let snapshot: Snapshot = "10:15:10,13".parse().unwrap();
        let shown: Vec<_> = (8..17).filter(|it| snapshot.shows(*it)).collect();
        assert_eq!(shown, [8, 9, 11, 12, 14]);
        for wrong in ["", "1:2", "a:2:", "1:2:x"] {
            assert!(wrong.parse::<Snapshot>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_transaction_was_committed_between_two_readings() {
        let snapshots = snapshots(&[
            (1, "10:10:", 2),
            (3, "10:10:", 4),
            // 11 was over before 10.
            (5, "10:12:10", 6),
            (7, "12:12:", 8),
        ]);
        assert_eq!(snapshots.of(11), Some((at(3), at(6))));
        assert_eq!(snapshots.of(10), Some((at(5), at(8))));
        // No reading shows when the first was not there yet, nor when the last is.
        assert_eq!((snapshots.of(9), snapshots.of(12)), (None, None));
    }

    #[test]
    fn a_number_that_the_old_primary_gave_to_another_transaction_is_judged_by_the_new_one() {
        // 20 was rolled back, and the standby has never heard of it.
        let mut snapshots = snapshots(&[(1, "19:19:", 2), (3, "21:21:", 4)]);
        snapshots.begin_era();
        add(&mut snapshots, &[(5, "20:20:", 6), (7, "21:21:", 8)]);
        assert_eq!(snapshots.of(20), Some((at(5), at(8))));
        assert_eq!(snapshots.of(19), Some((at(1), at(4))));
    }
}
