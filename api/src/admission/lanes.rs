//! Short and long jobs: each wait for workers in a lane of their own, which drains at a rate of its
//! own.

use storm_shared::services::store::{Ended, Load, TenantLoad};
use tokio::time::Instant;

use super::drain::{Drain, DrainRate, Sample};

/// Jobs that wait for workers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Short and long ones.
    All,
    Short,
    Long,
}

impl Lane {
    /// That of a short or a long job.
    pub(super) fn of(is_long: bool) -> Self {
        if is_long { Self::Long } else { Self::Short }
    }

    /// A tenant's jobs of this lane that wait.
    pub(super) fn waiting(self, load: &TenantLoad) -> u64 {
        let (short, long) = (load.waiting_short as u64, load.waiting_long as u64);
        self.part(short, long)
    }

    /// The jobs of this lane, of so many short and long ones.
    pub(super) fn part(self, short: u64, long: u64) -> u64 {
        match self {
            Self::All => short + long,
            Self::Short => short,
            Self::Long => long,
        }
    }

    fn ended(self, ended: Ended) -> u64 {
        let short = ended.jobs.saturating_sub(ended.long_jobs);
        self.part(short, ended.long_jobs)
    }

    /// What matters here of a load, of a backlog that is full with `limit` jobs.
    fn sample(self, load: &Load, limit: usize) -> Sample {
        let ended = load.ended.iter();
        Sample {
            waiting: match self {
                Self::All => load.waiting as u64,
                Self::Short | Self::Long => load.tenants.values().map(|it| self.waiting(it)).sum(),
            },
            // A full backlog is one of all jobs: it says nothing of the work of one lane.
            is_full: self == Self::All && load.unfinished >= limit,
            is_paused: load.is_paused,
            ended: ended
                .map(|(owner, ended)| (*owner, self.ended(*ended)))
                .collect(),
        }
    }
}

/// Measures the rates of all lanes.
#[derive(Debug)]
pub(super) struct Drains {
    limit: usize,
    all: Drain,
    short: Drain,
    long: Drain,
}

/// How fast the lanes drain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    pub(super) all: DrainRate,
    pub(super) short: DrainRate,
    pub(super) long: DrainRate,
}

impl Drains {
    /// Nothing is known yet. A backlog of `limit` unfinished jobs is full.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            all: Drain::new(),
            short: Drain::new(),
            long: Drain::new(),
        }
    }

    /// Takes the load that was counted at `at`. Returns the rates from then on.
    pub(super) fn counted(&mut self, at: Instant, load: &Load) -> Rates {
        let sample = |lane: Lane| lane.sample(load, self.limit);
        Rates {
            all: self.all.counted(at, sample(Lane::All)),
            short: self.short.counted(at, sample(Lane::Short)),
            long: self.long.counted(at, sample(Lane::Long)),
        }
    }
}

impl Rates {
    /// The rate of a lane. While it is unknown, that of all jobs.
    pub(super) fn of(&self, lane: Lane) -> DrainRate {
        let own = match lane {
            Lane::All => self.all,
            Lane::Short => self.short,
            Lane::Long => self.long,
        };
        if own.is_known() { own } else { self.all }
    }
}
