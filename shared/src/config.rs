//! Every setting, read once at start: built-in defaults, then a file, then the environment.
//!
//! The names, units and defaults stand in `config/default.toml`, which is compiled in. One struct
//! for each concern; a value in it has been checked and needs no check again.

mod access;
mod layers;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use redis::IntoConnectionInfo as _;
use tracing_subscriber::EnvFilter;

use crate::services::{
    signature::Signer,
    ssrf::{AllowList, DenyList, Nat64, Policy, PolicySettings, Ports},
};

pub use access::AccessSettings;
use layers::Layers;
pub use layers::SettingError;

/// Every setting with its unit and default, as TOML with comments: the manual.
pub const MANUAL: &str = layers::DEFAULTS;

/// Every setting of every service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where jobs are kept.
    pub store: StoreSettings,
    /// Where workers are rung; nothing where `REDIS_URL` is `none`, and the table is only polled.
    pub queue: Option<QueueSettings>,
    /// The bounds of every listener.
    pub http: HttpSettings,
    /// The API's own.
    pub api: ApiSettings,
    /// Who may ask, and how often.
    pub access: AccessSettings,
    /// The worker's own.
    pub worker: WorkerSettings,
    /// How callbacks are delivered, and where they may go.
    pub callback: CallbackSettings,
    /// How long a process that was told to end finishes what it has: `DRAIN_TIMEOUT`.
    pub drain_timeout: Duration,
    /// A `tracing` filter: `LOG`.
    pub log: String,
    /// Variables in the environment that look like settings and are none, for a warning.
    pub unknown_variables: Vec<String>,
}

/// The store's settings.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The database file, absolute: `DB_URL`.
    pub path: PathBuf,
    /// What a commit survives: `DB_SYNCHRONOUS`.
    pub synchronous: Synchronous,
    /// Writes that may wait for the writer: `DB_WRITE_QUEUE`.
    pub write_queue: usize,
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// A power cut.
    Full,
    /// A killed process.
    Normal,
}

/// The queue's settings.
#[derive(Clone)]
pub struct QueueSettings {
    /// The Redis server, with its password: `REDIS_URL`. Never log it.
    pub redis_url: String,
    /// The stream's key: `QUEUE_NAME`.
    pub name: String,
    /// The most entries the stream keeps: `QUEUE_LENGTH`.
    pub length: usize,
}

impl std::fmt::Debug for QueueSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueSettings")
            .field("name", &self.name)
            .field("length", &self.length)
            .finish_non_exhaustive() // the URL may hold a password
    }
}

/// The bounds of every listener.
#[derive(Clone, Copy, Debug)]
pub struct HttpSettings {
    /// Connections at a time: `HTTP_CONNECTIONS`.
    pub connections: usize,
    /// For a request's head, and then its body: `HTTP_TIMEOUT`.
    pub timeout: Duration,
}

/// The API's settings.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// Where it listens: `API_ADDR`.
    pub addr: SocketAddr,
    /// Threads behind `/sync`: `SYNC_THREADS`.
    pub sync_threads: usize,
    /// Requests that may wait for them: `SYNC_QUEUE`.
    pub sync_queue: usize,
    /// Waiting plus running: `SYNC_TIMEOUT`.
    pub sync_timeout: Duration,
}

/// The worker's settings.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Where it answers `/healthz` and `/metrics`: `WORKER_ADDR`.
    pub addr: SocketAddr,
    /// Jobs that run at a time: `WORKER_CONCURRENCY`.
    pub concurrency: u32,
    /// How long a worker that is not heard of keeps its jobs: `WORKER_LEASE`.
    pub lease: Duration,
    /// Lost claims after which a job that took its worker down alone is given up: `MAX_CLAIMS`.
    pub max_claims: u32,
    /// How often the table is looked through where there is no queue: `POLL_INTERVAL`.
    pub poll_interval: Duration,
}

