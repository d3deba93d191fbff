//! Isolation: a failing receiver does not delay the others.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering},
        mpsc,
    },
};

use storm_shared::models::{Request, RequestId, Status};
use storm_worker::delivery::SystemResolver;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    receiver::Receiver,
    rows::Rows as _,
    stack::{NO_DRAIN, NO_TIMEOUT, Stack},
};

/// Resolves every name to 127.0.0.1. The look-up of `hangs.test` lasts until the sender is dropped.
fn names() -> (SystemResolver, mpsc::Sender<()>) {
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let resolver = SystemResolver::with(move |name| {
        if name == "hangs.test" {
            let _ = released.lock().unwrap().recv();
        }
        Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
    });
    (resolver, release)
}

async fn rows(stack: &Stack, ids: &[RequestId]) -> Vec<Request> {
    let mut rows = Vec::with_capacity(ids.len());
    for id in ids {
        rows.push(stack.find(*id).await);
    }
    rows
}

#[tokio::test]
async fn nine_receivers_get_every_callback_while_the_tenth_and_its_name_server_hang() {
    let (names, release) = names();
    let small = [("WORKER_CONCURRENCY", "100"), ("CALLBACK_PER_ORIGIN", "8")];
    let stack = Stack::with_names(names, &[&small[..], &[NO_TIMEOUT, NO_DRAIN]].concat()).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap();
    let hanging = [
        format!("http://{silent}/"),
        format!("http://hangs.test:{}/", silent.port()),
    ];
    let mut receivers = Vec::new();
    for _ in 0..9 {
        receivers.push(Receiver::answering(|_, _| 200).await);
    }
    // Two hanging jobs for each good one: many more than there are slots.
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        for (number, receiver) in receivers.iter().enumerate() {
            let url = receiver
                .url()
                .replace("127.0.0.1", &format!("good-{number}.test"));
            for url in &hanging {
                bad.push(stack.accept(1, Some(url.clone())).await);
            }
            good.push(stack.accept(1, Some(url)).await);
        }
    }
    for id in &good {
        assert_eq!(stack.ended(*id).await.status, Status::Completed);
    }
    for receiver in &mut receivers {
        assert_eq!(receiver.more().len(), 20);
    }
    let bad = rows(&stack, &bad).await;
    assert!(
        bad.iter().all(|row| row.attempts.is_empty()),
        "a hanging attempt is not spent"
    );
    drop(release);
    stack.stop().await;
}

#[tokio::test]
async fn without_a_free_look_up_thread_a_job_spends_no_attempt_and_is_retried() {
    let (release, released) = mpsc::channel::<()>();
    let (released, hanging) = (Mutex::new(released), Arc::<AtomicUsize>::default());
    let under_way = Arc::clone(&hanging);
    let names = SystemResolver::with(move |name| {
        if name.contains(".hangs-") {
            under_way.fetch_add(1, Ordering::SeqCst);
            let _ = released.lock().unwrap().recv();
        }
        Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
    });
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::with_names(names, &[NO_TIMEOUT]).await;
    let url = |host: &str| Some(receiver.url().replace("127.0.0.1", host));
    let mut ids = Vec::new();
    // One domain can hold only a share of the look-up threads, so several are needed.
    for domain in 0..8 {
        for name in 0..SystemResolver::MAX_OF_A_DOMAIN {
            let host = format!("n{name}.hangs-{domain}.test");
            ids.push(stack.accept(1, url(&host)).await);
        }
    }
    while hanging.load(Ordering::SeqCst) < SystemResolver::MAX_LOOKUPS {
        tokio::task::yield_now().await;
    }
    let honest = stack.accept(1, url("honest.example")).await;
    let parked = stack.row_when(honest, |row| row.parks > 1).await;
    assert!(parked.attempts.is_empty());
    drop(release);
    ids.push(honest);
    for id in &ids {
        let row = stack.ended(*id).await;
        assert_eq!((row.status, row.attempts.len()), (Status::Completed, 1));
    }
    assert_eq!(receiver.more().len(), ids.len());
    stack.stop().await;
}

