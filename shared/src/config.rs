//! The settings: built-in defaults, then a file, then the environment. They are read at start; a
//! few are reread on SIGHUP.
//!
//! `config/default.toml` documents names, units, bounds and defaults, and is compiled in. There is
//! one struct per concern. Its values have been checked, so no code checks them again.

mod access;
mod callback;
mod database;
mod db_url;
mod error;
mod file;
mod handlers;
mod layers;
mod log;
#[cfg(feature = "postgres")]
mod postgres_url;
mod redis_url;
mod reread;
mod updates;
mod values;
mod warning;

use std::{net::SocketAddr, time::Duration};

use self::layers::Layers;
#[cfg(feature = "postgres")]
pub use self::postgres_url::{PostgresHost, PostgresSettings, PostgresTls, without_password};
pub use self::{
    access::AccessSettings,
    callback::{CallbackSettings, RetrySettings},
    database::{DatabaseSettings, SqliteSettings},
    error::SettingError,
    handlers::{HandlerKind, HandlerSettings, Handlers, HttpHandler, MAX_HANDLERS, RETRY_JITTER},
    log::{LogFilter, LogFilterError},
    reread::{HANDLERS, REREAD, Reread, Rereader},
    updates::Updates,
    warning::Warning,
};
use crate::server;

/// The manual of the settings: each one with its unit, bounds and default, as TOML with comments.
pub const MANUAL: &str = layers::DEFAULTS;

/// The settings of all services.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store.
    pub store: StoreSettings,
    /// The queue that notifies workers. `None` if `REDIS_URL` is `none`: workers poll the database.
    pub queue: Option<QueueSettings>,
    /// The limits of every listener.
    pub http: HttpSettings,
    /// The API.
    pub api: ApiSettings,
    /// Authentication and rate limits.
    pub access: AccessSettings,
    /// The worker.
    pub worker: WorkerSettings,
    /// The delivery of callbacks.
    pub callback: CallbackSettings,
    /// The handlers: `HANDLERS__NAME__…`.
    pub handlers: Handlers,
    /// Bytes of bodies that the process holds at a time: `MEMORY_BUDGET`.
    pub memory_budget: usize,
    /// Time for which the API still accepts after SIGTERM, not ready: `SHUTDOWN_DELAY`.
    pub shutdown_delay: Duration,
    /// Time of the API to drain after a shutdown signal: `DRAIN_TIMEOUT`.
    pub drain_timeout: Duration,
    /// Which events are logged: `LOG`.
    pub log: LogFilter,
    /// Environment variables that look like misspelled settings. Log a warning for each.
    pub unknown_variables: Vec<String>,
    /// Settings that are accepted and doubtful. Log a warning for each.
    pub warnings: Vec<Warning>,
    /// Passes on the settings that are reread while the service runs.
    pub updates: Updates,
}

/// The settings of the store.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The database: `DB_URL`.
    pub database: DatabaseSettings,
    /// Writes that may wait for the writer: `DB_WRITE_QUEUE`.
    pub write_queue: usize,
    /// How long an operator's write waits for room among them: `HTTP_TIMEOUT`.
    pub operator_patience: Duration,
    /// How long an idempotency key belongs to its job at the least: `IDEMPOTENCY_WINDOW`.
    pub idempotency_window: Duration,
    /// How long a finished request is kept: `RETENTION`. `None`: for ever.
    pub retention: Option<Duration>,
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// A power cut.
    Full,
    /// A killed process, but not a power cut.
    Normal,
}

/// The settings of the queue.
#[derive(Clone)]
pub struct QueueSettings {
    /// The URL of the Redis server: `REDIS_URL`. It may contain a password: never log it.
    pub redis_url: String,
    /// The key of the stream: `QUEUE_NAME`.
    pub name: String,
    /// Entries that the stream keeps: `QUEUE_LENGTH`.
    pub length: usize,
}

impl std::fmt::Debug for QueueSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueSettings")
            .field("name", &self.name)
            .field("length", &self.length)
            .finish_non_exhaustive() // The URL may contain a password.
    }
}

/// The limits of every listener.
#[derive(Clone, Copy, Debug)]
pub struct HttpSettings {
    /// Open connections: `HTTP_CONNECTIONS`.
    pub connections: usize,
    /// Connections past that, which are being answered 503. Not a setting.
    pub refusals: usize,
    /// Time for a request's head, and again for its body: `HTTP_TIMEOUT`.
    pub timeout: Duration,
}

