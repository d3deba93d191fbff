//! The pushing side: ids go in without waiting, and come out in pipelines.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{Queue, QueueError, link::Link};
use crate::models::RequestId;

/// Ids that may wait to be pushed. One more is dropped: its row is found in the table.
const WAITING: usize = 8192;

/// The most entries in one pipeline.
const BATCH: usize = 512;

/// How long the last ids may take to be pushed when the process ends.
const FLUSH: Duration = Duration::from_secs(1);

/// Rings for new jobs; clones share one task.
#[derive(Clone)]
pub struct Notifier {
    ids: mpsc::Sender<RequestId>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Notifier {
    /// Starts the task that pushes.
    pub fn start(queue: Queue) -> Self {
        let (ids, waiting) = mpsc::channel(WAITING);
        let task = tokio::spawn(run(queue, waiting));
        Self {
            ids,
            task: Arc::new(Mutex::new(Some(task))),
        }
    }

    /// Rings for a job, if there is room to. Never waits.
    pub fn notify(&self, id: RequestId) {
        // A full channel means that Redis is slow or down. The workers look into the table then.
        let _ = self.ids.try_send(id);
    }

    /// Pushes what waits, within a second, and ends the task once every clone is gone.
    pub async fn close(self) {
        let Self { ids, task } = self;
        drop(ids);
        let task = task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && tokio::time::timeout(FLUSH, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

async fn run(queue: Queue, mut waiting: mpsc::Receiver<RequestId>) {
    let mut link = Link::new("notifier");
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        match push(&queue, &batch).await {
            Ok(()) => link.up(),
            Err(error) => link.down(&error).await,
        }
        batch.clear();
    }
}

async fn push(queue: &Queue, ids: &[RequestId]) -> Result<(), QueueError> {
    let mut connection = queue.pool.get().await?;
    let mut pipeline = redis::Pipeline::with_capacity(ids.len());
    for id in ids {
        pipeline
            .cmd("XADD")
            .arg(&queue.key)
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