#[tokio::test]
async fn parked_jobs_spend_no_attempt_and_resume_when_the_receiver_recovers() {
    const JOBS: usize = 150;
    let status = Arc::new(AtomicU16::new(503));
    let answer = Arc::clone(&status);
    let mut receiver = Receiver::answering(move |_, _| answer.load(Ordering::SeqCst)).await;
    let stack = Stack::without_redis(&[
        ("CALLBACK_PER_ORIGIN", "1"),
        ("CALLBACK_RETRY_DELAYS", "1h"),
        NO_DRAIN,
    ])
    .await;
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        ids.push(stack.accept(1, Some(receiver.url())).await);
    }
    // After a hundred consecutive failures the circuit opens, and the other jobs are parked.
    for id in &ids {
        stack
            .row_when(*id, |row| {
                !row.attempts.is_empty() || row.parked_since.is_some()
            })
            .await;
    }
    let parked = rows(&stack, &ids).await.into_iter();
    let parked: Vec<_> = parked.filter(|row| row.parked_since.is_some()).collect();
    assert!(parked.len() >= JOBS - 110, "{}", parked.len());
    assert!(parked.iter().all(|row| row.attempts.is_empty()));

    status.store(200, Ordering::SeqCst);
    for row in parked {
        let row = stack.row_when(row.id, |row| !row.attempts.is_empty()).await;
        // A few may have been probes before the recovery.
        assert_eq!(row.attempts.len(), 1);
    }
    assert_eq!(receiver.more().len(), JOBS);
    stack.stop().await;
}

#[tokio::test]
async fn every_job_of_a_receiver_that_never_recovers_ends() {
    const JOBS: usize = 120;
    let mut receiver = Receiver::answering(|_, _| 500).await;
    let stack = Stack::without_redis(&[
        ("CALLBACK_PER_ORIGIN", "1"),
        ("CALLBACK_RETRY_DELAYS", ""),
        ("CALLBACK_PARK_MAX", "100ms"),
    ])
    .await;
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        ids.push(stack.accept(1, Some(receiver.url())).await);
    }
    let mut parks = 0;
    for id in ids {
        let row = stack.ended(id).await;
        assert_eq!((row.status, row.attempts.len()), (Status::Failed, 1));
        assert_eq!(row.parked_since, None);
        parks += row.parks;
    }
    assert!(parks > 0);
    assert_eq!(receiver.more().len(), JOBS);
    stack.stop().await;
}

/// Sends a response head without its body, and reports the number of open connections.
async fn withholding(listener: TcpListener, open: Arc<AtomicUsize>, most: Arc<AtomicUsize>) {
    while let Ok((mut connection, _)) = listener.accept().await {
        let (open, most) = (Arc::clone(&open), Arc::clone(&most));
        tokio::spawn(async move {
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let mut request = [0; 4096];
            let _ = connection.read(&mut request).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
            connection.write_all(head).await.unwrap();
            // Wait until the worker closes the connection.
            while connection
                .read(&mut request)
                .await
                .is_ok_and(|read| read > 0)
            {}
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

#[tokio::test]
async fn connections_to_an_origin_never_exceed_its_concurrency_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (open, most) = (Arc::default(), Arc::<AtomicUsize>::default());
    let receiver = tokio::spawn(withholding(listener, open, Arc::clone(&most)));
    let stack = Stack::without_redis(&[("CALLBACK_PER_ORIGIN", "3"), NO_DRAIN]).await;
    let mut ids = Vec::new();
    for _ in 0..9 {
        ids.push(stack.accept(1, Some(url.clone())).await);
    }
    for id in ids {
        assert_eq!(stack.ended(id).await.status, Status::Completed);
    }
    let most = most.load(Ordering::SeqCst);
    assert!(
        most <= 2 * 3,
        "{most}: three in use, and three being closed"
    );
    stack.stop().await;
    receiver.abort();
}
