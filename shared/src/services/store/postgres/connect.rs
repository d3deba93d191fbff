//! The pool of connections to the server: addresses, TLS and time limits.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{
    Config,
    config::{SslMode, TargetSessionAttrs},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    hosts::{Connector, Host, Hosts},
    tls,
};
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
pub(super) fn pool(settings: &PostgresSettings) -> Result<(Pool, Arc<Hosts>), StoreError> {
    let recycling = ManagerConfig {
        // A connection that has ended is known to have. The others are good: what fails on one
        // closes it.
        recycling_method: RecyclingMethod::Fast,
    };
    let tls = match &settings.tls {
        PostgresTls::Disabled => None,
        PostgresTls::Unverified => Some(MakeRustlsConnect::new(tls::unverified()?)),
        PostgresTls::Verified(roots) => {
            Some(MakeRustlsConnect::new(tls::verified(roots.as_deref())?))
        }
    };
    let hosts = settings.hosts.iter().map(|host| Host {
        name: host.to_string(),
        config: config(settings, host),
    });
    let hosts = Arc::new(Hosts::new(hosts.collect(), tls));
    let connector = Connector(Arc::clone(&hosts));
    // Which host, the connector knows.
    let manager = Manager::from_connect(Config::new(), connector, recycling);
    let pool = Pool::builder(manager)
        .max_size(CONNECTIONS)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| StoreError::Unusable(error.to_string()))?;
    Ok((pool, hosts))
}

fn config(settings: &PostgresSettings, host: &PostgresHost) -> Config {
    let mut config = Config::new();
    match host {
        PostgresHost::Tcp(host, port) => config.host(host).port(*port),
        PostgresHost::Unix(directory, port) => config.host_path(directory).port(*port),
    };
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
        // One that can be written to: after a failover, it is another host.
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .connect_timeout(CONNECT)
        .keepalives(true)
        .keepalives_idle(SILENCE)
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3)
        .tcp_user_timeout(SILENCE);
    config
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SILENCE, config};
    use crate::config::{PostgresHost, PostgresSettings, PostgresTls};

    #[test]
    fn a_peer_that_is_gone_without_a_word_is_noticed() {
        let host = PostgresHost::Tcp("db".to_owned(), 5432);
        let settings = PostgresSettings {
            hosts: vec![host.clone()],
            user: "storm".to_owned(),
            password: None,
            database: "storm".to_owned(),
            tls: PostgresTls::Disabled,
        };
        let config = config(&settings, &host);
        assert!(config.get_keepalives());
        assert_eq!(config.get_keepalives_idle(), SILENCE);
        assert_eq!(config.get_tcp_user_timeout(), Some(&SILENCE));
        assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(2)));
        // A pooler knows no others of the parameters of a session.
        assert_eq!(config.get_options(), None);
    }
}
