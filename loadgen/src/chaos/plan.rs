//! The plan of faults. It is deterministic: the same seed gives the same plan.

use std::{fmt, time::Duration};

use fastrand::Rng;
use serde::Serialize;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// SIGKILL, then a new process.
    KillApi,
    /// SIGKILL, then a new process.
    KillWorker,
    /// SIGKILL, then a new process with the same data.
    KillRedis,
    /// SIGKILL, then a new process without data.
    RedisRestartedEmpty,
    /// SIGSTOP during callback attempts until after lease expiry, then SIGCONT.
    FreezeWorker,
    /// `FLUSHALL`: the stream and its consumer group are lost.
    Flushall,
    /// All connections to Redis break, and new ones are refused.
    RedisCut,
    /// All traffic to and from Redis is delayed.
    RedisDelayed,
    /// Connections to Redis stay open without any response.
    RedisHalfOpen,
    /// The standby becomes the master, and its name with it. Open connections stay with the old
    /// master, which is now a read-only replica.
    RedisFailover,
    /// A receiver answers 500.
    ReceiverFails,
    /// A receiver hangs.
    ReceiverHangs,
    /// A receiver closes the connection without a response.
    ReceiverCuts,
    /// SIGTERM, then a new process once the old one has exited with 0.
    DeployApi,
    /// SIGTERM, then a new process once the old one has exited with 0.
    DeployWorker,
    /// No service can grow a file.
    DiskFull,
    /// The wall clock of all services is set back, by seconds to days. It stays wrong.
    ClockBack,
    /// The wall clock of all services is set forward, by seconds to days. It stays wrong.
    ClockForward,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::KillApi,
        Self::KillWorker,
        Self::KillRedis,
        Self::RedisRestartedEmpty,
        Self::FreezeWorker,
        Self::Flushall,
        Self::RedisCut,
        Self::RedisDelayed,
        Self::RedisHalfOpen,
        Self::RedisFailover,
        Self::ReceiverFails,
        Self::ReceiverHangs,
        Self::ReceiverCuts,
        Self::DeployApi,
        Self::DeployWorker,
        Self::DiskFull,
        Self::ClockBack,
        Self::ClockForward,
    ];

    /// More per deck. A kill takes little time, and crash recovery is the most important property
    /// of a job queue. The clock steps by seconds and by days, so each direction is there twice.
    const MORE: [Self; 12] = [
        Self::ClockBack,
        Self::ClockForward,
        Self::KillApi,
        Self::KillApi,
        Self::KillApi,
        Self::KillApi,
        Self::KillWorker,
        Self::KillWorker,
        Self::KillWorker,
        Self::KillWorker,
        Self::KillWorker,
        Self::KillRedis,
    ];

    /// Its name in a history.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KillApi => "kill_api",
            Self::KillWorker => "kill_worker",
            Self::KillRedis => "kill_redis",
            Self::RedisRestartedEmpty => "redis_restarted_empty",
            Self::FreezeWorker => "freeze_worker",
            Self::Flushall => "flushall",
            Self::RedisCut => "redis_cut",
            Self::RedisDelayed => "redis_delayed",
            Self::RedisHalfOpen => "redis_half_open",
            Self::RedisFailover => "redis_failover",
            Self::ReceiverFails => "receiver_fails",
            Self::ReceiverHangs => "receiver_hangs",
            Self::ReceiverCuts => "receiver_cuts",
            Self::DeployApi => "deploy_api",
            Self::DeployWorker => "deploy_worker",
            Self::DiskFull => "disk_full",
            Self::ClockBack => "clock_back",
            Self::ClockForward => "clock_forward",
        }
    }

    /// Whether it kills a process.
    pub const fn kills(self) -> bool {
        matches!(
            self,
            Self::KillApi | Self::KillWorker | Self::KillRedis | Self::RedisRestartedEmpty
        )
    }

    /// Whether it steps the wall clock.
    pub const fn steps_clock(self) -> bool {
        matches!(self, Self::ClockBack | Self::ClockForward)
    }

    /// The minimum and maximum duration in milliseconds, in addition to the injection itself.
    const fn millis(self) -> (u64, u64) {
        match self {
            Self::KillApi | Self::KillRedis | Self::RedisRestartedEmpty => (50, 500),
            Self::KillWorker => (50, 1000),
            // On top of the lease.
            Self::FreezeWorker => (500, 1500),
            // The injection is the whole fault. The injector ignores their hold.
            Self::Flushall
            | Self::RedisFailover
            | Self::DeployApi
            | Self::DeployWorker
            | Self::ClockBack
            | Self::ClockForward => (0, 100),
            Self::RedisCut | Self::RedisDelayed | Self::RedisHalfOpen | Self::DiskFull => {
                (500, 2000)
            }
            // Some last longer than all retries together, so that jobs end as FAILED.
            Self::ReceiverFails | Self::ReceiverHangs | Self::ReceiverCuts => (500, 8000),
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One planned fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedFault {
    /// The kind of fault.
    pub kind: FaultKind,
    /// The index of the target, modulo the number of targets.
    pub target: usize,
    /// The pause before it.
    pub pause: Duration,
    /// The time until it is healed.
    pub hold: Duration,
}

/// The minimum and maximum pause before a fault, in milliseconds.
const PAUSE_MILLIS: (u64, u64) = (50, 350);

/// The endless sequence of faults of one seed.
///
/// Faults are dealt from shuffled decks of [`Plan::DECK`] faults. Each deck contains every kind.
#[derive(Clone, Debug)]
pub struct Plan {
    random: Rng,
    deck: Vec<FaultKind>,
}

impl Plan {
    /// The size of a deck: after this many faults every kind has been injected.
    pub const DECK: usize = FaultKind::ALL.len() + FaultKind::MORE.len();

    /// The plan of `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            deck: Vec::new(),
        }
    }

    fn deal(&mut self) -> FaultKind {
        loop {
            if let Some(kind) = self.deck.pop() {
                return kind;
            }
            // A shuffled deck instead of independent draws: with these a short run could miss a
            // kind, and the rule `faults` would reject it.
            self.deck = [&FaultKind::ALL[..], &FaultKind::MORE].concat();
            self.random.shuffle(&mut self.deck);
        }
    }

    fn between(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(self.random.u64(least..=most))
    }
}

