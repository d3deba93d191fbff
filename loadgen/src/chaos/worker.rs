//! A worker of a run, and by which name it signs its claims.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

use super::{
    audit::Audit,
    service::{Place, Service},
};

/// How long after a worker answers its heartbeat is awaited.
const PATIENCE: Duration = Duration::from_secs(10);

const LOOK: Duration = Duration::from_millis(10);

/// One worker. Each of its processes has an owner id of its own.
#[derive(Debug)]
pub(super) struct Worker {
    service: Service,
    owner: Option<String>,
}

impl Worker {
    /// A worker that is not started yet.
    pub(super) fn new(
        number: usize,
        addr: SocketAddr,
        place: &Place,
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

    /// Starts it, and waits until it answers and its heart beats.
    pub(super) async fn start(&mut self, audit: &Audit) -> Result<()> {
        let before = audit.heartbeats().await?;
        self.owner = None;
        self.service.start().await?;
        self.beats(audit, &before).await
    }

    /// SIGCONT, and waits until its heart beats again: as itself, or as somebody else where it was
    /// declared dead.
    pub(super) async fn thaw(&mut self, audit: &Audit) -> Result<()> {
        let before = audit.heartbeats().await?;
        self.service.process()?.thaw()?;
        self.beats(audit, &before).await
    }

    /// Waits for a beat of its own, and learns by whose name it is: by one that was not there
    /// `before`, for only one worker at a time begins to live.
    async fn beats(&mut self, audit: &Audit, before: &HashMap<String, i64>) -> Result<()> {
        let start = Instant::now();
        loop {
            let now = audit.heartbeats().await?;
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
                start.elapsed() < PATIENCE,
                "{name} runs, and has no heartbeat"
            );
            sleep(LOOK).await;
        }
    }

    /// The name under which the present process claims jobs; none before the first one beats.
    pub(super) fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    pub(super) fn service(&mut self) -> &mut Service {
        &mut self.service
    }
}