/// The callback's settings.
#[derive(Clone, Debug)]
pub struct CallbackSettings {
    /// Where callbacks may go: `CALLBACK_ALLOW`, `CALLBACK_DENY`, `CALLBACK_PORTS`, `CALLBACK_NAT64`.
    pub policy: Policy,
    /// For one attempt: `CALLBACK_TIMEOUT`.
    pub timeout: Duration,
    /// When a failed attempt is followed by another.
    pub retry: RetrySettings,
    /// Attempts at a time to one origin: `CALLBACK_PER_ORIGIN`.
    pub per_origin: usize,
    /// How long an attempt is put off at the most because its origin is down: `CALLBACK_PARK_MAX`.
    pub park_max: Duration,
    /// Jobs that may wait for one origin: `MAX_PARKED_PER_ORIGIN`.
    pub max_parked: usize,
    /// More trusted roots: `CALLBACK_CA_FILE`.
    pub ca_file: Option<PathBuf>,
    /// What signs callbacks: `CALLBACK_SIGNING_SECRETS`.
    pub signer: Signer,
}

/// When a failed attempt is followed by another.
#[derive(Clone, Debug)]
pub struct RetrySettings {
    /// The wait before each retry: `CALLBACK_RETRY_DELAYS`.
    pub delays: Vec<Duration>,
    /// By how much of itself a wait grows at the most, from 0 to 1: `CALLBACK_RETRY_JITTER`.
    pub jitter: f64,
    /// The longest wait that a receiver may ask for: `CALLBACK_RETRY_AFTER_MAX`.
    pub retry_after_max: Duration,
}

/// A shorter lease would be lost to an ordinary hiccup of the disk.
const SHORTEST_LEASE: Duration = Duration::from_millis(500);

/// Looking more often would be looking all the time.
const SHORTEST_POLL: Duration = Duration::from_millis(1);

impl Settings {
    /// Reads the defaults, the file that `STORM_CONFIG` names, and the environment.
    ///
    /// # Errors
    /// The first setting that can't be used, with its value and what is accepted.
    pub fn load() -> Result<Self, SettingError> {
        Self::read(&Layers::of_process()?)
    }

    /// Reads the defaults and then `overrides`, as if these (in upper case) were the environment.
    ///
    /// # Errors
    /// As for [`Settings::load`].
    pub fn with<'a>(
        overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, SettingError> {
        let overrides = overrides
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Self::read(&Layers::new(None, overrides)?)
    }

    /// What the log calls the queue: its name, or `none`.
    pub fn queue_name(&self) -> &str {
        self.queue
            .as_ref()
            .map_or(NO_REDIS, |queue| queue.name.as_str())
    }

    fn read(layers: &Layers) -> Result<Self, SettingError> {
        Ok(Self {
            store: StoreSettings::read(layers)?,
            queue: QueueSettings::read(layers)?,
            http: HttpSettings {
                connections: layers.number("http_connections", 1..=1_000_000)?,
                timeout: layers.duration("http_timeout")?,
            },
            api: ApiSettings {
                addr: layers.address("api_addr")?,
                sync_threads: layers.number("sync_threads", 1..=1024)?,
                sync_queue: layers.number("sync_queue", 0..=1_000_000)?,
                sync_timeout: layers.duration("sync_timeout")?,
            },
            access: AccessSettings::read(layers)?,
            worker: WorkerSettings {
                addr: layers.address("worker_addr")?,
                concurrency: layers.number("worker_concurrency", 1..=1_000_000)?,
                lease: layers.duration_from("worker_lease", SHORTEST_LEASE)?,
                max_claims: layers.number("max_claims", 2..=100)?,
                poll_interval: layers.duration_from("poll_interval", SHORTEST_POLL)?,
            },
            callback: CallbackSettings::read(layers)?,
            drain_timeout: layers.duration("drain_timeout")?,
            log: layers.parse("log", "a tracing filter, such as info", |filter| {
                EnvFilter::try_new(filter).ok().map(|_| filter.to_owned())
            })?,
            unknown_variables: layers.unknown_variables().to_vec(),
        })
    }
}

impl StoreSettings {
    fn read(layers: &Layers) -> Result<Self, SettingError> {
        Ok(Self {
            path: layers.parse("db_url", "sqlite:PATH, the path of a file", database_path)?,
            synchronous: layers.parse("db_synchronous", "full or normal", |word| match word {
                "full" => Some(Synchronous::Full),
                "normal" => Some(Synchronous::Normal),
                _ => None,
            })?,
            write_queue: layers.number("db_write_queue", 1..=1_000_000)?,
        })
    }
}

