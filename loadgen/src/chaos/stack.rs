//! The stack of a run: one api, two workers, a Redis with a standby behind a proxy, and the
//! database.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use hyper::header::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use storm_shared::services::access::Token;
use tokio::time::{Instant, sleep};

use super::{
    audit::Audit,
    clock,
    history::Footprint,
    proxy::Proxy,
    redis_server::RedisServer,
    service::{Service, ServicePaths},
    wall_clock::WallClock,
    worker::Worker,
};
use crate::{cli::ChaosOptions, signatures::VARIABLE};

/// The queue's stream in Redis.
const QUEUE: &str = "chaos";

/// The name of the client that sends all requests.
pub(super) const CLIENT: &str = "chaos";

/// The number of workers.
pub(super) const WORKERS: usize = 2;

/// Shorter timeouts and delays than the defaults, so that a short run covers many retries.
pub(super) const CALLBACK_TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const RETRY_DELAYS: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// Those of the handler. Its timeout is that of callbacks.
pub(super) const WORK_RETRY_DELAYS: [Duration; 2] =
    [Duration::from_millis(300), Duration::from_millis(800)];
/// Maximum attempts of a job, or of a redelivery.
pub(super) const ATTEMPTS: usize = 1 + RETRY_DELAYS.len();
/// Shorter than an attempt may take, so that a deploy has to release some jobs.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(300);
/// During a deploy of the API, clients are still accepted for this long.
const SHUTDOWN_DELAY: Duration = Duration::from_millis(200);
/// The injected kills are not caused by jobs, so no job may become poison: a high limit.
pub(super) const MAX_CLAIMS: i64 = 8;

/// Finished requests are deleted during the run. No key is free before: a request that is repeated
/// within this time is the same.
pub(super) const RETENTION: Duration = Duration::from_secs(20);

/// How long a service may take to exit after SIGTERM.
pub(super) const STOP_TIMEOUT: Duration = DRAIN_TIMEOUT
    .saturating_add(SHUTDOWN_DELAY)
    .saturating_add(Duration::from_secs(10));

/// How long the services may take to use a stepped clock, on a machine under load. They read it
/// every second, and save it as often.
const STEPPED_WITHIN: Duration = Duration::from_secs(30);

/// How exactly a saved wall clock must agree with the stepped one. Every step is longer, and a busy
/// service reads its two clocks one after the other.
const STEPPED_EXACTLY: SignedDuration = SignedDuration::from_secs(1);

/// How often the saved clock is read.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// All processes of a run. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) api: Service,
    pub(super) workers: [Worker; WORKERS],
    /// The master.
    pub(super) redis: RedisServer,
    /// Its replica.
    pub(super) standby: RedisServer,
    pub(super) proxy: Proxy,
    pub(super) audit: Audit,
    pub(super) wall_clock: WallClock,
    database: PathBuf,
    api_addr: SocketAddr,
    token: Token,
    operator: Token,
}

impl Stack {
    /// Starts all processes, with their data in the options' folder. The services use `wall_clock`,
    /// and the endpoint of the handler has the URL `work`.
    pub(super) async fn start(
        options: &ChaosOptions,
        wall_clock: WallClock,
        work: &str,
    ) -> Result<Self> {
        let place = ServicePaths {
            tether: std::env::current_exe()?,
            bin: options.bin.clone(),
            folder: options.dir.clone(),
        };
        let (mut redis, mut standby) = (
            new_redis(&place, options, "redis")?,
            new_redis(&place, options, "redis-2")?,
        );
        redis.start().await?;
        standby.start().await?;
        standby.replicate(Some(redis.addr())).await?;
        let proxy = Proxy::start(free_addr(16_000)?, redis.addr()).await?;

        let database = options.dir.join("storm.db");
        let api_addr = free_addr(20_000)?;
        let mut settings = settings(options, &database, proxy.addr());
        settings.extend(handler(work));
        // Authentication is on, so that every fault is injected with it.
        let token = Token::generate()?;
        settings.extend(wall_clock.environment());
        let operator = Token::generate()?;
        settings.push(("API_TOKENS", format!("{CLIENT}:{}", token.hash().to_hex())));
        settings.push((
            "ADMIN_TOKENS",
            format!("operator:{}", operator.hash().to_hex()),
        ));
        settings.push(("API_ADDR", api_addr.to_string()));
        let mut api = Service::new("api", "storm-api", api_addr, &place, settings.clone());
        api.start().await?;
        // Before the workers and the load start, so that no transition is missed.
        let audit = Audit::begin(&database).await?;

        // Removes `API_ADDR`, the last setting: the workers share the others.
        settings.pop();
        let mut workers = [
            Worker::new(1, free_addr(24_000)?, &place, &settings),
            // Of another range: neither worker has bound its port yet.
            Worker::new(2, free_addr(12_000)?, &place, &settings),
        ];
        for worker in &mut workers {
            worker.start(&audit).await?;
        }
        Ok(Self {
            api,
            workers,
            redis,
            standby,
            proxy,
            audit,
            wall_clock,
            database,
            api_addr,
            token,
            operator,
        })
    }

