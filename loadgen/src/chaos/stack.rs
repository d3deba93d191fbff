//! The stack of a run: the APIs, the workers, a Redis with a standby behind a proxy, the database.

use std::{
    collections::HashMap,
    env,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
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
#[cfg(feature = "postgres")]
use super::{postgres_server::Programs, servers::Servers};
use crate::{cli::ChaosOptions, signatures::VARIABLE};

/// The queue's stream in Redis.
const QUEUE: &str = "chaos";

/// The name of the client that sends all requests.
pub(super) const CLIENT: &str = "chaos";

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
    pub(super) apis: Vec<Service>,
    pub(super) workers: Vec<Worker>,
    /// The master.
    pub(super) redis: RedisServer,
    /// Its replica.
    pub(super) standby: RedisServer,
    pub(super) proxy: Proxy,
    pub(super) audit: Audit,
    pub(super) wall_clock: WallClock,
    pub(super) database: Database,
    api_addrs: Vec<SocketAddr>,
    token: Token,
    operator: Token,
}

/// Where the database is.
#[derive(Debug)]
pub(super) enum Database {
    File(PathBuf),
    #[cfg(feature = "postgres")]
    Servers(Box<Servers>),
}

impl Database {
    /// Starts servers, unless it is a file.
    #[cfg_attr(
        not(feature = "postgres"),
        allow(
            clippy::unused_async,
            clippy::unnecessary_wraps,
            reason = "servers are waited for"
        )
    )]
    async fn start(options: &ChaosOptions, place: &ServicePaths) -> Result<Self> {
        match &options.postgres {
            None => Ok(Self::File(options.dir.join("storm.db"))),
            #[cfg(feature = "postgres")]
            Some(folder) => {
                let programs = Programs::find(&place.tether, folder)?;
                let servers = Servers::start(options, &programs).await?;
                Ok(Self::Servers(Box::new(servers)))
            }
            #[cfg(not(feature = "postgres"))]
            Some(_) => {
                let _ = place;
                anyhow::bail!(crate::cli::NO_POSTGRES)
            }
        }
    }

    fn url(&self) -> String {
        match self {
            Self::File(file) => format!("sqlite:{}", file.display()),
            #[cfg(feature = "postgres")]
            Self::Servers(servers) => servers.url(),
        }
    }

    async fn audit(&self) -> Result<Audit> {
        match self {
            Self::File(file) => Audit::of_file(file).await,
            #[cfg(feature = "postgres")]
            Self::Servers(servers) => Audit::of_server(&servers.login()).await,
        }
    }

    #[cfg_attr(
        not(feature = "postgres"),
        allow(
            clippy::unused_async,
            clippy::unnecessary_wraps,
            reason = "servers are waited for"
        )
    )]
    async fn restart_crashed(&mut self) -> Result<Vec<String>> {
        match self {
            Self::File(_) => Ok(Vec::new()),
            #[cfg(feature = "postgres")]
            Self::Servers(servers) => servers.restart_crashed().await,
        }
    }
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

        let database = Database::start(options, &place).await?;
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
        let engine = options.engine();
        let (mut apis, mut api_addrs) = (Vec::new(), Vec::new());
        for name in names("api", engine.apis()) {
            let addr = free_addr(20_000)?;
            let mut settings = settings.clone();
            settings.push(("API_ADDR", addr.to_string()));
            let mut api = Service::new(&name, "storm-api", addr, &place, settings);
            api.start().await?;
            apis.push(api);
            api_addrs.push(addr);
        }
        // Before the workers and the load start, so that no transition is missed.
        let audit = database.audit().await?;

        let mut workers = Vec::new();
        for number in 1..=engine.workers() {
            // Started at once, so that the next one finds its port taken.
            let mut worker = Worker::new(number, free_addr(24_000)?, &place, &settings);
            worker.start(&audit).await?;
            workers.push(worker);
        }
        Ok(Self {
            apis,
            workers,
            redis,
            standby,
            proxy,
            audit,
            wall_clock,
            database,
            api_addrs,
            token,
            operator,
        })
    }

    /// The URLs of the APIs.
    pub(super) fn urls(&self) -> Vec<String> {
        let addrs = self.api_addrs.iter();
        addrs.map(|addr| format!("http://{addr}")).collect()
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
        // The count of each owner when it was seen first: one that loses its lease meanwhile begins
        // anew, under another id.
        let (mut first, start) = (HashMap::new(), Instant::now());
        loop {
            let now = self.audit.heartbeats().await?;
            let beats =
                |(owner, beat): (String, i64)| beat >= *first.entry(owner).or_insert(beat) + 2;
            if now.into_iter().map(beats).filter(|beats| *beats).count() >= self.workers.len() {
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

    /// The APIs and the workers.
    pub(super) fn services(&mut self) -> impl Iterator<Item = &mut Service> {
        let workers = self.workers.iter_mut().map(Worker::service);
        self.apis.iter_mut().chain(workers)
    }

    /// Restarts processes that exited without a signal from this run. Returns one message for each.
    pub(super) async fn restart_crashed(&mut self) -> Result<Vec<String>> {
        // First what the others need.
        let mut died = self.database.restart_crashed().await?;
        for api in &mut self.apis {
            if let Some(text) = api.unexpected_exit()? {
                died.push(text);
                api.start().await?;
            }
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
            let saved = self.audit.saved_clock().await?;
            let since = clock::now().duration_since(saved.at);
            let expected = Timestamp::now() - since + self.wall_clock.offset();
            let wrong = saved.wall.duration_since(expected);
            if saved.at >= stepped && wrong.abs() < STEPPED_EXACTLY {
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

    /// Stops all services with SIGTERM. Returns one message per unclean shutdown, and per log that
    /// shows a secret.
    pub(super) async fn stop(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        let secrets = self.secrets();
        for service in self.services() {
            if let Err(error) = service.stop(STOP_TIMEOUT).await {
                faults.push(format!("{error:#}"));
            }
            match service.shows(&secrets) {
                Ok(false) => {}
                Ok(true) => faults.push(format!("the log of {} shows a secret", service.name())),
                Err(error) => faults.push(format!("{error:#}")),
            }
        }
        faults
    }

    /// What the services know or are sent, and no log may show.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = vec![
            self.token.as_str().to_owned(),
            self.operator.as_str().to_owned(),
        ];
        #[cfg(feature = "postgres")]
        if let Database::Servers(servers) = &self.database {
            secrets.push(servers.password().to_owned());
        }
        let signing = env::var(VARIABLE).unwrap_or_default();
        let keys = signing.split(|it: char| it == ',' || it.is_whitespace());
        secrets.extend(keys.map(str::to_owned));
        secrets.retain(|secret| !secret.is_empty());
        secrets
    }

    /// The number of entries in the stream.
    pub(super) async fn entries(&self) -> Result<u64> {
        self.redis.entries(QUEUE).await
    }

    /// The size of the write-ahead log, in bytes. That of a server is bounded by its own settings.
    pub(super) fn log(&self) -> u64 {
        let log = match &self.database {
            Database::File(file) => file.with_extension("db-wal"),
            #[cfg(feature = "postgres")]
            Database::Servers(_) => return 0,
        };
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

/// The names of `count` processes of a kind, which has no number if it is the only one.
fn names(kind: &str, count: usize) -> Vec<String> {
    match count {
        1 => vec![kind.to_owned()],
        count => (1..=count).map(|it| format!("{kind}-{it}")).collect(),
    }
}

fn settings(
    options: &ChaosOptions,
    database: &Database,
    redis: SocketAddr,
) -> Vec<(&'static str, String)> {
    let duration = |duration: Duration| format!("{}ms", duration.as_millis());
    vec![
        ("DB_URL", database.url()),
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
pub(super) fn free_addr(base: u16) -> Result<SocketAddr> {
    const TRIES: usize = 50;
    let any = || SocketAddr::from((Ipv4Addr::LOCALHOST, base + fastrand::u16(..4000)));
    std::iter::repeat_with(any)
        .take(TRIES)
        .find(|addr| TcpListener::bind(addr).is_ok())
        .with_context(|| format!("no free port found from {base} upwards"))
}
