//! The plan of faults. It is deterministic: the same seed gives the same plan on the same engine.

use std::{fmt, time::Duration};

use fastrand::Rng;
use serde::Serialize;

use super::engine::Engine;

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
    /// SIGKILL to all processes of the primary, then a new server with the same data.
    PostgresKilled,
    /// An immediate stop of the primary, then a new server with the same data.
    PostgresStopped,
    /// The primary ends the connections of all services.
    SessionsTerminated,
    /// SIGSTOP to all processes of the primary, then SIGCONT: connections stay open, without any
    /// answer.
    PostgresFrozen,
    /// All connections to the servers break, and new ones are refused.
    PostgresCut,
    /// Connections to the servers stay open without any response.
    PostgresHalfOpen,
    /// SIGKILL to all processes of the primary, and the standby is promoted. The old primary comes
    /// back as a standby of it.
    PostgresFailover,
    /// The standby is killed, and comes back: no commit of the primary ends meanwhile.
    StandbyGone,
    /// Somebody reads in a transaction that does not end for a while.
    LongTransaction,
    /// The services' role has a `statement_timeout` for a while, on new connections.
    StatementTimeout,
}

/// Those of every engine. Of one without a file, no disk of the services fills up.
const COMMON: [FaultKind; 15] = [
    FaultKind::KillApi,
    FaultKind::KillWorker,
    FaultKind::KillRedis,
    FaultKind::RedisRestartedEmpty,
    FaultKind::FreezeWorker,
    FaultKind::Flushall,
    FaultKind::RedisCut,
    FaultKind::RedisDelayed,
    FaultKind::RedisHalfOpen,
    FaultKind::RedisFailover,
    FaultKind::ReceiverFails,
    FaultKind::ReceiverHangs,
    FaultKind::ReceiverCuts,
    FaultKind::DeployApi,
    FaultKind::DeployWorker,
];

const OF_SQLITE: [FaultKind; 1] = [FaultKind::DiskFull];

const OF_POSTGRES: [FaultKind; 10] = [
    FaultKind::PostgresKilled,
    FaultKind::PostgresStopped,
    FaultKind::SessionsTerminated,
    FaultKind::PostgresFrozen,
    FaultKind::PostgresCut,
    FaultKind::PostgresHalfOpen,
    FaultKind::PostgresFailover,
    FaultKind::StandbyGone,
    FaultKind::LongTransaction,
    FaultKind::StatementTimeout,
];

const CLOCK: [FaultKind; 2] = [FaultKind::ClockBack, FaultKind::ClockForward];

/// More per deck. A kill takes little time, and crash recovery is the most important property of a
/// job queue. The clock steps by seconds and by days, so each direction is there twice.
const MORE: [FaultKind; 12] = [
    FaultKind::ClockBack,
    FaultKind::ClockForward,
    FaultKind::KillApi,
    FaultKind::KillApi,
    FaultKind::KillApi,
    FaultKind::KillApi,
    FaultKind::KillWorker,
    FaultKind::KillWorker,
    FaultKind::KillWorker,
    FaultKind::KillWorker,
    FaultKind::KillWorker,
    FaultKind::KillRedis,
];

