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

/// One worker. Each of its processes has its own owner id.
#[derive(Debug)]
pub(super) struct Worker {
    service: Service,
    owner: Option<String>,
}

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
        Self {
            service: Service::new(&name, "storm-worker", addr, place, settings),
            owner: None,
        }
    }

    /// Starts it and waits for an HTTP response and a heartbeat.
    pub(super) async fn start(&mut self, audit: &Audit) -> Result<()> {
        let before = audit.heartbeats().await?;
        self.owner = None;
        self.service.start().await?;
        self.wait_for_heartbeat(audit, &before).await
    }

    /// Sends SIGCONT and waits for a heartbeat: under the same owner id, or under a new one if its
    /// lease had expired.
    pub(super) async fn thaw(&mut self, audit: &Audit) -> Result<()> {
        let before = audit.heartbeats().await?;
        self.service.process()?.thaw()?;
        self.wait_for_heartbeat(audit, &before).await
    }

    /// Waits for its heartbeat and learns its owner id: an id that was not there `before` is this
    /// worker's, because only one worker starts at a time.
    async fn wait_for_heartbeat(
        &mut self,
        audit: &Audit,
        before: &HashMap<String, i64>,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = audit.heartbeats().await?;
            // `None` is less than any `Some`, so a row that was deleted is no heartbeat.
            let beat = |owner: &String| now.get(owner) > before.get(owner);
            if self.owner.as_ref().is_some_and(beat) {
                return Ok(());
            }
            if let Some(new) = now.into_keys().find(|owner| !before.contains_key(owner)) {
                self.owner = Some(new);
                return Ok(());
            }
            let name = self.service.name();
            ensure!(
                start.elapsed() < TIMEOUT,
                "{name} is running, but has no heartbeat"
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The owner id of the current process; none before its first heartbeat.
    pub(super) fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    pub(super) fn service(&mut self) -> &mut Service {
        &mut self.service
    }
}