impl Iterator for Plan {
    type Item = PlannedFault;

    fn next(&mut self) -> Option<PlannedFault> {
        let kind = self.deal();
        // Fields are evaluated in this order. Another order would give each seed another plan.
        Some(PlannedFault {
            kind,
            target: self.random.usize(..),
            pause: self.between(PAUSE_MILLIS),
            hold: self.between(kind.millis()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{FaultKind, Plan};

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        let plan = |seed| Plan::new(seed).take(200).collect::<Vec<_>>();
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn every_deck_contains_every_kind_in_a_new_order() {
        let kinds = Plan::new(3).map(|fault| fault.kind);
        let kinds: Vec<_> = kinds.take(Plan::DECK * 5).collect();
        for dealt in kinds.chunks(Plan::DECK) {
            let deck: HashSet<_> = dealt.iter().collect();
            assert_eq!(deck.len(), FaultKind::ALL.len());
        }
        assert_ne!(kinds[..Plan::DECK], kinds[Plan::DECK..2 * Plan::DECK]);
    }

    #[test]
    fn more_than_half_of_all_faults_besides_clock_steps_are_kills() {
        let faults = Plan::new(11).filter(|fault| !fault.kind.steps_clock());
        let kills = faults.take(1000).filter(|fault| fault.kind.kills());
        assert!(kills.count() > 500);
    }

    #[test]
    fn a_kind_has_the_same_name_in_the_history_and_in_json() {
        for kind in FaultKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