/// The settings of the API.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// The address at which it listens: `API_ADDR`.
    pub addr: SocketAddr,
    /// Threads that run `/sync`: `SYNC_THREADS`.
    pub sync_threads: usize,
    /// `/sync` requests that may wait for a thread: `SYNC_QUEUE`.
    pub sync_queue: usize,
    /// Time for a `/sync` request, waiting and running together: `SYNC_TIMEOUT`.
    pub sync_timeout: Duration,
    /// Async jobs that may be unfinished: `MAX_BACKLOG`.
    pub max_backlog: usize,
}

/// The settings of the worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The address of `/healthz` and `/metrics`: `WORKER_ADDR`.
    pub addr: SocketAddr,
    /// Jobs that run at a time: `WORKER_CONCURRENCY`.
    pub concurrency: u32,
    /// Sockets of callbacks and of requests to handlers for which the limit of open files leaves
    /// room. Not a setting.
    pub sockets: usize,
    /// How long a worker without a heartbeat keeps its jobs: `WORKER_LEASE`.
    pub lease: Duration,
    /// Lost claims in a row after which a job is a poison job: `MAX_CLAIMS`.
    pub max_claims: u32,
    /// How often the database is polled when there is no queue: `POLL_INTERVAL`.
    pub poll_interval: Duration,
    /// Time to drain after a shutdown signal: `DRAIN_TIMEOUT`. By default the longest timeout of a
    /// handler, at least 20 seconds and at most 5 minutes.
    pub drain_timeout: Duration,
}

/// A shorter lease could expire during an ordinary delay of the disk.
const MIN_LEASE: Duration = Duration::from_millis(500);

/// A shorter interval would keep a worker polling without a pause.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// `DRAIN_TIMEOUT=auto`, where no handler's work takes longer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest drain that `auto` can mean. Whatever stops processes has to wait for it.
const LONGEST_AUTO_DRAIN: Duration = Duration::from_mins(5);

/// A smaller budget would refuse bodies while a single full group commit, of 4 MiB, is written.
const MIN_MEMORY_BUDGET: usize = 8 << 20;

/// A larger budget is a mistake.
const MAX_MEMORY_BUDGET: usize = 1024 << 30;

/// The value of `REDIS_URL` that means that there is no Redis.
const NO_REDIS: &str = "none";

impl Settings {
    /// Reads the defaults, the file named by `STORM_CONFIG`, and the environment.
    ///
    /// # Errors
    /// The first setting that is not accepted, with its value and what is accepted.
    pub fn load() -> Result<Self, SettingError> {
        Self::read(&Layers::from_process()?)
    }

    /// Reads the defaults and then `overrides`, with upper-case names, in place of the environment.
    ///
    /// # Errors
    /// Those of [`Settings::load`].
    pub fn with<'a>(
        overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, SettingError> {
        let overrides = overrides
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Self::read(&Layers::new(None, overrides)?)
    }

    /// Reads the defaults and then `file`, without the environment.
    #[cfg(test)]
    pub(crate) fn from_file(file: &std::path::Path) -> Result<Self, SettingError> {
        Self::read(&Layers::new(Some(file), [])?)
    }

    /// The queue's name for the log, or `none`.
    pub fn queue_name(&self) -> &str {
        self.queue
            .as_ref()
            .map_or(NO_REDIS, |queue| queue.name.as_str())
    }

