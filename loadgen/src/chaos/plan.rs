//! What is broken, in which order: a seed makes the whole plan, and the same seed the same one.

use std::{fmt, time::Duration};

use fastrand::Rng;
use serde::Serialize;

/// A way to break something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// kill -9, and a new process.
    KillApi,
    /// kill -9, and a new process.
    KillWorker,
    /// kill -9, and a new process that has the old one's data.
    KillRedis,
    /// kill -9, and a new process without any data.
    RedisRestartedEmpty,
    /// SIGSTOP past the lease in the middle of callback attempts, then SIGCONT.
    FreezeWorker,
    /// `FLUSHALL`: stream and consumer group are gone.
    Flushall,
    /// Every connection to Redis breaks, and new ones are refused.
    RedisCut,
    /// Every packet to and from Redis takes its time.
    RedisDelayed,
    /// Connections to Redis stay open, and nothing comes back.
    RedisHalfOpen,
    /// A receiver answers 500.
    ReceiverFails,
    /// A receiver answers nothing.
    ReceiverHangs,
    /// A receiver closes the connection without an answer.
    ReceiverCuts,
    /// SIGTERM, and a new process when the old one has ended with 0.
    DeployApi,
    /// SIGTERM, and a new process when the old one has ended with 0.
    DeployWorker,
    /// No service can write a file any further.
    DiskFull,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::KillApi,
        Self::KillWorker,
        Self::KillRedis,
        Self::RedisRestartedEmpty,
        Self::FreezeWorker,
        Self::Flushall,
        Self::RedisCut,
        Self::RedisDelayed,
        Self::RedisHalfOpen,
        Self::ReceiverFails,
        Self::ReceiverHangs,
        Self::ReceiverCuts,
        Self::DeployApi,
        Self::DeployWorker,
        Self::DiskFull,
    ];

    /// What is done more often than the rest: a kill is over in a moment, and is what a job system
    /// is judged by first.
    const MORE_KILLS: [Self; 10] = [
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

    /// The word in a history.
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
            Self::ReceiverFails => "receiver_fails",
            Self::ReceiverHangs => "receiver_hangs",
            Self::ReceiverCuts => "receiver_cuts",
            Self::DeployApi => "deploy_api",
            Self::DeployWorker => "deploy_worker",
            Self::DiskFull => "disk_full",
        }
    }

    /// Whether it kills a process.
    pub const fn kills(self) -> bool {
        matches!(
            self,
            Self::KillApi | Self::KillWorker | Self::KillRedis | Self::RedisRestartedEmpty
        )
    }

    /// Between how many milliseconds and how many it lasts, beside what it takes by itself.
    const fn millis(self) -> (u64, u64) {
        match self {
            Self::KillApi | Self::KillRedis | Self::RedisRestartedEmpty => (50, 500),
            Self::KillWorker => (50, 1000),
            // On top of the lease.
            Self::FreezeWorker => (500, 1500),
            Self::Flushall | Self::DeployApi | Self::DeployWorker => (0, 100),
            Self::RedisCut | Self::RedisDelayed | Self::RedisHalfOpen | Self::DiskFull => {
                (500, 2000)
            }
            // Some longer than all the retries together: their jobs are to end FAILED.
            Self::ReceiverFails | Self::ReceiverHangs | Self::ReceiverCuts => (500, 8000),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One fault of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What is broken.
    pub kind: Kind,
    /// Which one, where there are several: to be taken modulo their number.
    pub target: usize,
    /// How long nothing is broken before it.
    pub pause: Duration,
    /// How long it stays broken.
    pub hold: Duration,
}

/// Between how many milliseconds and how many nothing is broken before a fault.
const PAUSE_MILLIS: (u64, u64) = (50, 350);

/// The faults of a seed, one after the other, without an end.
///
/// They are dealt from shuffled decks of [`Plan::DECK`] cards, each with every kind.
#[derive(Clone, Debug)]
pub struct Plan {
    random: Rng,
    deck: Vec<Kind>,
}

impl Plan {
    /// After so many faults every kind was done.
    pub const DECK: usize = Kind::ALL.len() + Kind::MORE_KILLS.len();

    /// The plan of `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            deck: Vec::new(),
        }
    }

    fn deal(&mut self) -> Kind {
        loop {
            if let Some(kind) = self.deck.pop() {
                return kind;
            }
            self.deck = [&Kind::ALL[..], &Kind::MORE_KILLS].concat();
            self.random.shuffle(&mut self.deck);
        }
    }

    fn between(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(self.random.u64(least..=most))
    }
}

impl Iterator for Plan {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        let kind = self.deal();
        Some(Planned {
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

    use super::{Kind, Plan};

    #[test]
    fn a_seed_is_a_plan() {
        let plan = |seed| Plan::new(seed).take(200).collect::<Vec<_>>();
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn every_deck_holds_every_kind_in_an_order_of_its_own() {
        let kinds = Plan::new(3).map(|fault| fault.kind);
        let kinds: Vec<_> = kinds.take(Plan::DECK * 5).collect();
        for dealt in kinds.chunks(Plan::DECK) {
            let deck: HashSet<_> = dealt.iter().collect();
            assert_eq!(deck.len(), Kind::ALL.len());
        }
        assert_ne!(kinds[..Plan::DECK], kinds[Plan::DECK..2 * Plan::DECK]);
    }

    #[test]
    fn more_than_half_of_all_faults_kill() {
        let kills = Plan::new(11).take(1000).filter(|fault| fault.kind.kills());
        assert!(kills.count() > 500);
    }

    #[test]
    fn a_kind_has_one_word_in_the_history_and_in_json() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
