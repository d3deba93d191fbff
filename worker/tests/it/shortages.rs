//! A worker that lacks what an attempt needs: its jobs wait, and receivers are not blamed.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::BoxFuture;
use hyper::StatusCode;
use storm_shared::models::{CallbackUrl, Status};
use storm_worker::delivery::{
    AttemptError, ConnectionPermit, Message, Resends, Shortage, SystemResolver, Transport,
};
use tokio::sync::Semaphore;

use crate::{
    line::Started, process::WorkerProcess, receiver::Receiver, rows::Rows as _, stack::Stack,
    table::Table,
};

#[tokio::test]
async fn a_worker_without_descriptors_parks_its_jobs_and_spends_no_attempt() {
    const JOBS: usize = 200;
    let table = Table::new().await;
    let release = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&release);
    // No answer until the worker has run out of descriptors.
    let mut receiver = Receiver::answering_when(move |_, _| {
        let gate = Arc::clone(&gate);
        async move {
            drop(gate.acquire().await);
            200
        }
    })
    .await;
    let limits = [("DRAIN_TIMEOUT", "1ms"), ("CALLBACK_TIMEOUT", "1h")];
    let worker = WorkerProcess::start(table.folder.path(), &limits);
    worker.logs("registered").await;
    // Not at its start, when it would lower its bounds to the limit.
    worker.limit_descriptors(64);
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        ids.push(table.accept(1, Some(receiver.url())).await);
    }
    worker.logs("no file descriptor is free").await;
    release.add_permits(Semaphore::MAX_PERMITS);
    for id in ids {
        let row = table.ended(id).await;
        assert_eq!((row.status, row.attempts.len()), (Status::Completed, 1));
        assert!(row.events.is_empty(), "{:?}", row.events);
    }
    assert_eq!(receiver.more().len(), JOBS);
    let metrics = worker.get("/metrics").await.unwrap();
    assert!(
        metrics.contains("parked_jobs_total{why=\"no_descriptor\"}"),
        "{metrics}"
    );
    assert!(metrics.contains("open_breakers 0"), "{metrics}");
    let log = worker.log();
    let told = log.matches("no file descriptor is free").count();
    assert_eq!(told, 1, "once, however many jobs meet it:\n{log}");
}

/// Lacks something until it is set free.
struct Lacks {
    shortage: Shortage,
    free: Arc<AtomicBool>,
}

impl Transport for Lacks {
    fn attempt<'a>(
        &'a self,
        _permit: ConnectionPermit,
        _url: &'a CallbackUrl,
        _message: &'a Message,
        _resends: &'a dyn Resends,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>> {
        let is_free = self.free.load(Ordering::SeqCst);
        let lacking = AttemptError::Shortage(self.shortage);
        Box::pin(async move {
            if is_free {
                Ok(StatusCode::OK)
            } else {
                Err(lacking)
            }
        })
    }
}

#[tokio::test]
async fn no_shortage_spends_an_attempt_however_long_it_lasts() {
    for shortage in Shortage::ALL {
        let free = Arc::<AtomicBool>::default();
        let transport = Lacks {
            shortage,
            free: Arc::clone(&free),
        };
        // The budget of parking is used up at once, and no retry is left.
        let job = Started::with(
            transport,
            &[("CALLBACK_PARK_MAX", "1ms"), ("CALLBACK_RETRY_DELAYS", "")],
        )
        .await;
        let parked = job.row_when(job.id, |row| row.parks >= 2).await;
        assert!(parked.attempts.is_empty(), "{shortage}");
        free.store(true, Ordering::SeqCst);
        let row = job.ended(job.id).await;
        assert_eq!((row.status, row.attempts.len()), (Status::Completed, 1));
    }
}

#[tokio::test]
async fn a_look_up_that_fails_for_want_of_descriptors_is_no_failed_attempt() {
    let lacking = Arc::new(AtomicBool::new(true));
    let lacks = Arc::clone(&lacking);
    let names = SystemResolver::with(move |_| {
        if lacks.load(Ordering::SeqCst) {
            let code = rustix::io::Errno::MFILE.raw_os_error();
            return Err(io::Error::other(io::Error::from_raw_os_error(code)));
        }
        Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
    });
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::with_names(names, &[("CALLBACK_RETRY_DELAYS", "")]).await;
    let url = receiver.url().replace("127.0.0.1", "receiver.test");
    let id = stack.accept(1, Some(url)).await;
    let parked = stack.row_when(id, |row| row.parks > 0).await;
    assert!(parked.attempts.is_empty());
    lacking.store(false, Ordering::SeqCst);
    let row = stack.ended(id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Completed, 1));
    assert_eq!(receiver.more().len(), 1);
    stack.stop().await;
}
