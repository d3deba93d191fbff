//! The `PostgreSQL` servers of a run: a primary and its synchronous standby, each behind a proxy.

use std::{fs, mem, path::PathBuf};

use anyhow::{Context as _, Result};
use storm_shared::services::access::Token;

use super::{
    audit::{Audit, Login, PostgresAudit},
    postgres_server::{PostgresServer, Programs},
    proxy::{Proxy, ProxyMode},
    stack::free_addr,
};
use crate::cli::ChaosOptions;

/// The role of the services, which logs in with a password, and their database.
const ROLE: &str = "storm";
const DATABASE: &str = "chaos";

/// How a server that was the primary becomes the standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    /// With a new copy of all data.
    Copied,
    /// What it alone had is undone (`pg_rewind`).
    Rewound,
}

/// Both servers. Dropping this kills them, and removes their data.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) primary: PostgresServer,
    pub(super) standby: PostgresServer,
    /// Each leads to one server, whether it is the primary or not.
    proxies: [Proxy; 2],
    folder: PathBuf,
    password: Token,
}

impl Servers {
    /// Starts both, with an empty database for the services.
    pub(super) async fn start(options: &ChaosOptions, programs: &Programs) -> Result<Self> {
        let folder = programs.new_folder()?;
        let new = |base, name| -> Result<_> {
            let addr = free_addr(base)?;
            Ok(PostgresServer::new(
                programs,
                addr,
                &folder,
                &options.dir,
                name,
            ))
        };
        // Of other ranges than those of the services and of Redis.
        let (primary, standby) = (new(4_000, "postgres-1")?, new(8_000, "postgres-2")?);
        let proxies = [
            Proxy::start("127.0.0.1:0".parse()?, primary.addr()).await?,
            Proxy::start("127.0.0.1:0".parse()?, standby.addr()).await?,
        ];
        // From here on the folder is removed whatever happens.
        let mut servers = Self {
            primary,
            standby,
            proxies,
            folder,
            password: Token::generate()?,
        };
        servers.primary.init(ROLE).await?;
        servers.primary.start().await?;
        let password = servers.password.as_str();
        for statement in [
            format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'"),
            format!("CREATE DATABASE {DATABASE} OWNER {ROLE}"),
        ] {
            servers.primary.execute(&statement).await?;
        }
        servers.standby.copy(&servers.primary).await?;
        servers.standby.start().await?;
        servers.synchronize().await?;
        Ok(servers)
    }

    /// `DB_URL` of the services.
    pub(super) fn url(&self) -> String {
        let [one, two] = self.proxies.each_ref().map(Proxy::addr);
        let password = self.password.as_str();
        format!("postgres://{ROLE}:{password}@{one},{two}/{DATABASE}")
    }

    /// With what the services log in.
    pub(super) fn password(&self) -> &str {
        self.password.as_str()
    }

    /// How the auditor logs in at the primary.
    pub(super) fn login(&self) -> Login {
        self.primary.login(DATABASE)
    }

    /// Changes the network between the services and both servers.
    pub(super) fn set_network(&self, network: ProxyMode) {
        for proxy in &self.proxies {
            proxy.set(network);
        }
    }

    /// Ends all connections of clients; or only those of the services.
    pub(super) async fn terminate(&self, everybody: bool) -> Result<()> {
        let terminate = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
                 AND (usename = '{ROLE}' OR {everybody})"
        );
        self.primary.execute(&terminate).await
    }

    /// Sets the `statement_timeout` of the services' role, on all connections.
    pub(super) async fn set_statement_timeout(&self, timeout: Option<&str>) -> Result<()> {
        let change = match timeout {
            Some(timeout) => format!("SET statement_timeout = '{timeout}'"),
            None => "RESET statement_timeout".to_owned(),
        };
        let alter = format!("ALTER ROLE {ROLE} {change}");
        self.primary.execute(&alter).await?;
        self.terminate(false).await
    }

    /// A transaction that has read, and is open until this is dropped.
    pub(super) async fn long_transaction(&self) -> Result<impl Sized + use<>> {
        let (client, open) = self.login().open().await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM requests";
        client.batch_execute(begin).await?;
        Ok((client, open))
    }

    /// Kills the primary and promotes the standby. The auditor follows.
    pub(super) async fn fail_over(&mut self, audit: &PostgresAudit) -> Result<()> {
        self.primary.kill().await?;
        // Its commits wait for no standby: it has none yet.
        self.standby.promote().await?;
        mem::swap(&mut self.primary, &mut self.standby);
        audit.follow(&self.login()).await
    }

    /// Starts the old primary as the new standby, on which commits wait from then on.
    pub(super) async fn take_back(&mut self, how: Return) -> Result<()> {
        match how {
            Return::Copied => self.standby.copy(&self.primary).await?,
            Return::Rewound => {
                // Only then its control file has the new timeline, which pg_rewind looks for.
                self.primary.execute("CHECKPOINT").await?;
                self.standby.rewind(&self.primary).await?;
            }
        }
        self.standby.start().await?;
        self.synchronize().await
    }

    /// From now on the primary's commits wait for the standby.
    async fn synchronize(&self) -> Result<()> {
        self.primary.wait_for_standby(false).await?;
        self.primary.set_synchronous(true).await?;
        self.primary.wait_for_standby(true).await
    }

    /// Restarts servers that exited by themselves. Returns one message for each.
    pub(super) async fn restart_crashed(&mut self) -> Result<Vec<String>> {
        let mut died = Vec::new();
        for server in [&mut self.primary, &mut self.standby] {
            if let Some(text) = server.unexpected_exit()? {
                died.push(text);
                server.start().await?;
            }
        }
        Ok(died)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.primary.kill_at_once();
        self.standby.kill_at_once();
        let _ = fs::remove_dir_all(&self.folder); // what is left is a temporary file
    }
}

/// The audit of servers.
pub(super) fn of_servers(audit: &Audit) -> Result<&PostgresAudit> {
    match audit {
        Audit::Postgres(audit) => Some(audit),
        Audit::Sqlite(_) => None,
    }
    .context("the database is a file")
}
