//! What only a database on a `PostgreSQL` server has: the server can be down, and hosts share it.

use std::{sync::Arc, time::Duration};

use storm_shared::{
    config::Settings,
    models::{RequestId, Status},
    services::store::Store,
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    faketime,
    postgres_proxy::Proxy,
    postgres_server::{PostgresServer, until},
    process::WorkerProcess,
    program_database::folder_at,
    receiver::Receiver,
    rows::{self, Rows as _},
    table::{LEASE, Table},
};

/// The id of the request in a callback.
fn id_in(body: &[u8]) -> RequestId {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    body["request_id"].as_str().unwrap().parse().unwrap()
}

/// The store of another API.
async fn another(server: &PostgresServer) -> Store {
    let url = server.url();
    let settings = Settings::with([("DB_URL", url.as_str())]).unwrap();
    Store::open(&settings.store).await.unwrap()
}

#[tokio::test]
async fn a_worker_waits_for_a_server_that_is_down_at_its_start_and_recovers() {
    let server = PostgresServer::start(&[]);
    let table = Table::of(folder_at(server.url())).await;
    let id = table.accept(1, None).await;
    server.stop("fast");
    let worker = table.worker(&[]);
    worker.logs("can't be opened yet").await;
    let starting = worker.get("/readyz").await.unwrap();
    assert!(starting.starts_with("HTTP/1.1 503"), "{starting}");
    assert_eq!(worker.healthcheck().await, Some(1));
    server.begin();
    worker.until_shown("/readyz", "HTTP/1.1 200").await;
    assert_eq!(table.ended(id).await.status, Status::Completed);

    server.stop("immediate");
    worker
        .until_shown("/readyz", r#""database":"unreachable""#)
        .await;
    worker.until_shown("/readyz", "HTTP/1.1 503").await;
    server.begin();
    worker.until_shown("/readyz", "HTTP/1.1 200").await;
    let next = table.accept(1, None).await;
    assert_eq!(table.ended(next).await.status, Status::Completed);
    worker.signal("TERM");
    assert!(worker.ended().await.success());
}

#[tokio::test]
async fn a_worker_without_its_server_ends_at_sigterm_and_its_jobs_go_on_elsewhere() {
    let server = PostgresServer::start(&[]);
    let table = Table::of(folder_at(server.url())).await;
    let worker = table.worker(&[("DRAIN_TIMEOUT", "100ms")]);
    let id = table.accept(300, None).await;
    table
        .row_when(id, |row| row.status == Status::Processing)
        .await;
    server.stop("immediate");
    worker.signal("TERM");
    assert!(worker.ended().await.success());
    server.begin();
    let _other = table.worker(&[]);
    let row = table.ended(id).await;
    assert_eq!((row.status, row.lost_claims), (Status::Completed, 1));
}

/// Ends a process whose server hangs, before its supervisor would kill it: that is 10 seconds after
/// `DRAIN_TIMEOUT`. A single statement may take 20.
async fn ends_in_time(process: WorkerProcess) {
    let begun = Instant::now();
    process.signal("TERM");
    assert!(process.ended().await.success());
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn at_sigterm_processes_whose_server_hangs_end_before_their_supervisor_kills_them() {
    let server = PostgresServer::start(&[]);
    let proxy = Proxy::to(server.address()).await;
    let behind = folder_at(format!("postgres://storm@{}/postgres", proxy.address()));
    let short = ("DRAIN_TIMEOUT", "100ms");
    let table = Table::of(folder_at(server.url())).await;
    let worker = WorkerProcess::start(behind.path(), &[LEASE, short]);
    let api = WorkerProcess::start_api(behind.path(), &[short]);
    api.until_shown("/readyz", "HTTP/1.1 200").await;
    let id = table.accept(300, None).await;
    table
        .row_when(id, |row| row.status == Status::Processing)
        .await;
    proxy.freeze();
    // Its searches and heartbeats wait by now, and so does a submission.
    let beats =
        "SELECT coalesce(extract(epoch FROM clock_timestamp() - max(renewed_at))::bigint, 0)
        FROM workers";
    until(async || server.number(beats).await >= 2).await;
    let body = r#"{"records": 1, "report_name": "hangs"}"#;
    let submitted = api.send("POST", "/async", body);
    let ended = async {
        api.until_shown("/readyz", r#""database":"unreachable""#)
            .await;
    };
    tokio::select! {
        answer = submitted => panic!("{answer:?}"),
        () = ended => {}
    }
    tokio::join!(ends_in_time(worker), ends_in_time(api));
    let _other = table.worker(&[]);
    let row = table.ended(id).await;
    assert_eq!((row.status, row.lost_claims), (Status::Completed, 1));
}

#[tokio::test]
async fn the_jobs_of_two_apis_are_each_delivered_once_by_two_workers() {
    const JOBS: usize = 200;
    let server = PostgresServer::start(&[]);
    let table = Table::of(folder_at(server.url())).await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let workers = [table.worker(&[]), table.worker(&[])];
    let other = another(&server).await;
    let accept = async |store: &Store| {
        let mut ids = Vec::new();
        for _ in 0..JOBS {
            ids.push(rows::accept(store, 1, Some(receiver.url())).await);
        }
        ids
    };
    let (one, two) = tokio::join!(accept(&table.store), accept(&other));
    let mut accepted = [one, two].concat();
    for id in &accepted {
        let row = table.ended(*id).await;
        assert_eq!((row.status, row.claims), (Status::Completed, 1));
    }
    let mut called: Vec<_> = receiver.more().iter().map(|body| id_in(body)).collect();
    accepted.sort();
    called.sort();
    assert_eq!(called, accepted, "each once");
    for worker in workers {
        worker.signal("TERM");
        assert!(worker.ended().await.success());
    }
}

#[tokio::test]
async fn a_crash_and_a_restart_of_the_server_under_load_lose_no_job() {
    const JOBS: usize = 300;
    let server = Arc::new(PostgresServer::start(&[]));
    let table = Table::of(folder_at(server.url())).await;
    let receiver = Receiver::answering(|_, _| 200).await;
    let workers = [table.worker(&[]), table.worker(&[])];
    let mut accepted = Vec::new();
    for _ in 0..JOBS {
        accepted.push(table.accept(20, Some(receiver.url())).await);
    }
    for mode in ["immediate", "fast"] {
        let server = Arc::clone(&server);
        // In a thread: the receiver answers meanwhile.
        let restart = spawn_blocking(move || {
            server.stop(mode);
            server.begin();
        });
        restart.await.unwrap();
        for _ in 0..20 {
            accepted.push(until_accepted(&table, &receiver).await);
        }
    }
    for id in accepted {
        let row = until_ended(&table, id).await;
        assert_eq!(row, Status::Completed);
    }
    for worker in workers {
        worker.signal("TERM");
        assert!(worker.ended().await.success());
    }
}

/// Accepts a job, under one id however often the server fails meanwhile.
async fn until_accepted(table: &Table, receiver: &Receiver) -> RequestId {
    use storm_shared::{models::CallbackUrl, services::store::NewJob};

    let url = CallbackUrl::parse(&receiver.url()).unwrap();
    let job = NewJob::new(RequestId::generate(), rows::spec(20), Some(url));
    while table.store.accept(job.clone()).await.is_err() {
        sleep(Duration::from_millis(20)).await;
    }
    job.id
}

/// Polls until the job has ended, also while the server fails.
async fn until_ended(table: &Table, id: RequestId) -> Status {
    loop {
        if let Ok(Some(row)) = table.store.find(id).await
            && matches!(row.status, Status::Completed | Status::Failed)
        {
            return row.status;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_worker_whose_connections_are_cut_again_and_again_ends_every_job() {
    let server = PostgresServer::start(&[]);
    let table = Table::of(folder_at(server.url())).await;
    let receiver = Receiver::answering(|_, _| 200).await;
    let worker = WorkerProcess::start(table.folder.path(), &[LEASE]);
    let mut accepted = Vec::new();
    for _ in 0..10 {
        for _ in 0..10 {
            accepted.push(until_accepted(&table, &receiver).await);
        }
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name = 'request-storm-handler'";
        server.execute(end).await;
    }
    for id in accepted {
        assert_eq!(until_ended(&table, id).await, Status::Completed);
    }
    worker.signal("TERM");
    assert!(worker.ended().await.success());
}

/// A worker on a server whose clock is set, the server, and a job that runs longer than a lease.
async fn while_a_job_runs(says: &str) -> Option<(PostgresServer, Table, WorkerProcess)> {
    let server = PostgresServer::start_with_clock(faketime::library()?);
    let table = Table::of(folder_at(server.url())).await;
    let worker = table.worker(&[("CALLBACK_RETRY_DELAYS", "1h")]);
    let id = table.accept(300, None).await;
    table
        .row_when(id, |row| row.status == Status::Processing)
        .await;
    server.set_clock(says);
    let row = table.ended(id).await;
    assert_eq!((row.status, row.lost_claims), (Status::Completed, 0));
    Some((server, table, worker))
}

#[tokio::test]
async fn setting_the_servers_clock_back_expires_no_lease_and_new_jobs_run_at_once() {
    let Some((_server, table, _worker)) = while_a_job_runs("-3d").await else {
        return;
    };
    let next = table.accept(1, None).await;
    assert_eq!(table.ended(next).await.status, Status::Completed);
}

#[tokio::test]
async fn setting_the_servers_clock_forward_expires_no_lease_and_makes_retries_due() {
    let Some((server, table, _worker)) = while_a_job_runs("+0").await else {
        return;
    };
    let receiver = Receiver::answering(|nth, _| if nth == 0 { 500 } else { 200 }).await;
    let id = table.accept(1, Some(receiver.url())).await;
    let running = table.accept(300, None).await;
    table.row_when(id, |row| row.attempts.len() == 1).await;
    table
        .row_when(running, |row| row.status == Status::Processing)
        .await;
    server.set_clock("+3d");
    for id in [id, running] {
        let row = table.ended(id).await;
        assert_eq!((row.status, row.lost_claims), (Status::Completed, 0));
    }
}