impl FaultKind {
    /// Every kind that a run on this engine injects.
    pub fn of(engine: Engine) -> Vec<Self> {
        let own: &[Self] = match engine {
            Engine::Sqlite => &OF_SQLITE,
            Engine::Postgres => &OF_POSTGRES,
        };
        [&COMMON[..], own, &CLOCK].concat()
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [&COMMON[..], &OF_SQLITE, &OF_POSTGRES, &CLOCK].concat();
        all.into_iter().find(|kind| kind.as_str() == name)
    }

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
            Self::PostgresKilled => "postgres_killed",
            Self::PostgresStopped => "postgres_stopped",
            Self::SessionsTerminated => "sessions_terminated",
            Self::PostgresFrozen => "postgres_frozen",
            Self::PostgresCut => "postgres_cut",
            Self::PostgresHalfOpen => "postgres_half_open",
            Self::PostgresFailover => "postgres_failover",
            Self::StandbyGone => "standby_gone",
            Self::LongTransaction => "long_transaction",
            Self::StatementTimeout => "statement_timeout",
        }
    }

    /// Whether it kills a process.
    pub const fn kills(self) -> bool {
        matches!(
            self,
            Self::KillApi
                | Self::KillWorker
                | Self::KillRedis
                | Self::RedisRestartedEmpty
                | Self::PostgresKilled
                | Self::PostgresFailover
                | Self::StandbyGone
        )
    }

    /// Whether it keeps every service from the database for a while.
    pub const fn is_of_database(self) -> bool {
        matches!(
            self,
            Self::DiskFull
                | Self::PostgresKilled
                | Self::PostgresStopped
                | Self::SessionsTerminated
                | Self::PostgresFrozen
                | Self::PostgresCut
                | Self::PostgresHalfOpen
                | Self::PostgresFailover
                | Self::StandbyGone
                | Self::StatementTimeout
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
            | Self::ClockForward
            | Self::SessionsTerminated => (0, 100),
            Self::PostgresKilled | Self::PostgresStopped | Self::PostgresFailover => (0, 500),
            Self::RedisCut
            | Self::RedisDelayed
            | Self::RedisHalfOpen
            | Self::DiskFull
            | Self::PostgresFrozen
            | Self::PostgresCut
            | Self::PostgresHalfOpen
            | Self::StandbyGone
            | Self::StatementTimeout => (500, 2000),
            Self::LongTransaction => (1000, 3000),
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
/// Faults are dealt from shuffled decks, each of which contains every kind.
#[derive(Clone, Debug)]
pub struct Plan {
    random: Rng,
    /// A whole one, in order.
    cards: Vec<FaultKind>,
    deck: Vec<FaultKind>,
}

impl Plan {
    /// The plan of `seed`.
    pub fn new(seed: u64, engine: Engine) -> Self {
        Self {
            random: Rng::with_seed(seed),
            cards: [&FaultKind::of(engine)[..], &MORE].concat(),
            deck: Vec::new(),
        }
    }

    /// The size of a deck: after this many faults every kind has been injected.
    pub fn deck(&self) -> usize {
        self.cards.len()
    }

    fn deal(&mut self) -> FaultKind {
        loop {
            if let Some(kind) = self.deck.pop() {
                return kind;
            }
            // A shuffled deck instead of independent draws: with these a short run could miss a
            // kind, and the rule `faults` would reject it.
            self.deck.clone_from(&self.cards);
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

    use super::{Engine, FaultKind, Plan};

    const ENGINES: [Engine; 2] = [Engine::Sqlite, Engine::Postgres];

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        for engine in ENGINES {
            let plan = |seed| Plan::new(seed, engine).take(200).collect::<Vec<_>>();
            assert_eq!(plan(7), plan(7));
            assert_ne!(plan(7), plan(8));
        }
    }

    #[test]
    fn every_deck_contains_every_kind_in_a_new_order() {
        for engine in ENGINES {
            let plan = Plan::new(3, engine);
            let size = plan.deck();
            let kinds: Vec<_> = plan.map(|fault| fault.kind).take(size * 5).collect();
            let all: HashSet<_> = FaultKind::of(engine).into_iter().collect();
            for dealt in kinds.chunks(size) {
                assert_eq!(dealt.iter().copied().collect::<HashSet<_>>(), all);
            }
            assert_ne!(kinds[..size], kinds[size..2 * size]);
        }
    }

    #[test]
    fn each_engine_has_its_own_faults() {
        let [sqlite, postgres] = ENGINES.map(FaultKind::of);
        assert!(sqlite.contains(&FaultKind::DiskFull));
        assert!(!postgres.contains(&FaultKind::DiskFull));
        assert!(postgres.contains(&FaultKind::PostgresFailover));
        assert!(!sqlite.contains(&FaultKind::PostgresFailover));
    }

    #[test]
    fn kills_are_the_most_frequent_faults_besides_clock_steps() {
        for (engine, least) in [(Engine::Sqlite, 500), (Engine::Postgres, 400)] {
            let faults = Plan::new(11, engine).filter(|fault| !fault.kind.steps_clock());
            let kills = faults.take(1000).filter(|fault| fault.kind.kills());
            assert!(kills.count() > least, "{engine}");
        }
    }

    #[test]
    fn a_kind_has_the_same_name_in_the_history_and_in_json() {
        for kind in ENGINES.into_iter().flat_map(FaultKind::of) {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert_eq!(FaultKind::named(kind.as_str()), Some(kind));
        }
    }
}