/// The `REDIS_URL` that says that there is none.
const NO_REDIS: &str = "none";

impl QueueSettings {
    /// The name and the length are checked also where they are not used.
    fn read(layers: &Layers) -> Result<Option<Self>, SettingError> {
        let redis_url = layers.parse_secret(
            "redis_url",
            "redis://[[user]:password@]host:port[/database], or none",
            |url| (url == NO_REDIS || url.into_connection_info().is_ok()).then(|| url.to_owned()),
        )?;
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

impl CallbackSettings {
    /// The longest that a job may be told to wait for its next attempt.
    pub fn longest_wait(&self) -> Duration {
        let delay = self.retry.delays.iter().max().copied();
        let delay = delay.unwrap_or_default().mul_f64(1.0 + self.retry.jitter);
        delay.max(self.retry.retry_after_max).max(self.park_max)
    }

    fn read(layers: &Layers) -> Result<Self, SettingError> {
        Ok(Self {
            policy: Policy::from(PolicySettings {
                allow: layers.try_parse("callback_allow", AllowList::parse)?,
                deny: layers.try_parse("callback_deny", DenyList::parse)?,
                ports: layers.try_parse("callback_ports", Ports::parse)?,
                nat64: layers.try_parse("callback_nat64", Nat64::parse)?,
            }),
            timeout: layers.duration("callback_timeout")?,
            retry: RetrySettings {
                delays: layers.durations("callback_retry_delays")?,
                jitter: layers.parse("callback_retry_jitter", "a number from 0 to 1", |text| {
                    text.parse().ok().filter(|n| (0.0..=1.0).contains(n))
                })?,
                retry_after_max: layers.duration("callback_retry_after_max")?,
            },
            per_origin: layers.number("callback_per_origin", 1..=100_000)?,
            park_max: layers.duration("callback_park_max")?,
            max_parked: layers.number("max_parked_per_origin", 1..=100_000_000)?,
            ca_file: Some(layers.text("callback_ca_file")?)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            signer: layers.try_parse_secret("callback_signing_secrets", Signer::parse)?,
        })
    }
}

/// The absolute path in `sqlite:PATH`, `sqlite://PATH` or `sqlite:///PATH`.
///
/// A database in memory can't be shared by two processes, and a query after `?` would be taken for
/// a part of the file's name: neither is accepted.
fn database_path(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.ends_with('/') || path.starts_with(':') || path.contains('?') {
        return None;
    }
    std::path::absolute(path).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Settings, Synchronous};

    fn refusal(name: &str, value: &str) -> String {
        Settings::with([(name, value)]).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_the_contracts() {
        let settings = Settings::with([]).unwrap();
        assert!(
            settings.store.path.is_absolute() && settings.store.path.ends_with("data/storm.db")
        );
        assert_eq!(settings.store.synchronous, Synchronous::Full);
        let queue = settings.queue.unwrap();
        assert_eq!(queue.redis_url, "redis://127.0.0.1:6379");
        assert_eq!(queue.name, "high_priority");
        assert_eq!(settings.api.addr.to_string(), "127.0.0.1:8000");
        assert_eq!(settings.worker.addr.to_string(), "127.0.0.1:9000");
        assert_eq!(
            (settings.api.sync_threads, settings.api.sync_queue),
            (4, 64)
        );
        assert_eq!(settings.api.sync_timeout, Duration::from_secs(5));
        assert_eq!(settings.worker.concurrency, 10_000);
        assert_eq!(settings.worker.lease, Duration::from_secs(15));
        assert_eq!(settings.worker.max_claims, 5);
        assert_eq!(settings.worker.poll_interval, Duration::from_millis(50));
        assert_eq!(settings.callback.timeout, Duration::from_secs(10));
        let callback = &settings.callback;
        assert_eq!(callback.retry.delays, [2, 4, 8].map(Duration::from_secs));
        assert!(callback.retry.jitter.abs() < f64::EPSILON);
        assert_eq!(callback.retry.retry_after_max, Duration::from_hours(1));
        assert_eq!((callback.per_origin, callback.max_parked), (256, 10_000));
        assert_eq!(callback.park_max, Duration::from_mins(5));
        assert_eq!(settings.callback.ca_file, None);
        assert_eq!(settings.callback.signer.secrets(), 0);
        assert_eq!(settings.log, "info");
    }

    #[test]
    fn a_bad_value_is_refused_with_its_name_itself_and_what_is_accepted() {
        for (name, value, accepted) in [
            ("SYNC_THREADS", "0", "a whole number from 1 to 1024"),
            ("SYNC_THREADS", "many", "a whole number from 1 to 1024"),
            (
                "SYNC_TIMEOUT",
                "5",
                "a duration above zero, up to 30d, such as 250ms, 10s or 5m",
            ),
            (
                "SYNC_TIMEOUT",
                "400000000000years",
                "a duration above zero, up to 30d, such as 250ms, 10s or 5m",
            ),
            (
                "SYNC_TIMEOUT",
                "0s",
                "a duration above zero, up to 30d, such as 250ms, 10s or 5m",
            ),
            (
                "WORKER_LEASE",
                "499ms",
                "a duration from 500ms to 30d, such as 250ms, 10s or 5m",
            ),
            (
                "POLL_INTERVAL",
                "999us",
                "a duration from 1ms to 30d, such as 250ms, 10s or 5m",
            ),
            ("MAX_CLAIMS", "1", "a whole number from 2 to 100"),
            ("DB_SYNCHRONOUS", "off", "full or normal"),
            (
                "DB_URL",
                "sqlite::memory:",
                "sqlite:PATH, the path of a file",
            ),
            (
                "DB_URL",
                "postgres://h/d",
                "sqlite:PATH, the path of a file",
            ),
            (
                "API_ADDR",
                "localhost",
                "address:port, such as 127.0.0.1:8000",
            ),
            ("CALLBACK_PROFILE", "staging", "default or production"),
            ("CALLBACK_RETRY_JITTER", "1.1", "a number from 0 to 1"),
            ("CALLBACK_RETRY_JITTER", "NaN", "a number from 0 to 1"),
            (
                "CALLBACK_PER_ORIGIN",
                "0",
                "a whole number from 1 to 100000",
            ),
            ("QUEUE_NAME", "", "a key of 1 to 200 characters"),
            ("LOG", "storm=louder", "a tracing filter, such as info"),
        ] {
            assert_eq!(
                refusal(name, value),
                format!("{name}={value}: expected {accepted}")
            );
        }
    }

    #[test]
    fn a_refusal_is_one_line_whatever_the_value() {
        let error = refusal("QUEUE_NAME", "a\nb");
        assert_eq!(
            error,
            r"QUEUE_NAME=a\nb: expected UTF-8 without control characters"
        );
    }

    #[test]
    fn a_net_that_exempts_the_whole_internet_is_refused() {
        assert!(refusal("CALLBACK_ALLOW", "0.0.0.0/0").starts_with("CALLBACK_ALLOW=0.0.0.0/0: "));
    }

    #[test]
    fn each_of_the_guards_settings_is_refused_by_its_name_where_it_can_not_be_used() {
        for (name, value) in [
            ("CALLBACK_ALLOW", "::/0"),
            ("CALLBACK_ALLOW", "10.0.0.1/8"),
            ("CALLBACK_DENY", "10.0.0.1/8"),
            ("CALLBACK_PORTS", "443;80"),
            ("CALLBACK_NAT64", "64:ff9b::/95"),
        ] {
            let error = refusal(name, value);
            assert!(error.starts_with(&format!("{name}={value}: ")), "{error}");
            assert!(
                error.contains("accepted ") || error.contains("a length of 32"),
                "{error}"
            );
            assert_eq!(error.lines().count(), 1);
        }
    }

    #[test]
    fn the_guards_settings_come_together_in_the_policy() {
        let settings = Settings::with([
            ("CALLBACK_ALLOW", "10.0.0.0/8"),
            ("CALLBACK_DENY", "10.9.0.0/16, ::/0"),
            ("CALLBACK_PORTS", "443,8000-8100"),
            ("CALLBACK_NAT64", "64:ff9b::/96"),
        ]);
        let policy = settings.unwrap().callback.policy;
        let judge = |address: &str| policy.check_address(address.parse().unwrap()).is_ok();
        assert!(judge("10.1.0.1") && !judge("10.9.0.1") && !judge("64:ff9b::1.1.1.1"));
        assert!(policy.check_port(8001).is_ok() && policy.check_port(80).is_err());
    }

    #[test]
    fn a_password_in_a_refused_url_is_not_printed() {
        let error = refusal("REDIS_URL", "http://:hunter2@example");
        assert!(
            error.starts_with("REDIS_URL=(hidden): expected redis://"),
            "{error}"
        );
        let error = refusal("REDIS_URL", "redis://:hunter2@example\nhunter2");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_signing_secret_is_neither_in_an_error_nor_in_debug_output() {
        const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for (value, problem) in [
            (
                format!("whsec_{SECRET}, {SECRET}"),
                "the 2nd key must begin",
            ),
            (format!("whsec_{SECRET}="), "the 1st key must be base64"),
            (format!("whsec_{SECRET}\u{0}"), "the 1st key must be base64"),
            (format!("whsk_{SECRET}"), "the 1st key must be the base64"),
            (format!("whsec_{SECRET} ").repeat(11), "expected at most 10"),
            (" , ".to_owned(), "expected keys between the commas"),
        ] {
            let error = Settings::with([("CALLBACK_SIGNING_SECRETS", &*value)]).unwrap_err();
            let text = error.to_string();
            let expected = format!("CALLBACK_SIGNING_SECRETS=(hidden): {problem}");
            assert!(text.starts_with(&expected), "{text}");
            assert!(!format!("{text} {error:?}").contains(SECRET), "{error:?}");
        }
        let two = format!("whsec_{SECRET},\n\twhsec_{SECRET}");
        let settings = Settings::with([("CALLBACK_SIGNING_SECRETS", &*two)]).unwrap();
        assert_eq!(settings.callback.signer.secrets(), 2);
        assert!(!format!("{settings:?}").contains(SECRET));
    }

    #[test]
    fn without_redis_there_is_no_queue_and_its_other_settings_are_still_checked() {
        let settings = Settings::with([("REDIS_URL", "none")]).unwrap();
        assert!(settings.queue.is_none());
        assert_eq!(settings.queue_name(), "none");
        let error = Settings::with([("REDIS_URL", "none"), ("QUEUE_LENGTH", "0")]).unwrap_err();
        assert!(error.to_string().starts_with("QUEUE_LENGTH=0: "), "{error}");
    }

    #[test]
    fn every_form_of_the_databases_url_is_read() {
        for (url, path) in [
            ("sqlite:/var/lib/storm.db", "/var/lib/storm.db"),
            ("sqlite:///var/lib/storm.db", "/var/lib/storm.db"),
        ] {
            let settings = Settings::with([("DB_URL", url)]).unwrap();
            assert_eq!(settings.store.path.to_str(), Some(path));
        }
    }

    #[test]
    fn no_delays_mean_no_retries() {
        let settings = Settings::with([("CALLBACK_RETRY_DELAYS", "")]).unwrap();
        assert!(settings.callback.retry.delays.is_empty());
    }

    #[test]
    fn the_production_profile_is_a_schedule_over_days_with_jitter_and_what_is_set_goes_before_it() {
        let profile = ("CALLBACK_PROFILE", "production");
        let retry = Settings::with([profile]).unwrap().callback.retry;
        let days = retry.delays.iter().sum::<Duration>().as_secs() / 86_400;
        assert!((3..=4).contains(&days), "{:?}", retry.delays);
        assert!((retry.jitter - 0.2).abs() < f64::EPSILON);
        let own = ("CALLBACK_RETRY_DELAYS", "1s");
        let retry = Settings::with([profile, own]).unwrap().callback.retry;
        assert_eq!(retry.delays, [Duration::from_secs(1)]);
        assert!((retry.jitter - 0.2).abs() < f64::EPSILON);
    }
}