    fn read(layers: &Layers) -> Result<Self, SettingError> {
        let access = AccessSettings::read(layers)?;
        let store = StoreSettings::read(layers)?;
        let http_timeout = layers.duration("http_timeout")?;
        // An accept whose outcome is unknown is repeated for as long, and must find its job.
        if store.retention.is_some_and(|keep| keep < http_timeout) {
            return Err(layers.exceeds("http_timeout", "retention")?);
        }
        let callback = CallbackSettings::read(layers)?;
        let concurrency = worker_concurrency(layers)?;
        let handlers = Handlers::read(layers, &callback.retry)?;
        handlers.check_concurrency(concurrency)?;
        let drain = drain_timeout(layers)?;
        let mut warnings = Vec::from_iter(layers.file_warning().cloned());
        warnings.extend(access.warnings());
        warnings.extend(callback.warnings());
        warnings.extend(handlers.warnings());
        Ok(Self {
            store,
            queue: QueueSettings::read(layers)?,
            http: HttpSettings {
                connections: layers.number("http_connections", 1..=1_000_000)?,
                refusals: server::MAX_REFUSALS,
                timeout: http_timeout,
            },
            api: ApiSettings {
                addr: layers.address("api_addr")?,
                sync_threads: layers.number("sync_threads", 1..=1024)?,
                sync_queue: layers.number("sync_queue", 0..=1_000_000)?,
                sync_timeout: layers.duration("sync_timeout")?,
                max_backlog: layers.number("max_backlog", 1..=100_000_000)?,
            },
            access,
            worker: WorkerSettings {
                addr: layers.address("worker_addr")?,
                concurrency,
                sockets: usize::MAX,
                lease: layers.duration_from("worker_lease", MIN_LEASE)?,
                // From 2: a single kill by an operator is not evidence enough to fail a job.
                max_claims: layers.number("max_claims", 2..=100)?,
                poll_interval: layers.duration_from("poll_interval", MIN_POLL_INTERVAL)?,
                drain_timeout: drain.unwrap_or_else(|| {
                    let longest = handlers.longest_timeout();
                    longest.clamp(DRAIN_TIMEOUT, LONGEST_AUTO_DRAIN)
                }),
            },
            callback,
            handlers,
            memory_budget: layers.size("memory_budget", MIN_MEMORY_BUDGET..=MAX_MEMORY_BUDGET)?,
            shutdown_delay: layers.duration_from("shutdown_delay", Duration::ZERO)?,
            drain_timeout: drain.unwrap_or(DRAIN_TIMEOUT),
            log: layers.try_parse("log", LogFilter::parse)?,
            unknown_variables: layers.unknown_variables().to_vec(),
            warnings,
            updates: Updates::default(),
        })
    }
}

/// `DRAIN_TIMEOUT`; `None` if it is `auto`.
fn drain_timeout(layers: &Layers) -> Result<Option<Duration>, SettingError> {
    if layers.raw("drain_timeout")? == "auto" {
        return Ok(None);
    }
    layers.duration("drain_timeout").map(Some)
}

fn worker_concurrency(layers: &Layers) -> Result<u32, SettingError> {
    layers.number("worker_concurrency", 1..=1_000_000)
}

impl StoreSettings {
    /// Those of the database at `url`, which was given as the `argument` of a command, and the
    /// defaults besides. A password may be in `PGPASSWORD` or `PGPASSFILE` of the environment.
    ///
    /// # Errors
    /// The URL is not accepted. The error names the argument.
    pub fn of_argument(argument: &str, url: &str) -> Result<Self, SettingError> {
        let passwords = ["PGPASSWORD", "PGPASSFILE"].into_iter().filter_map(|name| {
            let value = std::env::var_os(name)?;
            Some((name.to_owned(), value.to_string_lossy().into_owned()))
        });
        let url = [("DB_URL".to_owned(), url.to_owned())];
        let layers = Layers::new(None, url.into_iter().chain(passwords))?;
        Self::read(&layers).map_err(|error| error.of_argument("DB_URL", argument))
    }

    fn read(layers: &Layers) -> Result<Self, SettingError> {
        let retention = layers.retention("retention")?;
        let idempotency_window = layers.duration("idempotency_window")?;
        // A key goes with its request.
        if retention.is_some_and(|keep| keep < idempotency_window) {
            return Err(layers.exceeds("idempotency_window", "retention")?);
        }
        Ok(Self {
            database: DatabaseSettings::read(layers)?,
            write_queue: layers.number("db_write_queue", 1..=1_000_000)?,
            operator_patience: layers.duration("http_timeout")?,
            idempotency_window,
            retention,
        })
    }
}

impl QueueSettings {
    /// Checks the name and the length even when there is no Redis, so that a mistake is not found
    /// only when Redis is turned on.
    fn read(layers: &Layers) -> Result<Option<Self>, SettingError> {
        let redis_url = layers.try_parse_secret("redis_url", |url| match url {
            NO_REDIS => Ok(url.to_owned()),
            url => redis_url::parse(url),
        })?;
        let queue = Self {
            redis_url,
            name: layers.parse("queue_name", "a key of 1 to 200 characters", |name| {
                (1..=200)
                    .contains(&name.chars().count())
                    .then(|| name.to_owned())
            })?,
            length: layers.number("queue_length", 1..=100_000_000)?,
        };
        Ok(Some(queue).filter(|queue| queue.redis_url != NO_REDIS))
    }
}

#[cfg(test)]
mod tests;