    /// The URL of the api.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.api_addr)
    }

    /// The `Authorization` header of each request of a client.
    pub(super) fn authorization(&self) -> Result<HeaderValue> {
        bearer(&self.token)
    }

    /// The `Authorization` header of each request of an operator.
    pub(super) fn operator(&self) -> Result<HeaderValue> {
        bearer(&self.operator)
    }

    /// Waits until each worker has sent two heartbeats: the first may have begun before.
    pub(super) async fn until_heartbeats(&self) -> Result<()> {
        let (before, start) = (self.audit.heartbeats().await?, Instant::now());
        loop {
            let now = self.audit.heartbeats().await?;
            let beats = |(owner, beat): (&String, &i64)| {
                before.get(owner).is_some_and(|before| *beat >= before + 2)
            };
            if now.iter().filter(|it| beats(*it)).count() >= WORKERS {
                return Ok(());
            }
            ensure!(
                start.elapsed() < STEPPED_WITHIN,
                "the workers sent no heartbeats within {} s",
                STEPPED_WITHIN.as_secs()
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The api and the workers.
    pub(super) fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        let workers = self.workers.iter_mut().map(Worker::service);
        std::iter::once(&mut self.api).chain(workers)
    }

    /// Restarts processes that exited without a signal from this run. Returns one message for each.
    pub(super) async fn restart_crashed(&mut self) -> Result<Vec<String>> {
        let mut died = Vec::new();
        if let Some(text) = self.api.unexpected_exit()? {
            died.push(text);
            self.api.start().await?;
        }
        for worker in &mut self.workers {
            if let Some(text) = worker.service().unexpected_exit()? {
                died.push(text);
                worker.start(&self.audit).await?;
            }
        }
        let master = self.redis.addr();
        if let Some(text) = self.redis.unexpected_exit()? {
            died.push(text);
            self.redis.start().await?;
        }
        if let Some(text) = self.standby.unexpected_exit()? {
            died.push(text);
            self.standby.start().await?;
            self.standby.replicate(Some(master)).await?;
        }
        Ok(died)
    }

    /// Promotes the standby, and moves the name of Redis to it. The old master stays reachable on
    /// open connections, as a read-only replica.
    pub(super) async fn fail_over(&mut self) -> Result<()> {
        self.standby.replicate(None).await?;
        self.redis.replicate(Some(self.standby.addr())).await?;
        self.proxy.redirect(self.standby.addr());
        std::mem::swap(&mut self.redis, &mut self.standby);
        Ok(())
    }

    /// Steps the services' wall clock, and waits until one of them has saved it.
    pub(super) async fn step_clock(&self, by: SignedDuration) -> Result<()> {
        self.wall_clock.step(by)?;
        let (stepped, start) = (clock::now(), Instant::now());
        loop {
            let saved = self.audit.store_clock().await?;
            let since = clock::now().duration_since(saved.saved_at());
            let expected = Timestamp::now() - since + self.wall_clock.offset();
            let wrong = Timestamp::from_millisecond(saved.saved_wall)?.duration_since(expected);
            if saved.saved_at() >= stepped && wrong.abs() < STEPPED_EXACTLY {
                return Ok(());
            }
            ensure!(
                start.elapsed() < STEPPED_WITHIN,
                "the services' wall clock was not stepped within {} s: it is {wrong:#} off",
                STEPPED_WITHIN.as_secs()
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Stops all services with SIGTERM. Returns one message per unclean shutdown.
    pub(super) async fn stop(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        for service in self.services() {
            if let Err(error) = service.stop(STOP_TIMEOUT).await {
                faults.push(format!("{error:#}"));
            }
        }
        faults
    }

    /// The number of entries in the stream.
    pub(super) async fn entries(&self) -> Result<u64> {
        self.redis.entries(QUEUE).await
    }

    /// The size of the write-ahead log, in bytes.
    pub(super) fn log(&self) -> u64 {
        let log = self.database.with_extension("db-wal");
        std::fs::metadata(log).map_or(0, |log| log.len())
    }

    /// Measures all resource sizes.
    pub(super) async fn footprint(&mut self, moment: &str) -> Result<Footprint> {
        let resident = |service: &mut Service| (service.name().to_owned(), service.resident());
        Ok(Footprint {
            at: clock::now(),
            moment: moment.to_owned(),
            database: self.audit.bytes().await?,
            log: self.log(),
            redis_memory: self.redis.memory().await?,
            redis_entries: self.entries().await?,
            resident: self.services().map(resident).collect(),
        })
    }
}

fn bearer(token: &Token) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.as_str()))?;
    // Its Debug output must not contain the token.
    value.set_sensitive(true);
    Ok(value)
}

fn new_redis(place: &ServicePaths, options: &ChaosOptions, name: &str) -> Result<RedisServer> {
    Ok(RedisServer::new(
        &place.tether,
        &options.redis_server,
        free_addr(28_000)?,
        &options.dir,
        name,
    ))
}

fn settings(
    options: &ChaosOptions,
    database: &Path,
    redis: SocketAddr,
) -> Vec<(&'static str, String)> {
    let duration = |duration: Duration| format!("{}ms", duration.as_millis());
    vec![
        ("DB_URL", format!("sqlite:{}", database.display())),
        ("REDIS_URL", format!("redis://{redis}")),
        ("QUEUE_NAME", QUEUE.to_owned()),
        ("WORKER_LEASE", duration(options.lease)),
        ("MAX_CLAIMS", MAX_CLAIMS.to_string()),
        ("DRAIN_TIMEOUT", duration(DRAIN_TIMEOUT)),
        ("SHUTDOWN_DELAY", duration(SHUTDOWN_DELAY)),
        // The receivers listen on loopback, which the SSRF policy refuses by default.
        ("CALLBACK_ALLOW", "127.0.0.1/32".to_owned()),
        ("CALLBACK_TIMEOUT", duration(CALLBACK_TIMEOUT)),
        (
            "CALLBACK_RETRY_DELAYS",
            RETRY_DELAYS.map(duration).join(","),
        ),
        // The same secrets as the receivers, which verify the signatures.
        (VARIABLE, env::var(VARIABLE).unwrap_or_default()),
        ("RETENTION", duration(RETENTION)),
        ("IDEMPOTENCY_WINDOW", duration(RETENTION)),
        ("LOG", "info".to_owned()),
    ]
}

/// The settings of the HTTP handler, whose name is in their names: `orders::HANDLER`.
fn handler(url: &str) -> [(&'static str, String); 4] {
    let delays = WORK_RETRY_DELAYS.map(|it| format!("{}ms", it.as_millis()));
    [
        ("HANDLERS__CHAOS__URL", url.to_owned()),
        (
            "HANDLERS__CHAOS__TIMEOUT",
            format!("{}ms", CALLBACK_TIMEOUT.as_millis()),
        ),
        ("HANDLERS__CHAOS__RETRY_DELAYS", delays.join(",")),
        // The endpoint verifies the signatures as the receivers do.
        (
            "HANDLERS__CHAOS__SECRET",
            env::var(VARIABLE).unwrap_or_default(),
        ),
    ]
}

/// A free address among the 4000 ports from `base`. They are below 32768, the start of the
/// ephemeral range, so that no outgoing connection takes the port while its process restarts.
fn free_addr(base: u16) -> Result<SocketAddr> {
    const TRIES: usize = 50;
    let any = || SocketAddr::from((Ipv4Addr::LOCALHOST, base + fastrand::u16(..4000)));
    std::iter::repeat_with(any)
        .take(TRIES)
        .find(|addr| TcpListener::bind(addr).is_ok())
        .with_context(|| format!("no free port found from {base} upwards"))
}
