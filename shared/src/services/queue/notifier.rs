//! The writing side: ids are queued without waiting, and pushed in pipelined batches.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{Queue, QueueError, link::Link};
use crate::models::RequestId;

/// Capacity of the channel. Ids beyond it are dropped: workers find those rows in the table.
const CAPACITY: usize = 8192;

/// Maximum entries per pipeline.
const BATCH: usize = 512;

/// How long pushing the remaining ids may take at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Notifies workers of new jobs. Clones share one task.
#[derive(Clone)]
pub struct Notifier {
    ids: mpsc::Sender<RequestId>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Notifier {
    /// Starts the task that pushes to the stream.
    pub fn start(queue: Queue) -> Self {
        let (ids, queued) = mpsc::channel(CAPACITY);
        let task = tokio::spawn(run(queue, queued));
        Self {
            ids,
            task: Arc::new(Mutex::new(Some(task))),
        }
    }

    /// Queues a notification. Never waits: drops it if the channel is full.
    pub fn notify(&self, id: RequestId) {
        // A full channel means that Redis is slow or down. Workers then take jobs from the table.
        let _ = self.ids.try_send(id);
    }

    /// Pushes the queued ids, within a second. The task ends once every clone is dropped.
    pub async fn close(self) {
        let Self { ids, task } = self;
        drop(ids);
        // Clones share the task. Only the first one to close finds it here.
        let task = task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && tokio::time::timeout(FLUSH_TIMEOUT, &mut task)
                .await
                .is_err()
        {
            // The ids that are left need no push: their rows are committed.
            task.abort();
        }
    }
}

async fn run(queue: Queue, mut queued: mpsc::Receiver<RequestId>) {
    let mut link = Link::new("notifier");
    let mut batch = Vec::with_capacity(BATCH);
    while queued.recv_many(&mut batch, BATCH).await > 0 {
        match push(&queue, &batch).await {
            Ok(()) => link.up(),
            Err(error) => link.down(&error).await,
        }
        // A batch that failed is dropped, not retried: the table has the jobs.
        batch.clear();
    }
}

async fn push(queue: &Queue, ids: &[RequestId]) -> Result<(), QueueError> {
    let mut connection = queue.pool.get().await?;
    // A pipeline, not MULTI: each entry is a hint of its own, and a part of them helps, too.
    let mut pipeline = redis::Pipeline::with_capacity(ids.len());
    for id in ids {
        pipeline
            .cmd("XADD")
            .arg(&queue.key)
            // Approximate trimming: Redis drops whole nodes, which is cheaper than an exact length.
            .arg("MAXLEN")
            .arg("~")
            .arg(queue.length)
            .arg("*")
            .arg("id")
            .arg(id.to_string())
            .arg("store")
            .arg(&queue.store)
            .ignore();
    }
    Ok(pipeline.exec_async(&mut connection).await?)
}
