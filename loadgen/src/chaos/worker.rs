//! A worker of a run, and by which name it signs its claims.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

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

    /// Starts it, and waits until it answers and its heartbeat is there: only one worker starts at
    /// a time, so the new heartbeat is its own.
    pub(super) async fn start(&mut self, audit: &Audit) -> Result<()> {
        let before: HashSet<_> = audit.owners().await?.into_iter().collect();
        self.owner = None;
        self.service.start().await?;
        let start = Instant::now();
        while self.owner.is_none() {
            let name = self.service.name();
            ensure!(
                start.elapsed() < PATIENCE,
                "{name} answers, and has no heartbeat"
            );
            sleep(LOOK).await;
            let owners = audit.owners().await?;
            self.owner = owners.into_iter().find(|owner| !before.contains(owner));
        }
        Ok(())
    }

    /// The name under which the present process claims jobs; none before the first one beats.
    pub(super) fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    pub(super) fn service(&mut self) -> &mut Service {
        &mut self.service
    }
}
