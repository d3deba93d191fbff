//! The faults of `PostgreSQL` servers.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::sleep;

use super::FaultInjector;
use crate::chaos::{
    clock,
    plan::FaultKind,
    proxy::ProxyMode,
    servers::{Return, Servers, of_servers},
    stack::Database,
};

/// A role's `statement_timeout`: from one that ends nearly all statements to one that ends few.
const STATEMENT_TIMEOUTS: [&str; 4] = ["2ms", "10ms", "50ms", "200ms"];

impl FaultInjector<'_> {
    /// Injects a fault of the servers and heals it. Commits wait for the standby again when this
    /// returns.
    pub(super) async fn break_database(
        &mut self,
        kind: FaultKind,
        target: usize,
        hold: Duration,
    ) -> Result<String> {
        let servers = match &mut self.stack.database {
            Database::Servers(servers) => servers,
            Database::File(_) => bail!("no plan of SQLite has {kind}"),
        };
        match kind {
            FaultKind::PostgresKilled => {
                servers.primary.kill().await?;
                restart(servers, hold).await?;
            }
            FaultKind::PostgresStopped => {
                servers.primary.stop().await?;
                restart(servers, hold).await?;
            }
            FaultKind::SessionsTerminated => servers.terminate(true).await?,
            FaultKind::PostgresFrozen => {
                let others = servers.primary.freeze();
                sleep(hold).await;
                servers.primary.thaw(&others?)?;
            }
            FaultKind::PostgresCut => network(servers, ProxyMode::Cut, hold).await,
            FaultKind::PostgresHalfOpen => network(servers, ProxyMode::HalfOpen, hold).await,
            FaultKind::PostgresFailover => {
                self.injected.promoted.push(clock::now());
                servers.fail_over(of_servers(&self.stack.audit)?).await?;
                sleep(hold).await;
                let how = [Return::Copied, Return::Rewound][target % 2];
                servers.take_back(how).await?;
            }
            FaultKind::StandbyGone => {
                servers.standby.kill().await?;
                sleep(hold).await;
                servers.standby.start().await?;
                servers.primary.wait_for_standby(true).await?;
                return Ok("standby".to_owned());
            }
            FaultKind::LongTransaction => {
                let _open = servers.long_transaction().await?;
                sleep(hold).await;
            }
            FaultKind::StatementTimeout => {
                let timeout = STATEMENT_TIMEOUTS[target % STATEMENT_TIMEOUTS.len()];
                servers.set_statement_timeout(Some(timeout)).await?;
                sleep(hold).await;
                servers.set_statement_timeout(None).await?;
                return Ok(timeout.to_owned());
            }
            other => bail!("{other} is no fault of a database"),
        }
        Ok("postgres".to_owned())
    }
}

async fn restart(servers: &mut Servers, pause: Duration) -> Result<()> {
    sleep(pause).await;
    servers.primary.start().await?;
    servers.primary.wait_for_standby(true).await
}

async fn network(servers: &Servers, network: ProxyMode, hold: Duration) {
    servers.set_network(network);
    sleep(hold).await;
    servers.set_network(ProxyMode::Normal);
}
