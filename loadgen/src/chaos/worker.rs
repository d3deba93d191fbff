//! A worker of a run, and the owner id of its claims.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

use super::{
    audit::Audit,
    service::{Service, ServicePaths},
};

/// How long to wait for the first heartbeat after a worker answers, on a machine under load.
const TIMEOUT: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// One worker. Each of its processes has its own owner id, and a new one each time that it has lost
/// its lease.
#[derive(Debug)]
pub(super) struct Worker(Service);

impl Worker {
    /// A worker that is not running yet.
    pub(super) fn new(
        number: usize,
        addr: SocketAddr,
        place: &ServicePaths,
        settings: &[(&'static str, String)],
    ) -> Self {
        let mut settings = settings.to_vec();
        settings.push(("WORKER_ADDR", addr.to_string()));
        let name = format!("worker-{number}");
        Self(Service::new(&name, "storm-worker", addr, place, settings))
    }

    /// Starts it and waits for an HTTP response and a heartbeat.
    pub(super) async fn start(&mut self, audit: &Audit) -> Result<()> {
        let before = audit.heartbeats().await?;
        self.0.start().await?;
        self.wait_for_heartbeat(audit, &before).await
    }

    /// Sends SIGCONT and waits for a heartbeat: under the same owner id, or under a new one if its
    /// lease had expired.
    pub(super) async fn thaw(&mut self, audit: &Audit) -> Result<()> {
        let before = audit.heartbeats().await?;
        self.0.process()?.thaw()?;
        self.wait_for_heartbeat(audit, &before).await
    }

    /// Waits for a heartbeat that was not there `before`. It is asked for its owner id each time:
    /// the id before can have lost its lease, to this fault or to an earlier one.
    async fn wait_for_heartbeat(&self, audit: &Audit, before: &HashMap<String, i64>) -> Result<()> {
        let start = Instant::now();
        loop {
            let owner = self.owner().await;
            let now = audit.heartbeats().await?;
            // `None` is less than any `Some`, so a row that was deleted is no heartbeat.
            if owner.is_some_and(|owner| now.get(&owner) > before.get(&owner)) {
                return Ok(());
            }
            let name = self.0.name();
            ensure!(
                start.elapsed() < TIMEOUT,
                "{name} is running, but has no heartbeat"
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The id under which it claims now, which it shows with its health; `None` without an answer.
    pub(super) async fn owner(&self) -> Option<String> {
        let health = self.0.health().await?;
        Some(health.get("owner")?.as_str()?.to_owned())
    }

    pub(super) fn service(&mut self) -> &mut Service {
        &mut self.0
    }
}
