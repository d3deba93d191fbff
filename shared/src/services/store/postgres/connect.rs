//! The pool of connections to the server: addresses, TLS and time limits.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{
    Config, NoTls,
    config::{SslMode, TargetSessionAttrs},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls;
use crate::{
    config::{PostgresHost, PostgresSettings, PostgresTls},
    services::store::StoreError,
};

/// The most connections of a process: enough for the batches of each kind and some reads. A server
/// slows down with many.
pub(super) const CONNECTIONS: usize = 12;

/// How long one host may take to answer, before the next one is tried.
const CONNECT: Duration = Duration::from_secs(2);

/// A peer that is gone without a word is noticed after this long: while a connection is idle, and
/// while what was sent is not acknowledged.
const SILENCE: Duration = Duration::from_secs(10);

/// What the server's list of connections shows.
const APPLICATION: &str = "request-storm-handler";

/// Makes the pool. It connects when a connection is needed.
///
/// # Errors
/// The certificates of the authorities can't be read.
pub(super) fn pool(settings: &PostgresSettings) -> Result<Pool, StoreError> {
    let config = config(settings);
    let recycling = ManagerConfig {
        // A connection that has ended is known to have. The others are good: what fails on one
        // closes it.
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = match &settings.tls {
        PostgresTls::Disabled => Manager::from_config(config, NoTls, recycling),
        PostgresTls::Unverified => {
            let tls = MakeRustlsConnect::new(tls::unverified()?);
            Manager::from_config(config, tls, recycling)
        }
        PostgresTls::Verified(roots) => {
            let tls = MakeRustlsConnect::new(tls::verified(roots.as_deref())?);
            Manager::from_config(config, tls, recycling)
        }
    };
    Pool::builder(manager)
        .max_size(CONNECTIONS)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| StoreError::Unusable(error.to_string()))
}

fn config(settings: &PostgresSettings) -> Config {
    let mut config = Config::new();
    for host in &settings.hosts {
        match host {
            PostgresHost::Tcp(host, port) => config.host(host).port(*port),
            PostgresHost::Unix(directory, port) => config.host_path(directory).port(*port),
        };
    }
    if let Some(password) = &settings.password {
        config.password(password);
    }
    config
        .user(&settings.user)
        .dbname(&settings.database)
        .application_name(APPLICATION)
        .ssl_mode(match settings.tls {
            PostgresTls::Disabled => SslMode::Disable,
            PostgresTls::Unverified | PostgresTls::Verified(_) => SslMode::Require,
        })
        // Of several hosts, the one that can be written to: after a failover, another one.
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .connect_timeout(CONNECT)
        .keepalives(true)
        .keepalives_idle(SILENCE)
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3)
        .tcp_user_timeout(SILENCE);
    config
}
