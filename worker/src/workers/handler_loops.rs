//! The loops that find jobs for each handler, as handlers come and go.

use std::{collections::HashMap, sync::Arc};

use storm_shared::services::queue::{NotificationReader, Queue};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    drain::Drain,
    intake::{self, Intake},
    next_due::NextDue,
    shares::Shares,
    watchdog::Watchdogs,
};
use crate::handlers::{Handlers, Served};

/// Starts and stops the loops of handlers, until shutdown.
pub(super) struct HandlerLoops {
    /// What the loops of the common jobs have, with the watchdog of this one. Those of a handler
    /// have shares and a gate of their own, and each a watchdog.
    pub(super) common: Intake,
    pub(super) handlers: Handlers,
    pub(super) queue: Option<Queue>,
    /// The name of the process among the consumers of the streams.
    pub(super) consumer: String,
    pub(super) drain: Drain,
    pub(super) watchdogs: Watchdogs,
}

/// The loops of one handler.
struct Running {
    handler: Arc<Served>,
    stop: CancellationToken,
}

impl HandlerLoops {
    /// Runs until shutdown.
    pub(super) async fn run(self) {
        let mut changes = self.handlers.changes();
        let mut running = HashMap::new();
        let mut loops = JoinSet::new();
        // Of several readers with one name, one could take over what another one has just read.
        let mut started = 0_u64;
        loop {
            changes.borrow_and_update();
            // Before they can run more: short reports need the rest of the slots.
            let of_handlers = self.handlers.concurrency();
            self.common.shares.keep_for_handlers(of_handlers);
            let now = self.handlers.others();
            running.retain(|_, it: &mut Running| {
                let stays = now.iter().any(|other| Arc::ptr_eq(other, &it.handler));
                if !stays {
                    it.stop.cancel();
                }
                stays
            });
            for handler in now {
                if running.contains_key(&handler.name) {
                    continue;
                }
                started += 1;
                let stop = CancellationToken::new();
                self.start(&handler, &stop, started, &mut loops);
                running.insert(handler.name.clone(), Running { handler, stop });
            }
            if self.until_change(&mut changes, &mut loops).await.is_none() {
                break;
            }
        }
        // A read that is under way ends first.
        while loops.join_next().await.is_some() {}
    }

    async fn until_change(
        &self,
        changes: &mut watch::Receiver<()>,
        loops: &mut JoinSet<()>,
    ) -> Option<()> {
        let next = async {
            loop {
                tokio::select! {
                    _ = changes.changed() => return,
                    // Those of a handler that is gone.
                    Some(ended) = loops.join_next() => {
                        if let Err(panic) = ended && let Ok(panic) = panic.try_into_panic() {
                            // The worker ends, as it does when another loop panics.
                            std::panic::resume_unwind(panic);
                        }
                    }
                }
            }
        };
        self.common.wait_for(next).await
    }

    fn start(
        &self,
        handler: &Arc<Served>,
        stop: &CancellationToken,
        number: u64,
        loops: &mut JoinSet<()>,
    ) {
        let next_due = NextDue::new();
        let shares =
            Shares::of_handler(handler.name.clone(), handler.room.clone(), next_due.clone());
        let intake = || Intake {
            shares: shares.clone(),
            gate: Some(handler.gate.clone()),
            drain: self.drain.until(stop.clone()),
            watchdog: self.watchdogs.start(),
            ..self.common.clone()
        };
        let queue = self.queue.as_ref();
        let queue_status = queue.map(|queue| Arc::clone(queue.status()));
        loops.spawn(intake::from_table(intake(), next_due, queue_status));
        if let Some(queue) = queue {
            let consumer = format!("{}-{number}", self.consumer);
            let reader = NotificationReader::new(queue.of_handler(&handler.name), consumer);
            loops.spawn(intake::from_notifications(intake(), reader));
        }
    }
}
