//! Two APIs and two workers on one server, as on two hosts: all of them do the work, and the death
//! of a worker loses none.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use storm_shared::models::{Event, EventKind, RequestId, Status};
use tokio::sync::watch;

use crate::{
    postgres_server::{PostgresServer, until},
    process::WorkerProcess,
    program_database::folder_at,
    receiver::Receiver,
    redis_server::RedisServer,
    rows::Rows as _,
    table::Table,
};

/// Jobs of each API in each round: more than one worker may hold.
const JOBS: usize = 25;

/// So that both workers have to take some.
const SLOTS: (&str, &str) = ("WORKER_CONCURRENCY", "8");

/// How many workers hold jobs.
const HOLDERS: &str = "SELECT count(DISTINCT owner) FROM requests WHERE status = 'PROCESSING'";

/// The JSON of an answer with this status.
fn json_of(answer: &str, status: u16) -> Value {
    let begin = format!("HTTP/1.1 {status} ");
    assert!(answer.starts_with(&begin), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// Submits jobs to each API in turn. Returns the ids that each has accepted.
async fn submit(apis: &[WorkerProcess; 2], receiver: &Receiver) -> [Vec<RequestId>; 2] {
    let mut ids = [Vec::new(), Vec::new()];
    for number in 0..JOBS {
        for (api, ids) in apis.iter().zip(&mut ids) {
            let name = format!("job {number}");
            let job = json!({"records": 1, "report_name": name, "callback_url": receiver.url()});
            let answer = api.send("POST", "/async", &job.to_string()).await.unwrap();
            let id = json_of(&answer, 202)["request_id"].take();
            ids.push(id.as_str().unwrap().parse().unwrap());
        }
    }
    ids
}

/// How many jobs a worker has ended, each by a callback.
async fn completed(worker: &WorkerProcess) -> u64 {
    let metrics = worker.get("/metrics").await.unwrap();
    let name = r#"storm_worker_ended_jobs_total{outcome="completed"} "#;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0, |value| value.parse().unwrap())
}

/// How often each job was called back.
fn calls(receiver: &mut Receiver) -> BTreeMap<RequestId, usize> {
    let mut calls = BTreeMap::new();
    for body in receiver.more() {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let id = body["request_id"].as_str().unwrap().parse().unwrap();
        *calls.entry(id).or_default() += 1;
    }
    calls
}

/// Waits for the end of all jobs. Each must be called back, and more than once only if a claim on
/// it was lost. Returns those jobs.
async fn delivered(
    table: &Table,
    receiver: &mut Receiver,
    jobs: &[Vec<RequestId>; 2],
) -> BTreeSet<RequestId> {
    let mut lost = BTreeSet::new();
    for id in jobs.iter().flatten() {
        let row = table.ended(*id).await;
        assert_eq!(row.status, Status::Completed, "{row:?}");
        let is_lost = |event: &Event| event.event == EventKind::ClaimLost;
        lost.extend(row.events.iter().any(is_lost).then_some(*id));
    }
    let called = calls(receiver);
    let all: BTreeSet<_> = jobs.iter().flatten().copied().collect();
    assert!(called.keys().eq(&all), "{called:?}");
    let repeated = called.iter().filter(|(_, times)| **times > 1);
    let unexplained: Vec<_> = repeated.filter(|(id, _)| !lost.contains(id)).collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
    lost
}

#[tokio::test]
async fn two_apis_and_two_workers_share_the_work_and_a_killed_workers_jobs_go_on() {
    let (server, redis) = (PostgresServer::start(&[]), RedisServer::start());
    let table = Table::of(folder_at(server.url())).await;
    // Answers are held until both workers have jobs.
    let (answers, may_answer) = watch::channel(false);
    let mut receiver = Receiver::answering_when(move |_, _| {
        let mut may_answer = may_answer.clone();
        async move {
            let _ = may_answer.wait_for(|may| *may).await;
            200
        }
    })
    .await;
    let url = redis.url();
    let settings = [
        SLOTS,
        ("REDIS_URL", url.as_str()),
        ("CALLBACK_TIMEOUT", "10m"),
    ];
    let [one, other] = [table.worker(&settings), table.worker(&settings)];
    let api = || WorkerProcess::start_api(table.folder.path(), &settings[1..2]);
    let apis = [api(), api()];
    for api in &apis {
        api.until_shown("/readyz", "HTTP/1.1 200").await;
    }

    let first = submit(&apis, &receiver).await;
    until(async || server.number(HOLDERS).await == 2).await;
    answers.send(true).unwrap();
    delivered(&table, &mut receiver, &first).await;
    // The API that has not accepted a job knows it, too.
    for (at, ids) in first.iter().enumerate() {
        for id in ids {
            let shown = apis[1 - at].get(&format!("/requests/{id}")).await;
            assert_eq!(json_of(&shown.unwrap(), 200)["status"], "COMPLETED");
        }
    }
    let ended = async || [completed(&one).await, completed(&other).await];
    until(async || ended().await.iter().sum::<u64>() == 2 * JOBS as u64).await;
    assert!(
        ended().await.iter().all(|jobs| *jobs > 0),
        "both have worked"
    );

    answers.send(false).unwrap();
    let second = submit(&apis, &receiver).await;
    until(async || server.number(HOLDERS).await == 2).await;
    one.signal("KILL");
    answers.send(true).unwrap();
    let lost = delivered(&table, &mut receiver, &second).await;
    assert!(!lost.is_empty(), "the killed worker held jobs");
    for process in apis.into_iter().chain([other]) {
        process.signal("TERM");
        assert!(process.ended().await.success());
    }
}
