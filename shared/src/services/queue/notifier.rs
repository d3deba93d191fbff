//! The writing side: notifications are queued without waiting, and pushed in pipelined batches.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tracing::debug;

use super::{
    Notification, Queue, QueueError, batch, expiry::Expiries, link::Link, status::QueueStatus,
};
use crate::{
    models::HandlerName,
    services::store::{NewJob, OnStored},
};

/// Capacity of the channel. Notifications beyond it are dropped: workers find those rows in the
/// table.
const CAPACITY: usize = 8192;

/// Maximum notifications per pipeline.
const BATCH: usize = 512;

/// How often Redis is checked while there is nothing to push. So a failover is followed, and
/// reported, before the next job comes.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// How long pushing the rest may take at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Notifies workers of new jobs. Clones share one task.
#[derive(Clone)]
pub struct Notifier {
    notifications: mpsc::Sender<(HandlerName, Notification)>,
    status: Arc<QueueStatus>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Notifier {
    /// Starts the task that pushes to the stream.
    pub fn start(queue: Queue) -> Self {
        let (notifications, queued) = mpsc::channel(CAPACITY);
        let status = Arc::clone(&queue.status);
        let link = Link::new(&status, |status| &status.notifier);
        let task = tokio::spawn(run(queue, link, queued));
        Self {
            notifications,
            status,
            task: Arc::new(Mutex::new(Some(task))),
        }
    }

    /// Queues a notification of a report. Never waits: drops it if the channel is full.
    pub fn notify(&self, notification: impl Into<Notification>) {
        self.notify_of(HandlerName::REPORT, notification.into());
    }

    /// The same of a job of `handler`, which goes into the handler's own stream.
    pub fn notify_of(&self, handler: HandlerName, notification: Notification) {
        // A full channel means that Redis is slow or down. Workers then take jobs from the table.
        if self
            .notifications
            .try_send((handler, notification))
            .is_err()
        {
            self.status.overflowed.add(1);
        }
    }

    /// What notifies of `job` once it is stored.
    pub fn on_stored(&self, job: &NewJob) -> OnStored {
        let (notifier, handler) = (self.clone(), job.handler.clone());
        let notification = Notification::of(job);
        Arc::new(move || notifier.notify_of(handler.clone(), notification.clone()))
    }

    /// Pushes what is queued, within a second. The task ends once every clone is dropped.
    pub async fn close(self) {
        let Self {
            notifications,
            task,
            ..
        } = self;
        drop(notifications);
        // Clones share the task. Only the first one to close finds it here.
        let task = task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(FLUSH_TIMEOUT, &mut task).await.is_err()
        {
            // What is left needs no push: its rows are committed.
            task.abort();
        }
    }
}

async fn run(
    queue: Queue,
    mut link: Link,
    mut queued: mpsc::Receiver<(HandlerName, Notification)>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut expiries = Expiries::default();
    let mut wait = Duration::ZERO; // the first check comes at once
    loop {
        let sent = match timeout(wait, queued.recv_many(&mut batch, BATCH)).await {
            Ok(0) => return,
            Ok(_) => {
                let pushed = push(&queue, &batch).await;
                if pushed.is_ok() {
                    put_off_expiry(&queue, &batch, &mut expiries).await;
                }
                Some(pushed)
            }
            Err(_) => None,
        };
        wait = IDLE_CHECK;
        match sent {
            Some(Err(error)) => {
                // A batch that failed is dropped, not retried: the table has the jobs.
                queue.status.unsent.add(batch.len());
                link.down(&error).await;
            }
            Some(Ok(())) if !link.is_down() => {}
            // The check asks for more than a push. If only that is refused, each push would end the
            // outage that the next check begins.
            sent => match queue.check().await {
                Ok(()) => link.up(),
                Err(error) if sent.is_some() => link.failed(&error), // the next push may succeed
                Err(error) => link.down(&error).await,
            },
        }
        batch.clear();
    }
}

/// Apart from the push: a user who may not `EXPIRE` notifies all the same.
async fn put_off_expiry(
    queue: &Queue,
    pushed: &[(HandlerName, Notification)],
    expiries: &mut Expiries,
) {
    let written = pushed.iter().map(|(handler, _)| handler);
    for command in expiries.put_off(queue, written) {
        let mut pipeline = redis::pipe();
        pipeline.add_command(command);
        if let Err(error) = queue.connections.run(&pipeline).await {
            debug!(%error, "a stream's expiry was not put off");
        }
    }
}

async fn push(
    queue: &Queue,
    notifications: &[(HandlerName, Notification)],
) -> Result<(), QueueError> {
    let entries = batch::commands(queue, notifications);
    queue.connections.run(&entries).await
}
